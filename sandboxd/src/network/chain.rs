//! A network's plugins in their order: ADD forward, DEL backward, the request of each derived from its
//! configuration (CNI specification 1.1.0, section 3).

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

use super::conf::{NetworkConfig, PluginConfig};
use super::error::{NetworkError, excerpt};
use super::exec::{Deadline, Plugins, Target, Verb};
use super::lease::Lease;
use super::result::CniResult;
use super::version::CniVersion;

/// The interface inside the pod: kubelet knows no other.
pub(super) const IFNAME: &str = "eth0";

impl Plugins {
    /// ADD of the whole chain. The last plugin's result is the network's.
    pub(super) async fn add(
        &self,
        lease: &Lease,
        netns: &Path,
        deadline: Deadline,
    ) -> Result<CniResult, NetworkError> {
        let mut last: Option<CniResult> = None;
        for plugin in &lease.network.plugins {
            let input = request(&lease.network, plugin, lease, last.as_ref())?;
            let stdout =
                self.run(&plugin.kind, Verb::Add, target(lease, Some(netns)), &input, deadline).await?;
            last = Some(CniResult::parse(&plugin.kind, &stdout, lease.network.version)?);
        }
        last.ok_or_else(|| NetworkError::NoAddress { network: lease.network.name.clone(), ifname: IFNAME })
    }

    /// DEL of the whole chain; stops at the first plugin that fails, as the specification asks.
    pub(super) async fn del(
        &self,
        lease: &Lease,
        netns: Option<&Path>,
        result: Option<&CniResult>,
        deadline: Deadline,
    ) -> Result<(), NetworkError> {
        let result = result.filter(|_| lease.network.version.del_has_prev_result());
        for plugin in lease.network.plugins.iter().rev() {
            let input = request(&lease.network, plugin, lease, result)?;
            self.run(&plugin.kind, Verb::Del, target(lease, netns), &input, deadline).await?;
        }
        Ok(())
    }

    /// CHECK of the whole chain.
    pub(super) async fn check(
        &self,
        lease: &Lease,
        netns: &Path,
        result: &CniResult,
        deadline: Deadline,
    ) -> Result<(), NetworkError> {
        for plugin in &lease.network.plugins {
            let input = request(&lease.network, plugin, lease, Some(result))?;
            self.run(&plugin.kind, Verb::Check, target(lease, Some(netns)), &input, deadline).await?;
        }
        Ok(())
    }

    /// GC of each plugin: what belongs to none of the valid attachments goes. All plugins are asked, the
    /// first error is returned.
    pub(super) async fn gc(
        &self,
        network: &NetworkConfig,
        valid: &[&str],
        deadline: Deadline,
    ) -> Result<(), NetworkError> {
        let attachments: Vec<_> =
            valid.iter().map(|id| BTreeMap::from([("containerID", *id), ("ifname", IFNAME)])).collect();
        let mut outcome = Ok(());
        for plugin in &network.plugins {
            // Both spellings: libcni writes the second for plugins built against 1.1.0's first draft.
            let extra = ["cni.dev/valid-attachments", "cni.dev/attachments"].map(|k| (k, &attachments));
            let done = match plain_request(network, plugin, &extra) {
                Ok(input) => self.run(&plugin.kind, Verb::Gc, Target::default(), &input, deadline).await,
                Err(error) => Err(error),
            };
            outcome = outcome.and(done.map(drop));
        }
        outcome
    }

    /// STATUS of each plugin: whether it could serve an ADD now.
    pub(super) async fn status(
        &self,
        network: &NetworkConfig,
        deadline: Deadline,
    ) -> Result<(), NetworkError> {
        for plugin in &network.plugins {
            let input = plain_request::<()>(network, plugin, &[])?;
            self.run(&plugin.kind, Verb::Status, Target::default(), &input, deadline).await?;
        }
        Ok(())
    }

    /// The versions a plugin says it speaks.
    pub(super) async fn versions(
        &self,
        plugin: &str,
        deadline: Deadline,
    ) -> Result<Vec<CniVersion>, NetworkError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Answer {
            supported_versions: Vec<String>,
        }
        // libcni sends a version in the input; some plugins insist on it.
        let input = format!(r#"{{"cniVersion":"{}"}}"#, CniVersion::V1_1_0);
        let stdout = self.run(plugin, Verb::Version, Target::default(), input.as_bytes(), deadline).await?;
        let answer: Answer = serde_json::from_slice(&stdout).map_err(|source| NetworkError::BadResult {
            plugin: plugin.to_owned(),
            verb: Verb::Version,
            excerpt: excerpt(&String::from_utf8_lossy(&stdout), 256).to_owned(),
            source,
        })?;
        Ok(answer.supported_versions.iter().filter_map(|v| CniVersion::parse(v)).collect())
    }
}

fn target<'a>(lease: &'a Lease, netns: Option<&'a Path>) -> Target<'a> {
    Target { container_id: lease.pod.as_str(), netns, ifname: IFNAME, args: &lease.args }
}

/// The request of ADD, DEL and CHECK: the plugin's configuration with name, version, previous result and
/// the capability arguments it declares; all else as the file has it.
fn request(
    network: &NetworkConfig,
    plugin: &PluginConfig,
    lease: &Lease,
    result: Option<&CniResult>,
) -> Result<Vec<u8>, NetworkError> {
    let config: BTreeMap<&str, &Value> = lease
        .capabilities
        .iter()
        .filter(|(name, _)| plugin.capabilities.contains(*name))
        .map(|(name, value)| (name.as_str(), value))
        .collect();
    let build = || {
        let mut owned = vec![];
        if !config.is_empty() {
            owned.push(("runtimeConfig", to_raw_value(&config)?));
        }
        encode(network, plugin, &owned, result)
    };
    build().map_err(|source| NetworkError::Request { plugin: plugin.kind.clone(), source })
}

fn plain_request<T: serde::Serialize>(
    network: &NetworkConfig,
    plugin: &PluginConfig,
    extra: &[(&'static str, &T)],
) -> Result<Vec<u8>, NetworkError> {
    let raw: Result<Vec<_>, _> = extra.iter().map(|(k, v)| Ok((*k, to_raw_value(v)?))).collect();
    raw.and_then(|owned| encode(network, plugin, &owned, None))
        .map_err(|source| NetworkError::Request { plugin: plugin.kind.clone(), source })
}

fn encode(
    network: &NetworkConfig,
    plugin: &PluginConfig,
    extra: &[(&'static str, Box<RawValue>)],
    result: Option<&CniResult>,
) -> Result<Vec<u8>, serde_json::Error> {
    let (name, version) = (to_raw_value(&network.name)?, to_raw_value(&network.version)?);
    let mut object: BTreeMap<&str, &RawValue> =
        plugin.object.iter().map(|(k, v)| (k.as_str(), v.as_ref())).collect();
    // The runtime's own keys must not come from the file.
    for key in ["capabilities", "prevResult"] {
        object.remove(key);
    }
    object.insert("name", &name);
    object.insert("cniVersion", &version);
    for (key, value) in extra {
        object.insert(key, value);
    }
    if let Some(result) = result {
        object.insert("prevResult", result.raw());
    }
    serde_json::to_vec(&object)
}
