//! Ready, and the way back: stop and remove, each of which may be called again after it failed.

use std::future;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::{Base, chain};
use crate::cgroup::merge;
use crate::pod::driver::Limits;
use crate::pod::error::PodError;
use crate::pod::model::{NsKind, Pod, PodState, StepName};
use crate::runtime::{Exit, Infra};

/// A pod that was made, as its driver holds it until it is removed.
#[derive(Debug)]
pub(in crate::pod) struct Ready {
    base: Base,
    /// `None`: ended, and its end is known; or lost with a restart.
    infra: Option<Arc<dyn Infra>>,
    /// Not to be spoken with after a restart: its processes may live, and end with their cgroup.
    lost: bool,
    /// Network, pins and cgroup are given back.
    torn_down: bool,
}

impl Ready {
    pub(super) fn new(base: Base, infra: Arc<dyn Infra>) -> Self {
        Self { base, infra: Some(infra), lost: false, torn_down: false }
    }

    /// A pod found again after a restart of the daemon. Without its infra container it is NOTREADY. What
    /// was given back before is not journaled: the next stop gives back all of it, which is idempotent.
    pub(in crate::pod) fn adopted(mut base: Base, infra: Option<Arc<dyn Infra>>) -> Self {
        if infra.is_none() && base.pod.state == PodState::Ready {
            base.pod.state = PodState::NotReady;
            base.pod.error = Some("the infra container was gone when the daemon started".to_owned());
        }
        if infra.is_none() {
            base.pod.shim_pid = None;
            base.pod.infra_pid = None;
        }
        base.effects.observe(&base.pod);
        base.publish();
        // What was given back before the restart is not known for certain (a pod on the host's network never
        // had a netns, a cgroup may have stayed busy). Each step of the teardown is idempotent: all are made.
        Self { base, lost: infra.is_none(), infra, torn_down: false }
    }

    pub(in crate::pod) fn pod(&self) -> &Pod {
        &self.base.pod
    }

    pub(in crate::pod) fn infra(&self) -> Option<Arc<dyn Infra>> {
        self.infra.clone()
    }

    /// Waits for the end of the infra container; for ever where there is none.
    pub(in crate::pod) async fn ended(&self) -> Exit {
        match &self.infra {
            Some(infra) if self.base.pod.state == PodState::Ready => infra.wait().await,
            _ => future::pending().await,
        }
    }

    /// The infra container ended by itself: its namespaces go, the pod is NOTREADY, the address is kept
    /// until kubelet stops the pod.
    pub(in crate::pod) fn note_end(&mut self, exit: Exit) {
        tracing::warn!(pod = %self.base.pod.id, ?exit, "the infra container ended by itself");
        self.not_ready(Some(format!("the infra container ended by itself ({exit})")));
    }

    fn not_ready(&mut self, why: Option<String>) {
        self.base.pod.state = PodState::NotReady;
        self.base.pod.infra_pid = None;
        if self.base.pod.error.is_none() {
            self.base.pod.error = why;
        }
        if let Err(error) = self.base.effects.journal(&self.base.pod, StepName::Ready) {
            tracing::warn!(pod = %self.base.pod.id, error = chain(&error), "the journal keeps an older state");
        }
        self.base.publish();
    }

    /// Gives the pod's cgroup new limits and keeps them in its record.
    pub(in crate::pod) async fn update(&mut self, limits: &Limits) -> Result<(), PodError> {
        if self.base.pod.state != PodState::Ready {
            return Err(PodError::NotReady { id: self.base.pod.id.to_string() });
        }
        let mut pod = self.base.pod.clone();
        pod.spec.resources = merge(&pod.spec.resources, &limits.resources);
        pod.spec.overhead = merge(&pod.spec.overhead, &limits.overhead);
        let effects = &self.base.effects;
        effects.update_cgroup(&pod).await.map_err(|error| PodError::Update(Box::new(error)))?;
        if let Err(error) = effects.journal(&pod, StepName::Ready) {
            if let Err(error) = effects.update_cgroup(&self.base.pod).await {
                tracing::warn!(pod = %pod.id, error = chain(&error), "the new limits stay");
            }
            return Err(PodError::Journal(error));
        }
        self.base.pod = pod;
        self.base.publish();
        Ok(())
    }

    /// Ends the pod's processes and gives its network, namespaces and cgroup back. Idempotent.
    pub(in crate::pod) async fn stop(&mut self) -> Result<(), PodError> {
        if self.torn_down {
            return Ok(());
        }
        self.base.pod.state = PodState::Stopping;
        self.base.publish();
        let result = self.tear_down().await;
        let why = result.as_ref().err().map(|e| chain(e));
        if why.is_some() {
            self.base.pod.error.clone_from(&why);
        }
        self.torn_down = result.is_ok();
        self.not_ready(why);
        result
    }

    /// A pin that somebody unmounted is made anew while the infra container still holds the namespace:
    /// plugins take back less of an address whose namespace they cannot enter.
    fn repin(&self) {
        let (Some(infra), Some(path)) = (&self.infra, &self.base.pod.netns_path) else { return };
        if self.base.effects.is_pinned(path) {
            return;
        }
        let again = infra
            .namespace(NsKind::Net)
            .map_err(|source| PodError::Runtime { action: "taking the pod's network namespace", source })
            .and_then(|netns| {
                self.base.effects.unpin(path)?;
                self.base.effects.pin(netns.as_fd(), path)
            });
        match again {
            Ok(()) => tracing::warn!(pod = %self.base.pod.id, "the pin of its network namespace was gone"),
            Err(error) => tracing::warn!(pod = %self.base.pod.id, error = chain(&error), "its netns is gone"),
        }
    }

    async fn tear_down(&mut self) -> Result<(), PodError> {
        self.repin();
        // Processes first: an address may be given to another pod the moment DEL returns.
        if let Some(infra) = &self.infra {
            infra
                .kill()
                .await
                .map_err(|source| PodError::Runtime { action: "killing the infra container", source })?;
            self.infra = None;
            self.base.pod.shim_pid = None;
        } else if self.lost {
            self.base.effects.end_processes(&self.base.pod).await.map_err(PodError::Cgroup)?;
        }
        let effects = &self.base.effects;
        let pod = &mut self.base.pod;
        let netns = pod.netns_path.as_deref().filter(|path| effects.is_pinned(path));
        effects.cni_del(&pod.id, netns).await.map_err(PodError::Teardown)?;
        for info in &mut pod.namespaces {
            if let Some(path) = &info.pin {
                effects.unpin(path)?;
                info.pin = None;
            }
        }
        pod.netns_path = None;
        effects.forget(&pod.id);
        effects.remove_cgroup(pod).await.map_err(PodError::Cgroup)
    }

    /// Stops by force, then forgets the pod. Gives itself back where something stays to be done.
    pub(in crate::pod) async fn remove(mut self) -> Result<(), (Box<Self>, PodError)> {
        if let Err(error) = self.stop().await {
            return Err((Box::new(self), error));
        }
        if let Err(error) = self.base.effects.journal_remove(&self.base.pod.id) {
            return Err((Box::new(self), PodError::Journal(error)));
        }
        self.base.store.remove(&self.base.pod.id);
        Ok(())
    }
}
