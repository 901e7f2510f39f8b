//! Makes the infra container of a pod and everything it stands in: the seam between the flow, which
//! decides the order, and the kernel.
//!
//! [`Runtime`] makes, [`Infra`] is what was made. The native runtime drives one `sandboxd-shim` per pod. With an
//! OCI runtime (`runc`, `crun`) the pod is made in the same way, and its containers by the runtime.

pub mod capabilities;
pub mod namespaces;
pub mod native;
pub mod oci;
pub mod seccomp;
pub mod spec;
mod sysctl;
pub mod task;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use crate::container::model::ContainerId;
use crate::pod::model::{NsKind, PodId, Sysfs};
use crate::pod::spec::PodSpec;

/// What the flow wants made.
#[derive(Debug, Clone)]
pub struct InfraPlan {
    pub pod: PodId,
    pub spec: PodSpec,
    /// The pod's directory under the state directory: the shim's socket lives there.
    pub dir: PathBuf,
    pub network: NetworkPlan,
    /// Contents of the pod's /etc/resolv.conf and /etc/hostname.
    pub resolv_conf: Vec<u8>,
    pub hostname: String,
}

/// Where the network namespace comes from.
#[derive(Debug, Clone)]
pub enum NetworkPlan {
    /// A new one, made together with the user namespace and owned by it.
    New,
    /// The host's.
    Host,
    /// One made earlier (the network-first flow).
    Join(Arc<OwnedFd>),
}

/// What a handler can do, as CRI Status reports it. True only where a self-test passed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HandlerFeatures {
    pub recursive_read_only_mounts: bool,
    pub user_namespaces: bool,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    /// It ended while nobody could see how.
    Unknown,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit code {code}"),
            Self::Signal(signal) => write!(f, "killed by signal {signal}"),
            Self::Unknown => f.write_str("unseen"),
        }
    }
}

/// Makes infra containers.
#[tonic::async_trait]
pub trait Runtime: Send + Sync + std::fmt::Debug {
    /// Makes all namespaces of the plan (user first), the root file system with /sys and /proc, and stops
    /// before exec. On an error nothing is left. `born` hears the shim's pid before anything is made: the
    /// observer attributes the pod's first checks by it.
    async fn create(
        &self,
        plan: &InfraPlan,
        born: &(dyn Fn(i32) + Send + Sync),
    ) -> Result<Arc<dyn Infra>, RuntimeError>;

    /// Finds a pod's infra container again after a restart of the daemon.
    async fn adopt(&self, pod: &PodId, dir: &Path) -> Result<Arc<dyn Infra>, RuntimeError>;

    fn features(&self) -> HandlerFeatures;
}

/// A made infra container, created or running.
#[tonic::async_trait]
pub trait Infra: Send + Sync + std::fmt::Debug {
    /// Pids in the host's pid namespace, for display and attribution: never to act on.
    fn shim_pid(&self) -> i32;
    fn infra_pid(&self) -> i32;
    fn pidfd(&self) -> BorrowedFd<'_>;
    /// How /sys came into the pod.
    fn sysfs(&self) -> Sysfs;
    /// A namespace of the infra container, through its pidfd. Fails once the process is gone.
    ///
    /// The cgroup namespace is the host's until [`Infra::start`], which makes it: its root is the cgroup that
    /// the process is in at that moment, so place it in the pod's cgroup before.
    fn namespace(&self, kind: NsKind) -> Result<OwnedFd, RuntimeError>;
    /// Makes the cgroup namespace and execs the pause. On an error inside the pod nothing is left of it.
    async fn start(&self) -> Result<(), RuntimeError>;
    /// Kills the infra container (with it everything in its pid namespace), waits for its end, lets the
    /// shim go. Idempotent.
    async fn kill(&self) -> Result<(), RuntimeError>;
    /// Waits until the infra container has ended. Cancel safe; may be called by several.
    async fn wait(&self) -> Exit;
    /// The pod's shared memory as a detached mount.
    async fn shm(&self) -> Result<OwnedFd, RuntimeError> {
        Err(RuntimeError::Unsupported { what: "this runtime hands out no shared memory".into() })
    }
    /// Makes a container in the pod, up to the point before exec. On an error nothing is left of it.
    async fn create_container(&self, plan: task::TaskPlan) -> Result<Arc<dyn task::Task>, RuntimeError>;
    /// Finds a container of the pod again after a restart of the daemon; `None`: the pod does not know it.
    async fn adopt_container(&self, id: &ContainerId) -> Result<Option<task::Adopted>, RuntimeError>;
}

/// Whether the process behind a pidfd has ended.
pub fn has_ended(pidfd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(pidfd, PollFlags::IN)];
    poll(&mut fds, Some(&Default::default())).is_ok_and(|ready| ready > 0)
}

/// Why the runtime could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// A step inside the pod failed: `step` names the call and its object ("mount sysfs on /sys").
    #[error("{step} (in the pod's infra container, pid {pid})")]
    InPod {
        step: String,
        pid: i32,
        #[source]
        source: std::io::Error,
    },
    /// A step of making a container or an exec failed, inside of it.
    #[error("{step} (in the container, pid {pid})")]
    InContainer {
        step: String,
        pid: i32,
        #[source]
        source: std::io::Error,
    },
    /// The command of a container or an exec cannot be executed; the words are those of other runtimes
    /// (`exec: "foo": executable file not found in $PATH`).
    #[error("{message}")]
    Command { message: String },
    /// What an OCI runtime said when it failed.
    #[error("{runtime}: {message}")]
    Oci { runtime: String, message: String },
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
    /// The shim is gone or does not answer.
    #[error("the pod's shim {problem}")]
    Shim { problem: String },
    /// The spec asks for what this runtime or machine cannot do.
    #[error("{what}")]
    Unsupported { what: String },
}
