//! What plugins are told about a pod beyond their configuration: capability arguments (`runtimeConfig`,
//! CNI's CONVENTIONS.md) and `CNI_ARGS`. A pod that asks for what no plugin declares is refused by name:
//! a host port or a rate limit that silently does nothing is worse than an error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::{Value, json};

use crate::pod::model::PodId;
use crate::pod::spec::{PodSpec, PortMapping, Protocol};

use super::conf::NetworkConfig;
use super::error::NetworkError;
use super::quantity;

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";

/// Bits. As other runtimes set it: effectively no bound on a burst, and what the plugin accepts.
const BURST: u32 = u32::MAX;

/// Bits per second; kubelet's bounds (`pkg/util/bandwidth`).
const RATES: std::ops::RangeInclusive<u64> = 1_000..=1_000_000_000_000_000;

/// The capability arguments of a pod, only those that some plugin of the network declares.
pub(super) fn arguments(
    network: &NetworkConfig,
    spec: &PodSpec,
    pod_cidrs: &[String],
) -> Result<BTreeMap<String, Value>, NetworkError> {
    let mut all = BTreeMap::new();
    if let Some(ports) = port_mappings(network, spec)? {
        all.insert("portMappings", ports);
    }
    if let Some(rates) = bandwidth(network, spec)? {
        all.insert("bandwidth", rates);
    }
    let dns = &spec.dns;
    if !(dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()) {
        let value = json!({"servers": dns.servers, "searches": dns.searches, "options": dns.options});
        all.insert("dns", value);
    }
    if !pod_cidrs.is_empty() {
        // One set of ranges each, so that a pod gets one address of every family.
        let sets = pod_cidrs.iter().map(|cidr| json!([{"subnet": cidr}])).collect();
        all.insert("ipRanges", Value::Array(sets));
    }
    if !spec.annotations.is_empty() {
        all.insert("io.kubernetes.cri.pod-annotations", json!(spec.annotations));
    }
    if !spec.cgroup_parent.is_empty() {
        all.insert("cgroupPath", json!(spec.cgroup_parent));
    }
    all.retain(|name, _| network.declares(name));
    Ok(all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

fn port_mappings(network: &NetworkConfig, spec: &PodSpec) -> Result<Option<Value>, NetworkError> {
    // Host port 0 is kubelet's way of saying that a container port is only documented.
    let mapped: Vec<&PortMapping> = spec.port_mappings.iter().filter(|p| p.host_port != 0).collect();
    if mapped.is_empty() {
        return Ok(None);
    }
    if !network.declares("portMappings") {
        let ports: Vec<String> =
            mapped.iter().map(|p| format!("{}/{}", p.host_port, protocol(p.protocol))).collect();
        return Err(NetworkError::PortMappings {
            ports: ports.join(", "),
            network: network.name.clone(),
            config: network.source.clone(),
        });
    }
    let entries = mapped.iter().map(|p| {
        json!({
            "hostPort": p.host_port,
            "containerPort": p.container_port,
            "protocol": protocol(p.protocol),
            "hostIP": p.host_ip.as_ref().map(IpAddr::to_string).unwrap_or_default(),
        })
    });
    Ok(Some(entries.collect()))
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn bandwidth(network: &NetworkConfig, spec: &PodSpec) -> Result<Option<Value>, NetworkError> {
    let mut rates = serde_json::Map::new();
    for (annotation, direction) in [(INGRESS, "ingress"), (EGRESS, "egress")] {
        let Some(value) = spec.annotations.get(annotation) else { continue };
        if !network.declares("bandwidth") {
            return Err(NetworkError::Bandwidth {
                annotation,
                network: network.name.clone(),
                config: network.source.clone(),
            });
        }
        let rate = quantity::parse(value)
            .filter(|rate| RATES.contains(rate))
            .ok_or_else(|| NetworkError::Quantity { annotation, value: value.clone() })?;
        rates.insert(format!("{direction}Rate"), json!(rate));
        rates.insert(format!("{direction}Burst"), json!(BURST));
    }
    Ok((!rates.is_empty()).then_some(Value::Object(rates)))
}

/// `CNI_ARGS`, with the keys every Kubernetes runtime passes.
pub(super) fn cni_args(pod: &PodId, spec: &PodSpec) -> Result<String, NetworkError> {
    let meta = &spec.metadata;
    let mut args = "IgnoreUnknown=1".to_owned();
    for (key, value) in [
        ("K8S_POD_NAMESPACE", meta.namespace.as_str()),
        ("K8S_POD_NAME", &meta.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.as_str()),
        ("K8S_POD_UID", &meta.uid),
    ] {
        if value.contains([';', '\0']) {
            return Err(NetworkError::CniArg { key, value: value.to_owned() });
        }
        args.push_str(&format!(";{key}={value}"));
    }
    Ok(args)
}
