//! `[console]`: who may use the console's endpoints, and the one on the network.

use std::net::SocketAddr;
use std::path::PathBuf;

use sandboxd_streaming::{MinVersion, Tls};
use serde::{Deserialize, Serialize};

/// `[console]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Console {
    /// Of the console's socket; empty: `socket_group`, else `operator_group`.
    pub socket_group: String,
    pub operator_group: String,
    /// An address and a port, or empty ([`Console::network`]).
    pub address: String,
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    pub client_ca: PathBuf,
    pub operator_organization: String,
}

impl Default for Console {
    fn default() -> Self {
        Self {
            socket_group: String::new(),
            operator_group: String::new(),
            address: String::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            client_ca: PathBuf::new(),
            operator_organization: "sandboxd:operators".to_owned(),
        }
    }
}

impl Console {
    /// Where consoles of other machines connect to, and with which certificates; `None`: nowhere. All of it is
    /// there once the configuration is checked.
    #[must_use]
    pub fn network(&self) -> Option<(SocketAddr, Tls)> {
        Some((self.address.parse().ok()?, self.tls()))
    }

    pub(super) fn tls(&self) -> Tls {
        Tls {
            cert: self.tls_cert.clone(),
            key: self.tls_key.clone(),
            client_ca: Some(self.client_ca.clone()),
            // Both ends are ours.
            min_version: MinVersion::Tls13,
        }
    }
}

impl super::Config {
    /// The group of the console's socket; empty: root alone opens it.
    #[must_use]
    pub fn console_socket_group(&self) -> &str {
        let console = &self.console;
        let groups = [&console.socket_group, &self.socket_group, &console.operator_group];
        groups.into_iter().find(|group| !group.is_empty()).map_or("", String::as_str)
    }
}
