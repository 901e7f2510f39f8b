//! A pod whose containers an OCI runtime carries out: all but those is the native runtime's.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bundle::{self, Pod};
use super::task::OciTask;
use super::{Line, leftovers};
use crate::container::model::ContainerId;
use crate::container::spec::PidMode;
use crate::pod::model::{NsKind, Sysfs};
use crate::runtime::task::{Adopted, Task, TaskPlan};
use crate::runtime::{Exit, Infra, RuntimeError, namespaces};

/// One pod.
#[derive(Debug)]
pub struct OciInfra {
    infra: Arc<dyn Infra>,
    line: Arc<Line>,
    /// The pod's directory.
    dir: PathBuf,
}

impl OciInfra {
    pub fn new(infra: Arc<dyn Infra>, line: Arc<Line>, dir: &Path) -> Self {
        Self { infra, line, dir: dir.to_owned() }
    }

    fn container_dir(&self, id: &str) -> PathBuf {
        leftovers::containers(&self.dir).join(id)
    }

    /// The pod's own namespaces, for its containers to join, and its shared memory.
    async fn pod(&self, plan: &TaskPlan) -> Result<Pod, RuntimeError> {
        let mut joined = Vec::new();
        for kind in [NsKind::User, NsKind::Net, NsKind::Ipc, NsKind::Uts] {
            joined.extend(self.own(kind)?.map(|namespace| (kind, namespace)));
        }
        match &plan.pid {
            PidMode::Pod => joined.extend(self.own(NsKind::Pid)?.map(|namespace| (NsKind::Pid, namespace))),
            PidMode::Container | PidMode::Node => {}
            PidMode::Target(id) => {
                let id = ContainerId::from_string(id.clone());
                let dir = self.container_dir(id.as_str());
                let target = OciTask::adopt(&self.line, &dir, &id).await?;
                let (target, _) = target.ok_or_else(|| RuntimeError::Unsupported {
                    what: format!("the container {id} whose pid namespace is wanted is gone"),
                })?;
                joined.push((NsKind::Pid, namespaces::of_process(target.pidfd(), NsKind::Pid)?));
            }
        }
        let shm = if bundle::wants_shm(&plan.spec) { Some(self.infra.shm().await?) } else { None };
        Ok(Pod { joined, shm })
    }

    /// `None`: it is the host's.
    fn own(&self, kind: NsKind) -> Result<Option<OwnedFd>, RuntimeError> {
        use std::os::fd::AsFd;
        let namespace = self.infra.namespace(kind)?;
        let hosts = namespaces::inode(namespaces::own(kind)?.as_fd())?;
        Ok((namespaces::inode(namespace.as_fd())? != hosts).then_some(namespace))
    }
}

#[tonic::async_trait]
impl Infra for OciInfra {
    fn shim_pid(&self) -> i32 {
        self.infra.shim_pid()
    }

    fn infra_pid(&self) -> i32 {
        self.infra.infra_pid()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.infra.pidfd()
    }

    fn sysfs(&self) -> Sysfs {
        self.infra.sysfs()
    }

    fn namespace(&self, kind: NsKind) -> Result<OwnedFd, RuntimeError> {
        self.infra.namespace(kind)
    }

    async fn start(&self) -> Result<(), RuntimeError> {
        self.infra.start().await
    }

    async fn kill(&self) -> Result<(), RuntimeError> {
        leftovers::remove_all(&self.line, &self.dir).await;
        self.infra.kill().await
    }

    async fn wait(&self) -> Exit {
        self.infra.wait().await
    }

    async fn create_container(&self, plan: TaskPlan) -> Result<Arc<dyn Task>, RuntimeError> {
        let pod = self.pod(&plan).await?;
        let id = plan.id.clone();
        let dir = self.container_dir(id.as_str());
        let line = Arc::clone(&self.line);
        let (made, answer) = tokio::sync::oneshot::channel();
        // To its end also when the caller is cut short: what was made is then removed.
        tokio::spawn(async move {
            let task = OciTask::create(&line, &dir, plan, pod).await;
            if task.is_err()
                && let Err(error) = leftovers::remove(&line, &dir, id.as_str()).await
            {
                tracing::warn!(container = %id, %error, "undoing it failed");
            }
            if let Err(Ok(unwanted)) = made.send(task)
                && let Err(error) = unwanted.remove().await
            {
                tracing::warn!(container = %id, %error, "undoing it failed");
            }
        });
        let ending = || RuntimeError::Shim { problem: "was asked by a daemon that is ending".into() };
        Ok(Arc::new(answer.await.map_err(|_| ending())??))
    }

    async fn adopt_container(&self, id: &ContainerId) -> Result<Option<Adopted>, RuntimeError> {
        let dir = self.container_dir(id.as_str());
        match OciTask::adopt(&self.line, &dir, id).await? {
            Some((task, started)) => Ok(Some(Adopted { task: Arc::new(task), started })),
            // Made while the pod's handler was a native one.
            None if !dir.exists() => self.infra.adopt_container(id).await,
            None => {
                leftovers::remove(&self.line, &dir, id.as_str()).await?;
                Ok(None)
            }
        }
    }
}
