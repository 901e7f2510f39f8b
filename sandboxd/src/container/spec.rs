//! What a `ContainerConfig` asks for, validated: every value here can be carried out.
//!
//! `cri::validate` makes it; the container room, the runtime and the records read it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::env::EnvValue;
use crate::pod::spec::{IdMappings, Resources, Seccomp};

/// A validated container request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerSpec {
    pub metadata: Metadata,
    pub image: ImageRef,
    /// Replaces the image's entrypoint (and with it its cmd); empty: the image's.
    pub command: Vec<String>,
    /// Replaces the image's cmd; empty: the image's, unless `command` is given.
    pub args: Vec<String>,
    /// Empty: the image's, else "/".
    pub working_dir: String,
    /// Values may be any bytes but NUL; later ones win.
    pub envs: Vec<(String, EnvValue)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    /// Fully qualified names ("vendor.com/class=device").
    pub cdi_devices: Vec<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// The pod's log directory joined with `log_path`; `None`: no log.
    pub log_path: Option<PathBuf>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    /// A signal's number; `None`: the image's, else SIGTERM.
    pub stop_signal: Option<i32>,
    pub resources: Resources,
    pub security: Security,
}

/// `ContainerMetadata`; with the pod's id the container's reserved name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Metadata {
    pub name: String,
    pub attempt: u32,
}

/// `ImageSpec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRef {
    /// An id, a tag or a digest, as the caller wrote it.
    pub image: String,
    /// What the user's pod asked for, as kubelet passes it.
    pub user_specified_image: String,
    pub runtime_handler: String,
    pub annotations: BTreeMap<String, String>,
    /// Of a volume's image: the id that PullImage answers with. Empty until the container is made.
    #[serde(default)]
    pub image_id: String,
}

/// One mount of the request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    pub container_path: String,
    pub source: MountSource,
    pub read_only: bool,
    /// `mount_setattr(AT_RECURSIVE)`; implies `read_only`.
    pub recursive_read_only: bool,
    pub propagation: Propagation,
    pub selinux_relabel: bool,
    /// Of "nosuid", "nodev", "noexec".
    #[serde(default)]
    pub options: Vec<String>,
    /// `None`: those of the pod's user namespace, where it has one.
    pub id_mappings: Option<IdMappings>,
}

/// Where a mount comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    Host(PathBuf),
    /// An image's file system, read-only, or a directory of it.
    Image {
        image: ImageRef,
        sub_path: String,
    },
}

/// `MountPropagation`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    #[default]
    Private,
    HostToContainer,
    Bidirectional,
}

/// A device of the host; a directory stands for all devices in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    pub container_path: String,
    pub host_path: PathBuf,
    /// Of "rwm".
    pub permissions: String,
}

/// The security context of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    pub privileged: bool,
    /// Bit n for capability n; every one of the machine for "ALL".
    pub add_capabilities: u64,
    pub drop_capabilities: u64,
    pub add_ambient_capabilities: u64,
    pub pid: PidMode,
    pub user: RunAs,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    pub groups_policy: GroupsPolicy,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub masked_paths: Vec<String>,
    pub readonly_paths: Vec<String>,
    pub seccomp: Seccomp,
    /// A profile's name; `None`: unconfined.
    pub apparmor: Option<String>,
    /// "user:role:type:level"; `None`: not asked for.
    pub selinux: Option<String>,
}

/// PID namespace of a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PidMode {
    /// The pod's.
    Pod,
    /// A new one.
    Container,
    Node,
    /// Another container's of the same pod, by id.
    Target(String),
}

/// The user a container runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum RunAs {
    /// The image's.
    #[default]
    Image,
    Uid(u32),
    /// Looked up in the image's passwd.
    Name(String),
}

/// `SupplementalGroupsPolicy`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum GroupsPolicy {
    /// The request's and those of the image's group file.
    #[default]
    Merge,
    /// Only the request's.
    Strict,
}
