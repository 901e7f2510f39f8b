//! Who the pod is: metadata, host name, labels and annotations.

use std::collections::{BTreeMap, HashMap};

use sandboxd_api::cri;

use super::{Host, Invalid, Why, text};
use crate::pod::spec::{Metadata, NetworkMode};

/// A DNS subdomain, the longest name Kubernetes gives anything.
const NAME_MAX: usize = 253;
/// `__NEW_UTS_LEN`.
const HOSTNAME_MAX: usize = 64;
/// All keys and values of a map together. Kubernetes allows 256 KiB of annotations.
const PAIRS_MAX: usize = 1 << 20;

pub(super) fn metadata(metadata: Option<cri::PodSandboxMetadata>) -> Result<Metadata, Invalid> {
    let Some(m) = metadata else {
        return Err(Invalid::new("config.metadata", "", Why::Missing));
    };
    for (field, value) in [
        ("config.metadata.name", &m.name),
        ("config.metadata.uid", &m.uid),
        ("config.metadata.namespace", &m.namespace),
    ] {
        // Without a uid a pod is still told from others by its name.
        if value.is_empty() && field != "config.metadata.uid" {
            return Err(Invalid::new(field, value, Why::Missing));
        }
        text(field, value, NAME_MAX)?;
        // They become K8S_POD_NAME=…;K8S_POD_NAMESPACE=… in the plugins' environment.
        if value.contains([';', '=']) {
            return Err(Invalid::new(field, value, Why::CniSeparator));
        }
    }
    Ok(Metadata { name: m.name, uid: m.uid, namespace: m.namespace, attempt: m.attempt })
}

pub(super) fn hostname(value: String, network: NetworkMode, host: &Host) -> Result<String, Invalid> {
    const FIELD: &str = "config.hostname";
    if value.is_empty() {
        return Ok(value);
    }
    if value.len() > HOSTNAME_MAX {
        return Err(Invalid::new(FIELD, value, Why::HostnameLength));
    }
    if !value.split('.').all(is_label) {
        return Err(Invalid::new(FIELD, value, Why::HostnameForm));
    }
    if network == NetworkMode::Node && value != host.hostname {
        return Err(Invalid::new(FIELD, value, Why::HostnameOnNode));
    }
    Ok(value)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        // Linux takes an underscore, and so do pods made by hand.
        && label.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// Labels and annotations are the caller's own: kept byte for byte, only their sum is bounded.
pub(super) fn pairs(
    field: &str,
    pairs: HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Invalid> {
    let bytes: usize = pairs.iter().map(|(k, v)| k.len() + v.len()).sum();
    if bytes > PAIRS_MAX {
        return Err(Invalid::new(field, format_args!("{bytes} bytes"), Why::TooLong { max: PAIRS_MAX }));
    }
    Ok(pairs.into_iter().collect())
}
