//! What a pod is made of once it exists.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::spec::PodSpec;
use crate::observer::Explanation;

/// A pod's id: 64 lower-case hex digits, unguessable.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PodId(String);

impl PodId {
    /// A new random id.
    ///
    /// # Errors
    /// When the kernel has no random numbers to give.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0u8; 32];
        getrandom::fill(&mut bytes)?;
        Ok(Self(bytes.iter().map(|b| format!("{b:02x}")).collect()))
    }

    /// An id that came back from disk, or from a test.
    #[must_use]
    pub fn from_string(id: String) -> Self {
        Self(id)
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 13 digits, as tools print ids.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..13).unwrap_or(&self.0)
    }
}

impl fmt::Debug for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The inode of a namespace in nsfs: its name for as long as it lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NsInode(pub u64);

impl fmt::Display for NsInode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The kinds of namespaces (namespaces(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NsKind {
    User,
    Net,
    Mnt,
    Pid,
    Ipc,
    Uts,
    Cgroup,
    Time,
}

impl NsKind {
    pub const ALL: [Self; 8] =
        [Self::User, Self::Net, Self::Mnt, Self::Pid, Self::Ipc, Self::Uts, Self::Cgroup, Self::Time];

    /// The kind with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// The name of its file under /proc/PID/ns.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Net => "net",
            Self::Mnt => "mnt",
            Self::Pid => "pid",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
            Self::Cgroup => "cgroup",
            Self::Time => "time",
        }
    }
}

/// One namespace of a pod and the user namespace that owns it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceInfo {
    pub kind: NsKind,
    pub inode: NsInode,
    /// The owning user namespace (NS_GET_USERNS); the parent (NS_GET_PARENT) for a user namespace.
    /// `None`: outside what the daemon may see.
    pub owner: Option<NsInode>,
    /// The host's own, shared by the pod.
    pub host: bool,
    /// Where it is pinned.
    pub pin: Option<PathBuf>,
}

/// The order in which a handler makes a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlowKind {
    /// The runtime makes all namespaces, user first; then CNI.
    #[default]
    RuntimeFirst,
    /// The network namespace and CNI before the user namespace: the order of containerd issue 6908,
    /// kept to reproduce and explain it.
    NetworkFirst,
}

impl FlowKind {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RuntimeFirst => "runtime-first",
            Self::NetworkFirst => "network-first",
        }
    }
}

/// The steps of the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepName {
    Reserved,
    Configured,
    Created,
    Networked,
    Started,
    Ready,
}

impl StepName {
    /// In the order of [`FlowKind::RuntimeFirst`].
    pub const ALL: [Self; 6] =
        [Self::Reserved, Self::Configured, Self::Created, Self::Networked, Self::Started, Self::Ready];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserved => "Reserved",
            Self::Configured => "Configured",
            Self::Created => "Created",
            Self::Networked => "Networked",
            Self::Started => "Started",
            Self::Ready => "Ready",
        }
    }
}

/// One finished (or failed) step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    pub name: StepName,
    /// Nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    pub duration: Duration,
    /// Of it, in CNI plugins.
    pub cni: Duration,
    pub error: Option<String>,
}

/// How sysfs came into the pod.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Sysfs {
    #[default]
    Unknown,
    /// A sysfs of the pod's own network namespace.
    Mounted,
    /// The host's /sys, read-only.
    BindReadOnly,
    Denied(String),
}

/// Life cycle of a pod as the console shows it; CRI knows only READY and NOTREADY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PodState {
    Creating,
    Ready,
    NotReady,
    Stopping,
    /// RunPodSandbox failed; everything is undone, only the record is kept for a while.
    Failed,
}

/// All that is known of a pod: what the store publishes and readers get as a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    pub id: PodId,
    pub spec: PodSpec,
    pub state: PodState,
    pub flow: FlowKind,
    /// Nanoseconds since the Unix epoch, never 0.
    pub created_at_ns: i64,
    /// The shim's and the infra container's pids in the host's pid namespace, while they live.
    pub shim_pid: Option<i32>,
    pub infra_pid: Option<i32>,
    pub namespaces: Vec<NamespaceInfo>,
    pub netns_path: Option<PathBuf>,
    pub ips: Vec<IpAddr>,
    pub sysfs: Sysfs,
    pub cgroup: String,
    pub steps: Vec<Step>,
    /// Why it is Failed or NotReady.
    pub error: Option<String>,
    /// The words on a denied check behind that error.
    #[serde(skip)]
    pub explanation: Option<Explanation>,
}

impl Pod {
    /// The namespace of a kind.
    #[must_use]
    pub fn namespace(&self, kind: NsKind) -> Option<&NamespaceInfo> {
        self.namespaces.iter().find(|n| n.kind == kind)
    }
}

/// A pod for unit tests.
#[cfg(test)]
pub(crate) fn test_pod(name: &str) -> Pod {
    use super::spec::*;
    let map = vec![IdMap { container_id: 0, host_id: 100_000, length: 65_536 }];
    let spec = PodSpec {
        metadata: Metadata {
            name: name.into(),
            uid: format!("uid-{name}"),
            namespace: "default".into(),
            attempt: 0,
        },
        hostname: name.into(),
        log_directory: None,
        dns: Dns::default(),
        port_mappings: Vec::new(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: Default::default(),
        handler: "native".into(),
        runtime_handler: String::new(),
        cgroup_parent: String::new(),
        sysctls: Default::default(),
        resources: Resources::default(),
        overhead: Resources::default(),
        namespaces: Namespaces {
            network: NetworkMode::Pod,
            pid: PidMode::Pod,
            ipc: IpcMode::Pod,
            user: Some(IdMappings { uids: map.clone(), gids: map }),
        },
        security: Security::default(),
    };
    Pod {
        id: PodId::random().expect("random numbers"),
        spec,
        state: PodState::Creating,
        flow: FlowKind::RuntimeFirst,
        created_at_ns: 1,
        shim_pid: None,
        infra_pid: None,
        namespaces: Vec::new(),
        netns_path: None,
        ips: Vec::new(),
        sysfs: Sysfs::Unknown,
        cgroup: String::new(),
        steps: Vec::new(),
        error: None,
        explanation: None,
    }
}
