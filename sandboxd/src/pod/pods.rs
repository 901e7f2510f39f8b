//! All pods of the node: one driver task per pod makes every change, everybody else reads snapshots.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio_util::task::TaskTracker;

use super::driver::{Driver, Limits};
use super::error::PodError;
use super::flow::{self, Base, Effects, Ready, now_ns};
use super::model::{FlowKind, Pod, PodId, PodState, Sysfs};
use super::spec::PodSpec;
use super::store::Store;
use crate::runtime::{Infra, Runtime};

/// What makes a handler's pods, in which order.
#[derive(Debug, Clone)]
pub struct PodHandler {
    pub runtime: Arc<dyn Runtime>,
    pub flow: FlowKind,
}

/// The pods of this node.
#[derive(Debug)]
pub struct Pods {
    handlers: BTreeMap<String, PodHandler>,
    /// Handlers that left the configuration while pods of theirs run: for these alone.
    former: BTreeMap<String, Arc<dyn Runtime>>,
    pub(super) effects: Arc<dyn Effects>,
    pub(super) store: Arc<Store>,
    drivers: Mutex<HashMap<PodId, Driver>>,
    /// What containers are made in, for as long as a pod has one.
    infras: Mutex<HashMap<PodId, Arc<dyn Infra>>>,
    /// Flows on their way: the daemon's end waits for them.
    flows: TaskTracker,
    closing: AtomicBool,
    /// Told when a flow ends: its pod has a driver now, or never will.
    settled: Notify,
}

impl Pods {
    pub(crate) fn new(
        handlers: BTreeMap<String, PodHandler>,
        former: BTreeMap<String, Arc<dyn Runtime>>,
        effects: Arc<dyn Effects>,
    ) -> Arc<Self> {
        Arc::new(Self {
            handlers,
            former,
            effects,
            store: Arc::default(),
            drivers: Mutex::default(),
            infras: Mutex::default(),
            flows: TaskTracker::new(),
            closing: AtomicBool::new(false),
            settled: Notify::new(),
        })
    }

    /// Makes a pod and returns when it is READY. The work goes on in a task of its own: a caller that
    /// goes away meanwhile has the pod undone.
    ///
    /// # Errors
    /// Whatever step of the flow failed; everything is undone then.
    pub async fn run(self: &Arc<Self>, spec: PodSpec) -> Result<PodId, PodError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(PodError::ShuttingDown);
        }
        let handler = self.handler(&spec.handler)?.clone();
        let id = PodId::random().map_err(|e| PodError::Io {
            action: "making a pod id".to_owned(),
            source: std::io::Error::other(e.to_string()),
        })?;
        let name = self.store.reserve(&spec.metadata, &id)?;
        let pod = new_pod(id.clone(), spec, handler.flow);
        let base = Base {
            effects: Arc::clone(&self.effects),
            runtime: handler.runtime,
            store: Arc::clone(&self.store),
            pod,
            name,
            unfinished: false,
        };
        let (reply, answer) = oneshot::channel();
        let this = Arc::clone(self);
        self.flows.spawn(async move { this.make(base, reply).await });
        answer.await.unwrap_or(Err(PodError::ShuttingDown))?;
        Ok(id)
    }

    async fn make(self: Arc<Self>, base: Base, reply: oneshot::Sender<Result<(), PodError>>) {
        match flow::make(base, || reply.is_closed()).await {
            Ok(ready) => {
                let id = ready.pod().id.clone();
                self.drive(ready);
                if reply.send(Ok(())).is_err() {
                    tracing::warn!(pod = %id, "the caller went away: removing the pod it asked for");
                    if let Some(driver) = self.driver(&id)
                        && let Err(error) = driver.remove().await
                    {
                        tracing::warn!(pod = %id, error = flow::chain(&error), "removing it failed");
                    }
                }
            }
            Err(failure) => {
                let error = flow::chain(&failure.error);
                tracing::warn!(pod = %failure.pod.id, name = failure.pod.spec.metadata.name, error, "RunPodSandbox failed");
                self.settled.notify_waiters();
                let _ = reply.send(Err(failure.error));
            }
        }
    }

    /// Gives a made pod its driver.
    pub(super) fn drive(self: &Arc<Self>, ready: Ready) {
        let id = ready.pod().id.clone();
        if let Some(infra) = ready.infra() {
            self.infras().insert(id.clone(), infra);
        }
        let mut drivers = self.drivers();
        let gone = {
            let (this, id) = (Arc::downgrade(self), id.clone());
            move || {
                if let Some(this) = this.upgrade() {
                    this.drivers().remove(&id);
                    this.infras().remove(&id);
                }
            }
        };
        drivers.insert(id, Driver::start(ready, gone));
        drop(drivers);
        self.settled.notify_waiters();
    }

    /// Stops a pod by id or unique prefix. Idempotent; unknown ids are stopped already. A pod that is
    /// still being made is waited for.
    ///
    /// # Errors
    /// When processes do not end or the network cannot be torn down; calling again tries again.
    pub async fn stop(self: &Arc<Self>, id: &str) -> Result<(), PodError> {
        match self.find_driver(id).await? {
            Some(driver) => driver.stop().await,
            None => Ok(()),
        }
    }

    /// Removes a pod, stopping it by force first. Idempotent.
    ///
    /// # Errors
    /// As [`Pods::stop`].
    pub async fn remove(self: &Arc<Self>, id: &str) -> Result<(), PodError> {
        if let Some(driver) = self.find_driver(id).await? {
            return driver.remove().await;
        }
        // A failed pod is only a record for the console.
        if let Some(pod) = self.find(id)?
            && pod.state == PodState::Failed
        {
            self.store.remove(&pod.id);
        }
        Ok(())
    }

    /// Changes what a READY pod may use: all of it, or nothing and an error.
    ///
    /// # Errors
    /// When the pod is not READY, or the kernel refuses a limit.
    pub async fn update(self: &Arc<Self>, id: &str, limits: Limits) -> Result<(), PodError> {
        match self.find_driver(id).await? {
            Some(driver) => driver.update(limits).await,
            None => Err(PodError::NotReady { id: id.to_owned() }),
        }
    }

    /// A snapshot of all pods, oldest first. Includes FAILED ones, which only the console shows:
    /// CRI lists leave them out.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        self.store.list()
    }

    /// One pod by id or unique prefix; `None` where there is none.
    ///
    /// # Errors
    /// When the prefix names several pods.
    pub fn find(&self, id: &str) -> Result<Option<Arc<Pod>>, PodError> {
        self.store.find(id)
    }

    /// What is published, for lists and subscriptions.
    #[must_use]
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    /// The handlers, by name.
    #[must_use]
    pub fn handlers(&self) -> &BTreeMap<String, PodHandler> {
        &self.handlers
    }

    /// Refuses new pods and waits for the flows on their way, at most `patience`.
    pub async fn drain(&self, patience: Duration) {
        self.closing.store(true, Ordering::Release);
        self.flows.close();
        if tokio::time::timeout(patience, self.flows.wait()).await.is_err() {
            tracing::warn!("flows still on their way at the end: the next start undoes them");
        }
    }

    /// What adopts a pod whose handler is not in the configuration: any native one can stop and remove it.
    pub(super) fn former(&self, name: &str) -> Option<&Arc<dyn Runtime>> {
        self.former.get(name).or_else(|| self.handlers.values().next().map(|any| &any.runtime))
    }

    pub(super) fn handler(&self, name: &str) -> Result<&PodHandler, PodError> {
        self.handlers.get(name).ok_or_else(|| PodError::UnknownHandler {
            handler: name.to_owned(),
            known: self.handlers.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The pod's driver; `None` for a pod that is gone or failed. A pod is published before it has one:
    /// saying "stopped" of it then would leave it running with nobody to stop it.
    async fn find_driver(&self, id: &str) -> Result<Option<Driver>, PodError> {
        let Some(pod) = self.find(id)? else { return Ok(None) };
        loop {
            let mut settled = std::pin::pin!(self.settled.notified());
            // Registered before the look: an end in between is not missed.
            settled.as_mut().enable();
            if let Some(driver) = self.driver(&pod.id) {
                return Ok(Some(driver));
            }
            match self.find(pod.id.as_str())?.map(|now| now.state) {
                Some(state) if state != PodState::Failed => settled.await,
                _ => return Ok(None),
            }
        }
    }

    fn driver(&self, id: &PodId) -> Option<Driver> {
        self.drivers().get(id).cloned()
    }

    /// A pod's directory under the state directory.
    #[must_use]
    pub fn dir(&self, id: &PodId) -> std::path::PathBuf {
        self.effects.dir(id)
    }

    /// The infra container of a READY pod, to make containers in and to find them again.
    #[must_use]
    pub fn infra(&self, id: &PodId) -> Option<Arc<dyn Infra>> {
        let ready = self.find(id.as_str()).ok().flatten().is_some_and(|pod| pod.state == PodState::Ready);
        let infra = self.infras().get(id).cloned();
        infra.filter(|_| ready)
    }

    fn infras(&self) -> MutexGuard<'_, HashMap<PodId, Arc<dyn Infra>>> {
        self.infras.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // Only whole inserts and removals happen under the lock.
    fn drivers(&self) -> MutexGuard<'_, HashMap<PodId, Driver>> {
        self.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_pod(id: PodId, spec: PodSpec, flow: FlowKind) -> Pod {
    Pod {
        id,
        spec,
        state: PodState::Creating,
        flow,
        created_at_ns: now_ns().max(1),
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
