//! An application container of a pod, and a process executed in one.
//!
//! As with the infra container, host paths do not occur. `u8` numbers name the message's file descriptors.

use std::ffi::CString;

use serde::{Deserialize, Serialize};

use super::Process;

/// A container to make in the pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerPlan {
    pub id: String,
    pub pid: PidNs,
    /// A cgroup namespace of its own, rooted at the container's cgroup.
    pub cgroup_namespace: bool,
    /// `tasks` (v1) or `cgroup.procs` (v2) of the container's cgroup in each hierarchy, v1 first. Joined before
    /// anything else.
    pub cgroup: Vec<u8>,
    /// A directory of a cgroup in which each exec gets a cgroup of its own, so that all of it can be killed.
    pub exec_cgroups: Option<ExecCgroups>,
    pub rootfs: Rootfs,
    /// In order; a destination under an earlier one lies on top of it.
    pub mounts: Vec<Mount>,
    /// Device nodes to make, with a user namespace to bind.
    pub devices: Vec<Node>,
    /// Symbolic links in the rootfs: (link, target). What exists is left alone.
    pub links: Vec<(String, String)>,
    /// Covered by an empty directory or by /dev/null, where they exist.
    pub masked: Vec<String>,
    /// Bound over themselves read-only, where they exist.
    pub read_only: Vec<String>,
    pub command: Command,
    pub stdin: bool,
    /// Standard input ends when the first client that attached it goes.
    pub stdin_once: bool,
    /// Open for appending.
    pub log: Option<u8>,
}

/// Where execs get cgroups of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecCgroups {
    /// The directory of the container's cgroup in one hierarchy.
    pub dir: u8,
    /// Position in [`ContainerPlan::cgroup`] of the same cgroup: an exec joins one of its children instead.
    pub instead_of: u8,
}

/// The pid namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidNs {
    /// The infra container's, which is the node's where the pod has none.
    Pod,
    /// A new one, owned by the pod's user namespace.
    New,
    Node,
    /// Another container's of the pod, by its id.
    Target(String),
}

/// The root file system: a detached mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    pub mount: u8,
    pub read_only: bool,
    pub propagation: Propagation,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, in the container; symbolic links on the way are the image's and stay within the rootfs.
    pub destination: String,
    pub source: Source,
    pub attrs: MountAttrs,
    pub propagation: Propagation,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A new file system made in the container's namespaces: type and options (a flag has no value).
    New { fs: String, options: Vec<(String, Option<String>)> },
    /// A detached mount.
    Detached(u8),
    /// What the pod has on /dev/shm, the same for all its containers.
    PodShm,
    /// A tmpfs with one of these under each name: directories of cgroup hierarchies, and links beside them.
    Cgroups { dirs: Vec<(String, u8)>, links: Vec<(String, String)> },
}

/// Flags of mount_setattr(2), `MOUNT_ATTR_…`: on the mount itself, and on all beneath it too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountAttrs {
    pub set: u64,
    pub clear: u64,
    pub recursive_set: u64,
    pub recursive_clear: u64,
}

/// Mount propagation, to all mounts beneath too.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    /// What the host mounts beneath it appears.
    Slave,
    /// And what the container mounts beneath it appears on the host.
    Shared,
}

/// What kind of node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeKind {
    Char,
    Block,
    Fifo,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Absolute, in the container.
    pub path: String,
    pub kind: NodeKind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    /// Inside the pod's user namespace.
    pub uid: u32,
    pub gid: u32,
}

/// What is executed, and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Never empty; the first is looked up in the PATH of `env`, unless it has a slash.
    pub args: Vec<String>,
    /// Values may be any bytes. On the wire as a string is: shims of earlier releases read all that is UTF-8.
    pub env: Vec<CString>,
    /// Made where it is missing.
    pub cwd: String,
    pub terminal: bool,
    /// Columns and rows of the terminal.
    pub size: Option<(u16, u16)>,
    pub process: Process,
    /// What is written to /proc/self/attr/exec: a label of the machine's LSM.
    pub label: Option<String>,
}

/// A process to execute in a container. Namespaces, cgroup and seccomp filter are the container's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecPlan {
    pub container: String,
    pub command: Command,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}
