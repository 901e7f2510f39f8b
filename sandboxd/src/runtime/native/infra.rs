//! An infra container as the daemon holds it: a link to its shim, pidfds of both.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Signal, pidfd_send_signal};
use sandboxd_shim::plan::SysfsKind;
use sandboxd_shim::proto::{self, Reply, Request, SOCKET_NAME};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::link::{self, Link, failed, problem};
use super::task::NativeTask;
use crate::container::model::ContainerId;
use crate::pod::model::{NsKind, Sysfs};
use crate::runtime::task::{Adopted, Task, TaskPlan};
use crate::runtime::{Exit, Infra, RuntimeError, namespaces};

/// For a start: an exec.
const START: Duration = Duration::from_secs(10);
/// For a question.
const STATE: Duration = Duration::from_secs(5);
/// For a kill: the kernel takes down a pid namespace.
const KILL: Duration = Duration::from_secs(20);

/// One infra container.
#[derive(Debug)]
pub struct NativeInfra {
    link: Arc<Link>,
    shim_pid: i32,
    shim: AsyncFd<OwnedFd>,
    infra_pid: i32,
    infra: AsyncFd<OwnedFd>,
    sysfs: SysfsKind,
    dir: PathBuf,
}

/// What it is made of.
#[derive(Debug)]
pub struct Parts {
    pub link: Link,
    pub shim_pid: i32,
    pub shim: OwnedFd,
    pub infra_pid: i32,
    pub infra: OwnedFd,
    pub sysfs: SysfsKind,
    pub dir: PathBuf,
}

impl NativeInfra {
    pub fn new(parts: Parts) -> Result<Self, RuntimeError> {
        let watch = |pidfd| {
            link::watch(pidfd, Interest::READABLE)
                .map_err(|source| RuntimeError::Io { action: "watching a process of the pod".into(), source })
        };
        Ok(Self {
            link: Arc::new(parts.link),
            shim_pid: parts.shim_pid,
            shim: watch(parts.shim)?,
            infra_pid: parts.infra_pid,
            infra: watch(parts.infra)?,
            sysfs: parts.sysfs,
            dir: parts.dir,
        })
    }
}

pub fn of_proto(exit: proto::Exit) -> Exit {
    match exit {
        proto::Exit::Code(code) => Exit::Code(code),
        proto::Exit::Signal(signal) => Exit::Signal(signal),
        proto::Exit::Unknown => Exit::Unknown,
    }
}

/// Waits until the process behind a pidfd has ended.
pub async fn ended(pidfd: &AsyncFd<OwnedFd>) {
    // An error here means that the reactor is gone, and with it everybody who waits.
    let _ = pidfd.readable().await;
}

#[tonic::async_trait]
impl Infra for NativeInfra {
    fn shim_pid(&self) -> i32 {
        self.shim_pid
    }

    fn infra_pid(&self) -> i32 {
        self.infra_pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.infra.get_ref().as_fd()
    }

    fn sysfs(&self) -> Sysfs {
        match self.sysfs {
            SysfsKind::Mounted => Sysfs::Mounted,
            SysfsKind::BindReadOnly => Sysfs::BindReadOnly,
            SysfsKind::None => Sysfs::Unknown,
        }
    }

    fn namespace(&self, kind: NsKind) -> Result<OwnedFd, RuntimeError> {
        namespaces::of_process(self.pidfd(), kind)
    }

    async fn start(&self) -> Result<(), RuntimeError> {
        match self.link.call(&Request::Start, &[], START).await?.reply {
            Reply::Started => Ok(()),
            Reply::Failed(failure) => Err(super::failure(failure)),
            other => Err(problem(format!("answered Start with {other:?}"))),
        }
    }

    async fn kill(&self) -> Result<(), RuntimeError> {
        if self.link.call(&Request::Kill, &[], KILL).await.is_err() {
            // Gone, or stuck: by hand. The infra container dies with its shim in any case.
            let _ = pidfd_send_signal(self.infra.get_ref(), Signal::KILL);
            let _ = pidfd_send_signal(self.shim.get_ref(), Signal::KILL);
        }
        let both = async {
            ended(&self.infra).await;
            ended(&self.shim).await;
        };
        if tokio::time::timeout(KILL, both).await.is_err() {
            return Err(problem(format!("or its infra container does not die within {KILL:?}")));
        }
        remove_socket(&self.dir)
    }

    async fn wait(&self) -> Exit {
        ended(&self.infra).await;
        if self.link.exit().is_none() {
            // The answer is kept by the link; without one nobody knows.
            let _ = self.link.call(&Request::State, &[], STATE).await;
        }
        self.link.exit().map_or(Exit::Unknown, of_proto)
    }

    async fn shm(&self) -> Result<OwnedFd, RuntimeError> {
        let mut answer = self.link.call(&Request::Shm, &[], STATE).await?;
        match (answer.reply, answer.fds.pop()) {
            (Reply::Done, Some(shm)) => Ok(shm),
            (Reply::NotDone(failure), _) => Err(super::failure(failure)),
            (other, _) => Err(problem(format!("answered Shm with {other:?}"))),
        }
    }

    async fn create_container(&self, plan: TaskPlan) -> Result<Arc<dyn Task>, RuntimeError> {
        let task = NativeTask::create(&self.link, plan, self.namespace(NsKind::User)?).await?;
        Ok(Arc::new(task))
    }

    async fn adopt_container(&self, id: &ContainerId) -> Result<Option<Adopted>, RuntimeError> {
        let adopted = NativeTask::adopt(&self.link, id).await?;
        Ok(adopted.map(|(task, started)| Adopted { task: Arc::new(task), started }))
    }
}

/// Removes the shim's socket. Idempotent.
pub fn remove_socket(dir: &std::path::Path) -> Result<(), RuntimeError> {
    let path = dir.join(SOCKET_NAME);
    match rustix::fs::unlink(&path) {
        Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(errno) => Err(failed(format!("removing {}", path.display()), errno)),
    }
}
