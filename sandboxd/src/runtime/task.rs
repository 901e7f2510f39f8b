//! A container as a runtime carries it out: made in a pod by [`Infra::create_container`](super::Infra), then a
//! [`Task`], in which [`Process`]es are executed.
//!
//! ```text
//!  create ──▶ created ──start──▶ running ──ends──▶ ended ──remove──▶ (nothing)
//!                │                  │ exec: further processes          ▲
//!                └──────────────────┴──────────────────────────────────┘ remove kills first
//! ```

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

use oci_spec::runtime::{Process as OciProcess, Spec};

use super::{Exit, RuntimeError};
use crate::container::env::RawEnv;
use crate::container::model::ContainerId;
use crate::container::spec::PidMode;

/// A container to make.
#[derive(Debug)]
pub struct TaskPlan {
    pub id: ContainerId,
    /// What any OCI runtime would be given, but for what stands beside it here. Its namespaces: those listed
    /// without a path are new ones; network, ipc, uts and user are the pod's where the pod has them.
    pub spec: Spec,
    /// In place of the variables of the same names in `spec`.
    pub raw_env: RawEnv,
    pub pid: PidMode,
    /// The root file system: a detached mount (an overlay whose layers are idmapped for the pod's user
    /// namespace), attached nowhere.
    pub rootfs: OwnedFd,
    /// Sources of `spec.mounts`, by index, that are no path of the host: detached mounts.
    pub sources: Vec<(usize, OwnedFd)>,
    pub stdin: bool,
    /// Standard input ends when the first client that attached it goes.
    pub stdin_once: bool,
    pub tty: bool,
    /// Open for appending; what the container writes goes there in CRI's format.
    pub log: Option<OwnedFd>,
    /// `cgroup.procs` of the container's cgroup in each hierarchy, open for writing.
    pub cgroup: Vec<OwnedFd>,
    /// The host's uid and gid of the root of the pod's user namespace.
    pub host_root: Option<(u32, u32)>,
}

/// How a task or process ended, and when (nanoseconds since the Unix epoch).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskExit {
    pub exit: Exit,
    pub at_ns: i64,
}

/// A task found again after a restart of the daemon.
#[derive(Debug, Clone)]
pub struct Adopted {
    pub task: Arc<dyn Task>,
    pub started: bool,
}

/// Ends of a process's streams: the daemon writes `stdin`, reads the others. Dropping one is an end of file, or
/// an end of reading.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// A process to execute in a running container.
#[derive(Debug)]
pub struct ExecPlan {
    /// Ids, capabilities, environment, working directory, rlimits, terminal: as the container's own process
    /// unless the caller changed it.
    pub process: OciProcess,
    /// In place of the variables of the same names in `process`.
    pub raw_env: RawEnv,
    pub wanted: Wanted,
}

/// What a container wrote that its log could not take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogState {
    pub lost_bytes: u64,
    /// The last errno of a write.
    pub error: Option<i32>,
}

/// A container of a pod.
#[tonic::async_trait]
pub trait Task: Send + Sync + std::fmt::Debug {
    /// In the host's pid namespace, for display and attribution: never to act on.
    fn pid(&self) -> i32;
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// Execs the container's command. An error leaves it ended.
    async fn start(&self) -> Result<(), RuntimeError>;
    /// To the first process, or to every process of the container. No error once it has ended.
    async fn signal(&self, signal: i32, all: bool) -> Result<(), RuntimeError>;
    /// Waits for the end of the first process; what it wrote is in the log by then. Cancel safe.
    async fn wait(&self) -> TaskExit;
    /// Goes on with the log in another file.
    async fn reopen_log(&self, log: OwnedFd) -> Result<(), RuntimeError>;
    async fn log_state(&self) -> Result<LogState, RuntimeError>;
    /// Several may be attached. A reader that is too slow misses output; it never holds up the container.
    async fn attach(&self, wanted: Wanted) -> Result<Streams, RuntimeError>;
    async fn resize(&self, size: Size) -> Result<(), RuntimeError>;
    /// Joins every namespace of the container, with its seccomp filter, cgroup and no_new_privs.
    async fn exec(&self, plan: ExecPlan) -> Result<Arc<dyn Process>, RuntimeError>;
    /// Kills what is left of it and forgets it. Idempotent.
    async fn remove(&self) -> Result<(), RuntimeError>;
}

/// A process that was executed in a container. Dropping it lets it run on.
#[tonic::async_trait]
pub trait Process: Send + Sync + std::fmt::Debug {
    fn pid(&self) -> i32;
    /// The ends of its streams, once.
    fn take_streams(&self) -> Streams;
    async fn resize(&self, size: Size) -> Result<(), RuntimeError>;
    /// Kills it and all its descendants.
    async fn kill(&self) -> Result<(), RuntimeError>;
    /// Cancel safe.
    async fn wait(&self) -> TaskExit;
}
