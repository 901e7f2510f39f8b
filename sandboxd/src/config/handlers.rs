//! Handlers: which runtime makes a pod, in which order.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Config;
use crate::pod::model::FlowKind;

/// The default handler: the native runtime, user namespace first.
pub const NATIVE: &str = "native";
/// The handler that reproduces the old order; its flow cannot be changed.
pub const NETWORK_FIRST: &str = "network-first";
/// OCI runtimes that become handlers of their own name where they are found.
const KNOWN_OCI: [&str; 2] = ["runc", "crun"];

/// `[handlers.NAME]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Handler {
    pub runtime: RuntimeKind,
    /// The OCI runtime's binary, absolute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    #[serde(default)]
    pub flow: FlowKind,
}

/// What makes the containers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKind {
    /// `sandboxd-shim` itself.
    Native,
    /// An OCI runtime's command line.
    Oci,
}

impl Config {
    /// Every handler by name: those configured, `native` and `network-first`, and the OCI runtimes on
    /// this machine's PATH.
    #[must_use]
    pub fn handlers(&self) -> BTreeMap<String, Handler> {
        let mut all = self.configured_handlers.clone();
        let native = |flow| Handler { runtime: RuntimeKind::Native, path: None, flow };
        all.entry(NATIVE.to_owned()).or_insert_with(|| native(FlowKind::RuntimeFirst));
        all.entry(NETWORK_FIRST.to_owned()).or_insert_with(|| native(FlowKind::NetworkFirst));
        for name in KNOWN_OCI {
            if let Some(path) = find_on_path(name) {
                let handler =
                    Handler { runtime: RuntimeKind::Oci, path: Some(path), flow: FlowKind::RuntimeFirst };
                all.entry(name.to_owned()).or_insert(handler);
            }
        }
        all
    }
}

/// A binary on the PATH, or where a service's bare PATH does not look.
pub(super) fn find_on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok() && file.is_file())
}
