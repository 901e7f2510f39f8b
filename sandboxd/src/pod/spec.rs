//! What a `PodSandboxConfig` asks for, validated: every value here can be carried out.
//!
//! `cri::validate` makes it; the flow, the runtime and the network read it; the journal keeps it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A validated pod request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodSpec {
    pub metadata: Metadata,
    /// Empty: the host's name (pods on the host's network) or the runtime's default, the pod's name.
    pub hostname: String,
    pub log_directory: Option<PathBuf>,
    pub dns: Dns,
    pub port_mappings: Vec<PortMapping>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The handler's name in the configuration; the default handler's for an empty `runtime_handler`.
    pub handler: String,
    /// `runtime_handler` as the caller wrote it, for PodSandboxStatus.
    pub runtime_handler: String,
    /// cgroupfs path ("/kubepods/burstable/pod…") or systemd slice ("kubepods-….slice"); empty: the default.
    pub cgroup_parent: String,
    pub sysctls: BTreeMap<String, String>,
    pub resources: Resources,
    pub overhead: Resources,
    pub namespaces: Namespaces,
    pub security: Security,
}

/// `PodSandboxMetadata`; the four together are the pod's reserved name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    pub name: String,
    pub uid: String,
    pub namespace: String,
    pub attempt: u32,
}

/// `DNSConfig`. All empty: the host's resolv.conf.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// A port of the node that leads into the pod (the portmap plugin's work).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

/// A transport protocol of a [`PortMapping`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

/// Which namespaces the pod has of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    pub network: NetworkMode,
    pub pid: PidMode,
    pub ipc: IpcMode,
    /// `None`: the host's user namespace.
    pub user: Option<IdMappings>,
}

/// Network namespace: the pod's own, or the node's. (CRI: POD, NODE; CONTAINER and TARGET are refused.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    Pod,
    Node,
}

/// PID namespace. `Container` gives the infra container one of its own too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// Shared by all containers of the pod; the infra container is its PID 1.
    Pod,
    /// One for each container.
    Container,
    Node,
}

/// IPC namespace (with it /dev/shm).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum IpcMode {
    Pod,
    Node,
}

/// The id mappings of a pod's user namespace (user_namespaces(7)). Never empty, 0 always mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMappings {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

/// One line of a uid_map or gid_map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMap {
    pub container_id: u32,
    pub host_id: u32,
    pub length: u32,
}

impl IdMappings {
    /// The host uid and gid that the pod's root maps to.
    #[must_use]
    pub fn host_root(&self) -> (u32, u32) {
        (to_host(&self.uids, 0).unwrap_or(u32::MAX), to_host(&self.gids, 0).unwrap_or(u32::MAX))
    }

    /// The host gid of a container gid, where mapped.
    #[must_use]
    pub fn host_gid(&self, gid: u32) -> Option<u32> {
        to_host(&self.gids, gid)
    }

    /// The host uid of a container uid, where mapped.
    #[must_use]
    pub fn host_uid(&self, uid: u32) -> Option<u32> {
        to_host(&self.uids, uid)
    }
}

fn to_host(maps: &[IdMap], id: u32) -> Option<u32> {
    maps.iter().find_map(|m| {
        let offset = id.checked_sub(m.container_id)?;
        (offset < m.length).then(|| m.host_id.checked_add(offset)).flatten()
    })
}

/// Security context of the infra container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    pub run_as_user: Option<u32>,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub readonly_rootfs: bool,
    pub privileged: bool,
    pub seccomp: Seccomp,
}

/// Seccomp profile of the infra container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// A profile file (JSON of the OCI runtime spec's `linux.seccomp`), absolute.
    Localhost(PathBuf),
}

/// `LinuxContainerResources` of a pod. `None`: not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds per period; -1: no limit.
    pub cpu_quota: Option<i64>,
    pub cpu_shares: Option<u64>,
    /// Bytes.
    pub memory_limit: Option<u64>,
    /// Bytes of memory and swap together; -1: no limit.
    pub memory_swap_limit: Option<i64>,
    pub oom_score_adj: Option<i32>,
    pub cpuset_cpus: Option<String>,
    pub cpuset_mems: Option<String>,
    /// Page size ("2MB") to bytes.
    pub hugepage_limits: BTreeMap<String, u64>,
    /// cgroup v2 file name to value.
    pub unified: BTreeMap<String, String>,
}
