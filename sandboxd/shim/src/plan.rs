//! A container as the shim carries it out: nothing left to decide, nothing left to look up on the host.
//!
//! Host paths do not occur: what comes from the host's file system travels as a file descriptor of a detached
//! mount (`open_tree(OPEN_TREE_CLONE)`), named here by its index among the message's descriptors.

pub mod container;
pub mod oci;

use serde::{Deserialize, Serialize};

/// The infra container of a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The pod's id, given back by [`crate::proto::Reply::State`].
    pub pod: String,
    /// The pod's directory on the host: the shim's socket is made there.
    pub dir: String,
    pub namespaces: Namespaces,
    /// `None`: the host's UTS namespace is left as it is.
    pub hostname: Option<String>,
    pub rootfs: Rootfs,
    /// In order; a destination under an earlier one lies on top of it.
    pub mounts: Vec<Mount>,
    /// Device nodes under the rootfs.
    pub devices: Vec<Device>,
    /// Symbolic links in the rootfs: (link, target).
    pub links: Vec<(String, String)>,
    /// Regular files in the rootfs, written before it may become read-only.
    pub files: Vec<File>,
    /// Covered by an empty directory or by /dev/null, where they exist.
    pub masked: Vec<String>,
    /// Bound over themselves read-only, where they exist.
    pub read_only: Vec<String>,
    /// Names with dots or slashes as sysctl(8) takes them, and values.
    pub sysctls: Vec<(String, String)>,
    pub process: Process,
    /// Told back on adoption; the shim does not read it.
    pub sysfs: SysfsKind,
}

/// Which namespaces are new. Mount is always new, time never.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    /// `None`: the host's.
    pub user: Option<IdMaps>,
    pub net: Net,
    pub pid: bool,
    pub ipc: bool,
    pub uts: bool,
    /// Made at start, not with the others: its root is the cgroup the process is in at that moment, and the
    /// daemon moves the process between create and start.
    pub cgroup: bool,
}

/// The network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Net {
    New,
    Host,
    /// An older one, by the index of its file descriptor: it keeps the owner it has.
    Join(u8),
}

/// Lines of uid_map and gid_map: (inside, outside, length).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    pub uids: Vec<(u32, u32, u32)>,
    pub gids: Vec<(u32, u32, u32)>,
    /// Host uid and gid that make the namespace: the mapped root. They own it and are charged for it.
    pub owner: (u32, u32),
}

/// The tmpfs that is the infra container's root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rootfs {
    pub size_bytes: u64,
    pub read_only: bool,
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, in the container.
    pub destination: String,
    pub source: Source,
    pub attrs: Attrs,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A new file system made inside, in the container's namespaces: type and options (a flag has no value).
    New { fs: String, options: Vec<(String, Option<String>)> },
    /// A detached mount from the host, by the index of its file descriptor.
    Host(u8),
}

/// Mount attributes (mount_setattr(2)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(clippy::struct_excessive_bools, reason = "each is a MOUNT_ATTR_ flag of its own")]
pub struct Attrs {
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    /// The attributes apply to all mounts beneath too.
    pub recursive: bool,
}

/// A character device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Absolute, in the container.
    pub path: String,
    pub major: u32,
    pub minor: u32,
}

/// A small regular file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// Absolute, in the container.
    pub path: String,
    pub mode: u32,
    pub data: Vec<u8>,
}

/// The process and what it may do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    pub uid: u32,
    pub gid: u32,
    /// All supplementary groups it has; the caller's never leak in.
    pub groups: Vec<u32>,
    pub capabilities: Capabilities,
    pub no_new_privs: bool,
    /// A BPF program as `struct sock_filter[]`, installed last; `None`: unconfined.
    pub seccomp: Option<Vec<u8>>,
    pub rlimits: Vec<Rlimit>,
    /// `None`: inherited. Clamped, with a warning, where the shim may not lower it so far.
    pub oom_score_adj: Option<i32>,
    pub umask: u32,
}

/// Capability sets, bit n for capability n (capabilities(7)).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capabilities {
    pub bounding: u64,
    pub permitted: u64,
    pub effective: u64,
    pub inheritable: u64,
    pub ambient: u64,
}

/// One resource limit: the number of the resource (`RLIMIT_…`), and its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    pub resource: u32,
    pub soft: u64,
    pub hard: u64,
}

/// How /sys comes into the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SysfsKind {
    Mounted,
    BindReadOnly,
    None,
}
