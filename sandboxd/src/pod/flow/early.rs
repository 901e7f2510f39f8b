//! EarlyNetwork: the order of `network-first` handlers, kept to reproduce containerd issue 6908.
//!
//! The network namespace is made and networked before the pod's user namespace exists, so the host's
//! user namespace owns it. A pod without a user namespace works this way; one with a user namespace
//! cannot mount sysfs, and [`Created`] says why.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use super::configured::Configured;
use super::created::Created;
use super::{Failure, Timer, undone};
use crate::pod::error::PodError;
use crate::pod::model::{NsKind, StepName};
use crate::pod::spec::NetworkMode;
use crate::runtime::NetworkPlan;

#[derive(Debug)]
pub(in crate::pod) struct EarlyNetwork {
    prev: Configured,
    /// `None`: a pod on the host's network, for which both orders are one.
    netns: Option<Arc<OwnedFd>>,
}

impl EarlyNetwork {
    pub(super) async fn make(prev: Configured) -> Result<Self, Box<Failure>> {
        let mut this = Self { prev, netns: None };
        if this.prev.base.pod.spec.namespaces.network == NetworkMode::Node {
            return Ok(this);
        }
        let mut timer = Timer::start(StepName::Networked);
        match this.side_effects().await {
            Ok(cni) => {
                timer.cni = cni;
                this.prev.base.done(timer);
                Ok(this)
            }
            Err(error) => {
                this.prev.base.failed(timer, &error);
                Err(this.undo(error).await)
            }
        }
    }

    async fn side_effects(&mut self) -> Result<Duration, PodError> {
        let lease = self.prev.leased().await?;
        let pin = self.prev.base.pin_path(NsKind::Net);
        let base = &mut self.prev.base;
        base.pod.netns_path = Some(pin.clone());
        base.effects.journal(&base.pod, StepName::Networked).map_err(PodError::Journal)?;
        let netns = Arc::new(base.effects.make_netns().await?);
        self.netns = Some(Arc::clone(&netns));
        base.effects.pin(netns.as_fd(), &pin)?;
        let mut info = base.effects.identify(NsKind::Net, netns.as_fd())?;
        info.pin = Some(pin.clone());
        base.pod.namespaces.push(info);
        base.effects.observe(&base.pod);
        base.effects.loopback_up(netns.as_fd()).await.map_err(PodError::Network)?;
        let Some(lease) = lease else { return Ok(Duration::ZERO) };
        let attached = base.effects.cni_add(&lease, &pin).await.map_err(PodError::Network)?;
        base.pod.ips = attached.ips;
        Ok(attached.cni)
    }

    pub(super) async fn create(self) -> Result<Created, Box<Failure>> {
        let network = match &self.netns {
            Some(fd) => NetworkPlan::Join(Arc::clone(fd)),
            None => NetworkPlan::Host,
        };
        Created::make(self.prev, network, self.netns).await
    }

    async fn undo(self, error: PodError) -> Box<Failure> {
        undo_early(self.prev, error).await
    }
}

/// Gives the early network back, then what came before it.
pub(super) async fn undo_early(mut prev: Configured, error: PodError) -> Box<Failure> {
    let base = &mut prev.base;
    base.effects.forget(&base.pod.id);
    let pin = base.pod.netns_path.take();
    undone(&base.pod, "CNI DEL", base.effects.cni_del(&base.pod.id, pin.as_deref()).await);
    if let Some(pin) = pin {
        undone(&base.pod, "unpinning the network namespace", base.effects.unpin(&pin));
    }
    prev.undo(error).await
}
