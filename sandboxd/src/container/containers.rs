//! All containers of the node: one driver task per container makes every change, everybody else reads snapshots.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use oci_spec::runtime::Process as OciProcess;
use sandboxd_image::Images;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::task::TaskTracker;

use super::create;
use super::driver::{Driver, Live};
use super::env;
use super::error::ContainerError;
use super::exec::{self, ExecOutput};
use super::ground::Node;
use super::log_file::{self, LogPlace};
use super::model::{Container, ContainerId, ContainerState};
use super::record::Records;
use super::spec::ContainerSpec;
use super::store::Store;
use crate::apparmor::AppArmor;
use crate::cgroup::{CgroupError, Cgroups};
use crate::cri::ContainerService;
use crate::pod::model::{Pod, PodId, PodState};
use crate::pod::spec::Resources;
use crate::pod::{PodChange, Pods};
use crate::runtime::task::{ExecPlan, Task, Wanted};

/// What the containers stand on.
#[derive(Debug)]
pub struct Foundations {
    pub pods: Arc<Pods>,
    pub images: Arc<Images>,
    pub cgroups: Cgroups,
    pub apparmor: Arc<AppArmor>,
    /// The root and the state directory of the daemon.
    pub root: PathBuf,
    pub state: PathBuf,
}

/// The containers of this node.
#[derive(Debug)]
pub struct Containers {
    pub(super) base: Foundations,
    pub(super) store: Arc<Store>,
    pub(super) records: Arc<Records>,
    handles: Mutex<HashMap<ContainerId, Handle>>,
    /// Makings on their way: the daemon's end waits for them.
    makings: TaskTracker,
}

/// The ways to a container.
#[derive(Debug, Clone)]
struct Handle {
    driver: Driver,
    task: Option<Arc<dyn Task>>,
    process: Option<Arc<OciProcess>>,
}

impl Containers {
    /// # Errors
    /// When the directory of the records cannot be made.
    pub fn new(base: Foundations) -> Result<Arc<Self>, ContainerError> {
        let records = Arc::new(Records::open(&base.state)?);
        std::fs::create_dir_all(base.root.join("containers"))
            .map_err(super::record::io_error("making", &base.root.join("containers")))?;
        Ok(Arc::new(Self {
            base,
            store: Arc::default(),
            records,
            handles: Mutex::default(),
            makings: TaskTracker::new(),
        }))
    }

    /// What is published, for lists and subscriptions.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// Where what a container writes is kept.
    #[must_use]
    pub fn dir(&self, id: &ContainerId) -> PathBuf {
        self.root().join(id.as_str())
    }

    /// Where those directories are.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.base.root.join("containers")
    }

    /// A pod's directory under the state directory.
    pub(super) fn pod_dir(&self, pod: &PodId) -> PathBuf {
        self.base.pods.dir(pod)
    }

    pub(super) fn ground(&self, id: &ContainerId, pod: &PodId, parent: &str) -> Result<Node, CgroupError> {
        Ok(Node {
            id: id.clone(),
            planned: self.base.cgroups.plan_container(parent, pod, id)?,
            cgroups: self.base.cgroups.clone(),
            records: Arc::clone(&self.records),
            root: self.root(),
        })
    }

    /// A container's running task, for clients that attach to it or execute in it.
    ///
    /// # Errors
    /// When there is no such container, or it does not run.
    pub fn task(&self, id: &str) -> Result<(Arc<Container>, Arc<dyn Task>), ContainerError> {
        let container = self.existing(id)?;
        let task = self.handle(&container.id).and_then(|handle| handle.task);
        match task {
            Some(task) if container.state == ContainerState::Running => Ok((container, task)),
            _ => Err(ContainerError::State {
                id: container.id.clone(),
                state: container.state,
                needed: "it must be running",
            }),
        }
    }

    /// What a further process of a container is like, with a command of its own.
    ///
    /// # Errors
    /// As [`Containers::task`].
    pub fn exec_plan(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<(Arc<dyn Task>, ExecPlan), ContainerError> {
        let (container, task) = self.task(id)?;
        let process = self.handle(&container.id).and_then(|handle| handle.process);
        let process = process.ok_or_else(|| ContainerError::NotFound { id: id.to_owned() })?;
        let mut process = crate::runtime::spec::exec_process(&process, command, tty);
        // An update may have changed it since the container was made.
        process.set_oom_score_adj(Some(container.spec.resources.oom_score_adj.unwrap_or(0)));
        Ok((task, ExecPlan { process, raw_env: env::raw(&container.spec.envs), wanted }))
    }

    /// The capabilities a container was started with at most (its bounding set), as bits. `None`: it is not there.
    #[must_use]
    pub fn bounding(&self, id: &ContainerId) -> Option<u64> {
        let process = self.handle(id)?.process?;
        let sets = process.capabilities().as_ref()?;
        Some(sets.bounding().as_ref().map_or(0, crate::runtime::capabilities::bits))
    }

    /// Where a container's log is; `None`: it has none.
    ///
    /// # Errors
    /// When its pod cannot be looked up.
    pub fn log_place(&self, container: &Container) -> Result<Option<LogPlace>, ContainerError> {
        let Some(path) = container.spec.log_path.clone() else { return Ok(None) };
        Ok(Some(LogPlace::new(self.log_base(container, &path)?, path)))
    }

    fn log_base(&self, container: &Container, path: &Path) -> Result<PathBuf, ContainerError> {
        let pod = self.base.pods.find(container.pod.as_str())?;
        let base = pod.and_then(|pod| pod.spec.log_directory.clone());
        Ok(base.unwrap_or_else(|| path.parent().unwrap_or(Path::new("/")).to_owned()))
    }

    fn existing(&self, id: &str) -> Result<Arc<Container>, ContainerError> {
        self.store.find(id)?.ok_or_else(|| ContainerError::NotFound { id: id.to_owned() })
    }

    fn handle(&self, id: &ContainerId) -> Option<Handle> {
        self.handles().get(id).cloned()
    }

    fn driver(&self, id: &str) -> Result<Option<Driver>, ContainerError> {
        let Some(container) = self.store.find(id)? else { return Ok(None) };
        Ok(self.handle(&container.id).map(|handle| handle.driver))
    }

    // Only whole inserts and removals happen under the lock.
    fn handles(&self) -> MutexGuard<'_, HashMap<ContainerId, Handle>> {
        self.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Publishes a made container and gives it its driver.
    pub(super) fn drive(self: &Arc<Self>, live: Live) {
        let id = live.record.container.id.clone();
        let (task, process) = (live.task.clone(), live.record.process.clone().map(Arc::new));
        let container = live.record.container.clone();
        let gone = {
            let (this, id) = (Arc::downgrade(self), id.clone());
            move || {
                if let Some(this) = this.upgrade() {
                    this.handles().remove(&id);
                }
            }
        };
        // All under the lock: who finds the container waits for its handle. It is seen before its driver begins,
        // which may publish its end at once.
        let mut handles = self.handles();
        self.store.publish(container);
        let driver = Driver::start(live, gone);
        handles.insert(id, Handle { driver, task, process });
    }

    /// Ends the containers of pods whose infra container ends by itself: their namespaces may live on in them.
    pub async fn follow_pods(self: Arc<Self>) {
        let mut changes = self.base.pods.store().subscribe();
        // Those that ended before anybody listened.
        self.end_with_pods();
        loop {
            match changes.recv().await {
                Ok(PodChange::Upsert(pod)) if pod.state == PodState::NotReady => self.end_with(&pod.id),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => self.end_with_pods(),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn end_with_pods(self: &Arc<Self>) {
        for pod in self.base.pods.list() {
            if pod.state == PodState::NotReady {
                self.end_with(&pod.id);
            }
        }
    }

    fn end_with(self: &Arc<Self>, pod: &PodId) {
        let alive = |c: &Container| matches!(c.state, ContainerState::Created | ContainerState::Running);
        if !self.store.list().iter().any(|c| c.pod == *pod && alive(c)) {
            return;
        }
        let (this, pod) = (Arc::clone(self), pod.clone());
        tokio::spawn(async move {
            if let Err(error) = this.stop_pod(&pod).await {
                tracing::warn!(%pod, %error, "ending the containers of a pod that ended failed");
            }
        });
    }

    /// Waits for the makings on their way, at most `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.makings.close();
        if tokio::time::timeout(patience, self.makings.wait()).await.is_err() {
            tracing::warn!("containers still being made at the end: the next start undoes them");
        }
    }

    /// Why a container that was just made has no pod any more.
    pub(super) fn pod_ended(&self, id: &PodId) -> Option<ContainerError> {
        let pod = self.base.pods.find(id.as_str()).ok().flatten();
        let state = pod.map_or(PodState::NotReady, |pod| pod.state);
        (state != PodState::Ready).then(|| ContainerError::PodNotReady { pod: id.clone(), state })
    }

    fn of_pod(&self, pod: &PodId) -> Vec<Driver> {
        let containers = self.store.list().into_iter().filter(|container| container.pod == *pod);
        containers.filter_map(|container| self.handle(&container.id)).map(|handle| handle.driver).collect()
    }
}

/// The first failure of several.
fn all(results: Vec<Result<(), ContainerError>>) -> Result<(), ContainerError> {
    results.into_iter().collect()
}

#[tonic::async_trait]
impl ContainerService for Arc<Containers> {
    async fn create(&self, pod: Arc<Pod>, spec: ContainerSpec) -> Result<ContainerId, ContainerError> {
        if self.makings.is_closed() {
            return Err(ContainerError::ShuttingDown);
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        let this = Arc::clone(self);
        // A task of its own: a caller that goes away meanwhile has the container undone, not half made.
        self.makings.spawn(async move {
            match create::make(&this, pod, spec, || reply.is_closed()).await {
                Ok(live) => {
                    let container = live.record.container.clone();
                    this.drive(live);
                    let id = container.id;
                    // A pod that was stopped meanwhile did not know of it.
                    let late = this.pod_ended(&container.pod);
                    let failed = late.is_some();
                    if reply.send(late.map_or(Ok(id.clone()), Err)).is_err() || failed {
                        tracing::warn!(
                            container = %id,
                            "the caller went away, or the pod ended: removing the container that was asked for"
                        );
                        if let Err(error) = this.remove(id.as_str()).await {
                            tracing::warn!(container = %id, %error, "removing it failed");
                        }
                    }
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            }
        });
        answer.await.unwrap_or(Err(ContainerError::ShuttingDown))
    }

    async fn start(&self, id: &str) -> Result<(), ContainerError> {
        match self.driver(id)? {
            Some(driver) => driver.start_container().await,
            None => Err(ContainerError::NotFound { id: id.to_owned() }),
        }
    }

    async fn stop(&self, id: &str, grace: Duration) -> Result<(), ContainerError> {
        match self.driver(id)? {
            Some(driver) => driver.stop(grace).await,
            None => Ok(()),
        }
    }

    async fn remove(&self, id: &str) -> Result<(), ContainerError> {
        match self.driver(id)? {
            Some(driver) => driver.remove().await,
            None => Ok(()),
        }
    }

    async fn stop_pod(&self, pod: &PodId) -> Result<(), ContainerError> {
        all(join_all(self.of_pod(pod).iter().map(|driver| driver.stop(Duration::ZERO))).await)
    }

    async fn remove_pod(&self, pod: &PodId) -> Result<(), ContainerError> {
        all(join_all(self.of_pod(pod).iter().map(Driver::remove)).await)
    }

    fn list(&self) -> Vec<Arc<Container>> {
        self.store.list()
    }

    fn find(&self, id: &str) -> Result<Option<Arc<Container>>, ContainerError> {
        self.store.find(id)
    }

    async fn update(&self, id: &str, resources: Resources) -> Result<(), ContainerError> {
        match self.driver(id)? {
            Some(driver) => driver.update(resources).await,
            None => Err(ContainerError::NotFound { id: id.to_owned() }),
        }
    }

    async fn reopen_log(&self, id: &str) -> Result<(), ContainerError> {
        let (container, task) = self.task(id)?;
        let Some(path) = container.spec.log_path.clone() else { return Ok(()) };
        let base = self.log_base(&container, &path)?;
        let (log, new) = log_file::open(&base, &path)?;
        task.reopen_log(log).await.map_err(|source| {
            // Nobody writes to it: what is there is an empty file that was not there before.
            if new {
                let _ = std::fs::remove_file(&path);
            }
            ContainerError::Runtime { action: "reopening the container's log failed", source }
        })
    }

    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ContainerError> {
        let wanted = Wanted { stdin: false, stdout: true, stderr: true };
        let (task, plan) = self.exec_plan(id, &command, false, wanted)?;
        exec::run(&*task, plan, timeout).await
    }

    fn runtime_spec(&self, id: &ContainerId) -> Option<serde_json::Value> {
        self.records.spec(id)
    }
}
