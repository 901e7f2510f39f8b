//! Networked: lo is up, CNI has given the pod its addresses, the infra container is in its cgroup.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::configured::Configured;
use super::created::Created;
use super::ready::Ready;
use super::{Base, Failure, Timer, undone};
use crate::network::Attached;
use crate::pod::error::PodError;
use crate::pod::model::{FlowKind, NsKind, PodState, StepName};
use crate::runtime::Infra;

#[derive(Debug)]
pub(in crate::pod) struct Networked {
    prev: Created,
}

impl Networked {
    pub(super) async fn make(prev: Created) -> Result<Self, Box<Failure>> {
        let mut this = Self { prev };
        let mut timer = Timer::start(StepName::Networked);
        let result = this.side_effects().await;
        let base = &mut this.prev.prev.base;
        match result {
            Ok(cni) => {
                timer.cni = cni;
                base.done(timer);
                Ok(this)
            }
            Err(error) => {
                base.failed(timer, &error);
                Err(this.undo(error).await)
            }
        }
    }

    async fn side_effects(&mut self) -> Result<Duration, PodError> {
        let created = &mut self.prev;
        let configured = &mut created.prev;
        // The first write to a v1 cgroup.procs may wait for a grace period of several ms: CNI's time.
        let cgroup = configured.cgroup.clone();
        let pid = created.infra.infra_pid();
        let filling = tokio::task::spawn_blocking(move || cgroup.map_or(Ok(()), |cgroup| cgroup.fill(pid)));
        let attached = match &created.netns {
            Some(netns) if configured.base.pod.flow == FlowKind::RuntimeFirst => {
                attach(configured, netns).await
            }
            _ => Ok(None),
        };
        // Waited for also when the network failed: the undo must not race a cgroup that is being filled.
        let filled = filling.await;
        let attached = attached?;
        match filled {
            Ok(result) => result.map_err(PodError::Cgroup)?,
            Err(join) => {
                let action = "putting the infra container into its cgroup".to_owned();
                return Err(PodError::Io { action, source: std::io::Error::other(join) });
            }
        }
        let Some(attached) = attached else { return Ok(Duration::ZERO) };
        configured.base.pod.ips = attached.ips;
        Ok(attached.cni)
    }

    /// The exec of the pause: the last step that can fail.
    pub(super) async fn start(mut self) -> Result<Ready, Box<Failure>> {
        let timer = Timer::start(StepName::Started);
        let base = &mut self.prev.prev.base;
        let started = match base.effects.journal(&base.pod, StepName::Started) {
            Ok(()) => self
                .prev
                .infra
                .start()
                .await
                .map_err(|source| PodError::Runtime { action: "starting the infra container", source }),
            Err(error) => Err(PodError::Journal(error)),
        };
        let started = started.and_then(|()| {
            base.pod.steps.push(timer.step(None));
            let ready = Timer::start(StepName::Ready);
            // Only now is there a cgroup namespace of the pod's own: its root is the pod's cgroup.
            refresh_cgroup_namespace(base, &*self.prev.infra)?;
            base.pod.state = PodState::Ready;
            base.pod.steps.push(ready.step(None));
            base.effects.journal(&base.pod, StepName::Ready).map_err(PodError::Journal)
        });
        match started {
            Ok(()) => {
                base.publish();
                let Created { prev, infra, netns } = self.prev;
                drop(netns);
                Ok(Ready::new(prev.base, infra))
            }
            Err(error) => {
                base.failed(timer, &error);
                Err(self.undo(error).await)
            }
        }
    }

    /// The caller has gone.
    pub(super) async fn abandon(self) -> Box<Failure> {
        self.undo(PodError::Abandoned).await
    }

    async fn undo(mut self, error: PodError) -> Box<Failure> {
        let base = &mut self.prev.prev.base;
        if base.pod.flow == FlowKind::RuntimeFirst && self.prev.netns.is_some() {
            let path = base.pod.netns_path.clone();
            undone(&base.pod, "CNI DEL", base.effects.cni_del(&base.pod.id, path.as_deref()).await);
        }
        self.prev.undo(error).await
    }
}

/// lo and CNI ADD, on the network namespace that the runtime made.
async fn attach(configured: &mut Configured, netns: &OwnedFd) -> Result<Option<Attached>, PodError> {
    let lease = configured.leased().await?;
    let base = &configured.base;
    base.effects.journal(&base.pod, StepName::Networked).map_err(PodError::Journal)?;
    base.effects.loopback_up(netns.as_fd()).await.map_err(PodError::Network)?;
    match (&lease, &base.pod.netns_path) {
        (Some(lease), Some(path)) => {
            base.effects.cni_add(lease, path).await.map(Some).map_err(PodError::Network)
        }
        _ => Ok(None),
    }
}

fn refresh_cgroup_namespace(base: &mut Base, infra: &dyn Infra) -> Result<(), PodError> {
    let fd = infra
        .namespace(NsKind::Cgroup)
        .map_err(|source| PodError::Runtime { action: "taking the pod's namespaces", source })?;
    let now = base.effects.identify(NsKind::Cgroup, fd.as_fd())?;
    base.pod.namespaces.retain(|info| info.kind != NsKind::Cgroup);
    base.pod.namespaces.push(now);
    base.effects.observe(&base.pod);
    Ok(())
}
