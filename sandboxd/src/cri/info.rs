//! The JSON of verbose answers.

use std::collections::HashMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::NodeReport;
use crate::pod::model::{NamespaceInfo, NsKind, Pod, Step, Sysfs};
use crate::pod::spec::PodSpec;

/// `info` of PodSandboxStatus: under "info", as crictl reads it.
pub fn pod(pod: &Pod) -> HashMap<String, String> {
    let ns: serde_json::Map<_, _> =
        pod.namespaces.iter().map(|n| (n.kind.name().to_owned(), namespace(n))).collect();
    let host_root = pod.spec.namespaces.user.as_ref().map(|user| {
        let (uid, gid) = user.host_root();
        json!({ "uid": uid, "gid": gid })
    });
    let (sysfs, denied) = match &pod.sysfs {
        Sysfs::Unknown => ("unknown", None),
        Sysfs::Mounted => ("mounted", None),
        Sysfs::BindReadOnly => ("bind-read-only", None),
        Sysfs::Denied(why) => ("denied", Some(why)),
    };
    let value = json!({
        "pid": pod.infra_pid,
        "shimPid": pod.shim_pid,
        "namespaces": ns,
        "netnsPath": pod.netns_path,
        "handler": pod.spec.handler,
        "flow": pod.flow.name(),
        "steps": pod.steps.iter().map(step).collect::<Vec<_>>(),
        "cgroup": pod.cgroup,
        "hostRoot": host_root,
        "sysfs": { "state": sysfs, "reason": denied },
        "error": pod.error,
        "config": config(&pod.spec),
        "runtimeSpec": { "linux": { "cgroupsPath": pod.cgroup, "namespaces": runtime_namespaces(pod) } },
    });
    HashMap::from([("info".to_owned(), value.to_string())])
}

/// What kubelet asked for, under the CRI's names.
fn config(spec: &PodSpec) -> Value {
    let of = &spec.metadata;
    let ports = spec.port_mappings.iter().map(|port| {
        json!({ "container_port": port.container_port, "host_port": port.host_port, "host_ip": port.host_ip })
    });
    json!({
        "metadata": { "name": of.name, "uid": of.uid, "namespace": of.namespace, "attempt": of.attempt },
        "hostname": spec.hostname,
        "log_directory": spec.log_directory,
        "dns_config": { "servers": spec.dns.servers, "searches": spec.dns.searches, "options": spec.dns.options },
        "port_mappings": ports.collect::<Vec<_>>(),
        "labels": spec.labels,
        "annotations": spec.annotations,
        "linux": { "cgroup_parent": spec.cgroup_parent, "sysctls": spec.sysctls },
    })
}

/// As an OCI runtime's config.json has them: tools look there for the path of the network namespace.
fn runtime_namespaces(pod: &Pod) -> Vec<Value> {
    let of = pod.namespaces.iter().filter(|n| !n.host).map(|n| {
        let kind = match n.kind {
            NsKind::Net => "network",
            NsKind::Mnt => "mount",
            other => other.name(),
        };
        let of_process = || pod.infra_pid.map(|pid| format!("/proc/{pid}/ns/{}", n.kind.name()).into());
        let path: Option<PathBuf> = match n.kind {
            NsKind::Net => pod.netns_path.clone().or_else(of_process),
            _ => n.pin.clone().or_else(of_process),
        };
        json!({ "type": kind, "path": path })
    });
    of.collect()
}

fn namespace(n: &NamespaceInfo) -> Value {
    json!({
        "inode": n.inode.0,
        "owner": n.owner.map(|o| o.0),
        "host": n.host,
        "pin": n.pin,
    })
}

fn step(s: &Step) -> Value {
    json!({
        "name": s.name.name(),
        "startedAtNs": s.started_at_ns,
        "durationMicros": micros(s.duration),
        "cniMicros": micros(s.cni),
        "error": s.error,
    })
}

fn micros(d: std::time::Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}

/// `info` of Status: a JSON document per subject.
pub fn node(node: &dyn NodeReport) -> HashMap<String, String> {
    let mut info: HashMap<String, String> =
        node.info().into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect();
    let kernel = rustix::system::uname();
    let versions = json!({
        "sandboxd": env!("CARGO_PKG_VERSION"),
        "runtimeApi": super::server::API_VERSION,
        "kernel": kernel.release().to_string_lossy(),
        "machine": kernel.machine().to_string_lossy(),
    });
    info.insert("versions".to_owned(), versions.to_string());
    let status = node.network();
    let network = json!({ "ready": status.ready, "reason": status.reason, "message": status.message });
    info.insert("network".to_owned(), network.to_string());
    let handlers: serde_json::Map<_, _> = node
        .handlers()
        .iter()
        .map(|(name, report)| {
            let value = json!({
                "runtime": report.handler.runtime,
                "path": report.handler.path,
                "flow": report.handler.flow.name(),
                "default": name == node.default_handler(),
                "userNamespaces": report.features.user_namespaces,
                "recursiveReadOnlyMounts": report.features.recursive_read_only_mounts,
            });
            (name.clone(), value)
        })
        .collect();
    info.insert("handlers".to_owned(), Value::from(handlers).to_string());
    info.insert("cgroupDriver".to_owned(), json!(node.cgroup_driver().as_str_name()).to_string());
    info
}
