//! A container that an OCI runtime's command line (`runc`, `crun`) carries out, and a process executed in one.
//!
//! What to run is the runtime's to read: `config.json` in the container's directory, the process as JSON here.

use serde::{Deserialize, Serialize};

/// A container to make.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciPlan {
    pub id: String,
    pub runtime: OciRuntime,
    /// The container's directory on the host, with its `config.json`: the shim's socket is made there.
    pub dir: String,
    /// A directory of the host that only `create` sees covered, by a tmpfs with [`OciPlan::mounts`]; `exec` by an
    /// empty one.
    pub stage: String,
    /// Detached mounts to attach under the stage: name, and number of the descriptor. `rootfs` is one of them.
    pub mounts: Vec<(String, u8)>,
    pub terminal: bool,
    pub stdin: bool,
    /// Standard input ends when the first client that attached it goes.
    pub stdin_once: bool,
    /// Open for appending.
    pub log: Option<u8>,
    /// `cgroup.procs` of the container's cgroup in each hierarchy: who is in it is the container's.
    pub cgroup: Vec<u8>,
    /// Where execs get cgroups of their own; nowhere where the runtime cannot put them there.
    pub exec_cgroups: Option<OciExecCgroups>,
}

/// A cgroup of the container's in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciExecCgroups {
    /// Its directory.
    pub dir: u8,
    /// What the runtime wants before the name of a cgroup in it: "freezer:", or nothing on cgroup v2.
    pub prefix: String,
}

/// The command line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciRuntime {
    pub binary: String,
    /// Its `--root`.
    pub root: String,
}

/// A process to execute in a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OciExecPlan {
    pub container: String,
    /// `process` of the OCI runtime spec, as JSON.
    pub process: Vec<u8>,
    pub terminal: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}
