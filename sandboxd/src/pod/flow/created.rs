//! Created: the cgroup and all namespaces exist, these are pinned, the infra container waits before its exec.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use super::configured::Configured;
use super::early::undo_early;
use super::networked::Networked;
use super::{Base, Failure, PINNED, Timer, chain, now_ns, undone};
use crate::observer::ownership;
use crate::pod::error::PodError;
use crate::pod::model::{FlowKind, NsInode, NsKind, Pod, StepName, Sysfs};
use crate::pod::spec::NetworkMode;
use crate::runtime::{Infra, NetworkPlan, RuntimeError};

/// The kinds shown of each pod.
const SHOWN: [NsKind; 7] =
    [NsKind::User, NsKind::Net, NsKind::Mnt, NsKind::Pid, NsKind::Ipc, NsKind::Uts, NsKind::Cgroup];

#[derive(Debug)]
pub(in crate::pod) struct Created {
    pub(super) prev: Configured,
    pub(super) infra: Arc<dyn Infra>,
    /// `None` only for a pod on the host's network.
    pub(super) netns: Option<Arc<OwnedFd>>,
}

impl Created {
    /// `early`: the network namespace of a network-first handler, already networked.
    pub(super) async fn make(
        mut prev: Configured,
        network: NetworkPlan,
        early: Option<Arc<OwnedFd>>,
    ) -> Result<Self, Box<Failure>> {
        let timer = Timer::start(StepName::Created);
        if let Err(error) = prev.base.effects.journal(&prev.base.pod, StepName::Created) {
            return Err(undo_created(prev, PodError::Journal(error)).await);
        }
        let plan = prev.plan(network);
        let since_ns = now_ns();
        let (effects, pod) = (Arc::clone(&prev.base.effects), prev.base.pod.clone());
        // The pod's first checks come from a child of its shim, before the daemon knows a namespace of it.
        let born = move |shim| effects.observe(&Pod { shim_pid: Some(shim), ..pod.clone() });
        // The cgroup's directories take as long as the namespaces, and neither needs the other.
        let (cgroup, infra) = tokio::join!(
            prev.base.effects.create_cgroup(&prev.base.pod),
            prev.base.runtime.create(&plan, &born)
        );
        let infra = match infra {
            Ok(infra) => infra,
            Err(source) => {
                let error = explained(&mut prev.base, source, since_ns).await;
                prev.base.failed(timer, &error);
                return Err(undo_created(prev, error).await);
            }
        };
        let mut this = Self { prev, infra, netns: early };
        let made = cgroup.map_err(PodError::Cgroup).and_then(|cgroup| {
            this.prev.cgroup = Some(cgroup);
            this.take_namespaces()
        });
        match made {
            Ok(()) => {
                this.prev.base.effects.observe(&this.prev.base.pod);
                this.prev.base.done(timer);
                Ok(this)
            }
            Err(error) => {
                this.prev.base.failed(timer, &error);
                Err(this.undo(error).await)
            }
        }
    }

    /// Takes the namespaces through the pidfd, asserts who owns the network, and pins what is shared.
    fn take_namespaces(&mut self) -> Result<(), PodError> {
        let infra = Arc::clone(&self.infra);
        let base = &mut self.prev.base;
        base.pod.shim_pid = Some(infra.shim_pid());
        base.pod.infra_pid = Some(infra.infra_pid());
        base.pod.sysfs = infra.sysfs();
        base.pod.namespaces.clear();
        for kind in SHOWN {
            let fd = infra
                .namespace(kind)
                .map_err(|source| PodError::Runtime { action: "taking the pod's namespaces", source })?;
            let mut info = base.effects.identify(kind, fd.as_fd())?;
            if PINNED.contains(&kind) && !info.host {
                let path = base.pin_path(kind);
                if !(kind == NsKind::Net && self.netns.is_some()) {
                    base.effects.pin(fd.as_fd(), &path)?;
                }
                info.pin = Some(path);
            }
            if kind == NsKind::Net && base.pod.spec.namespaces.network == NetworkMode::Pod {
                base.pod.netns_path.clone_from(&info.pin);
                self.netns.get_or_insert_with(|| Arc::new(fd));
            }
            base.pod.namespaces.push(info);
        }
        assert_owner(&base.pod)
    }

    pub(super) async fn network(self) -> Result<Networked, Box<Failure>> {
        Networked::make(self).await
    }

    /// The caller has gone.
    pub(super) async fn abandon(self) -> Box<Failure> {
        self.undo(PodError::Abandoned).await
    }

    pub(super) async fn undo(mut self, error: PodError) -> Box<Failure> {
        let base = &mut self.prev.base;
        base.unfinished |= !undone(&base.pod, "killing the infra container", self.infra.kill().await);
        drop(self.netns);
        undo_created(self.prev, error).await
    }
}

/// Unpins, then goes on with what came before, which a network-first handler did in another order.
async fn undo_created(prev: Configured, error: PodError) -> Box<Failure> {
    prev.base.effects.forget(&prev.base.pod.id);
    let early = prev.base.pod.flow == FlowKind::NetworkFirst && prev.base.pod.netns_path.is_some();
    for info in prev.base.pod.namespaces.iter().filter(|n| !(early && n.kind == NsKind::Net)) {
        if let Some(pin) = &info.pin {
            undone(&prev.base.pod, "unpinning a namespace", prev.base.effects.unpin(pin));
        }
    }
    if early { undo_early(prev, error).await } else { prev.undo(error).await }
}

/// Puts the denied check behind a refused mount into the error.
async fn explained(base: &mut Base, source: RuntimeError, since_ns: i64) -> PodError {
    if let RuntimeError::InPod { pid, source: io, step } = &source
        && io.raw_os_error() == Some(libc::EPERM)
    {
        let seen = base.effects.explain(&base.pod, *pid, since_ns).await;
        let told =
            seen.or_else(|| step.contains("sysfs").then(|| ownership::sysfs_denied(&base.pod)).flatten());
        if let Some(explanation) = told {
            if step.contains("sysfs") {
                base.pod.sysfs = Sysfs::Denied(chain(&source));
            }
            let words = explanation.brief();
            base.pod.explanation = Some(explanation);
            return PodError::Create { explanation: Some(words), source };
        }
    }
    PodError::Create { explanation: None, source }
}

/// The order is right only if the pod's user namespace owns the pod's network namespace: asked of the
/// kernel (NS_GET_USERNS), not concluded. Network-first handlers break the rule on purpose.
fn assert_owner(pod: &Pod) -> Result<(), PodError> {
    if pod.spec.namespaces.user.is_none()
        || pod.spec.namespaces.network == NetworkMode::Node
        || pod.flow == FlowKind::NetworkFirst
    {
        return Ok(());
    }
    let inode = |kind| pod.namespace(kind).map_or(NsInode(0), |n| n.inode);
    let owner = pod.namespace(NsKind::Net).and_then(|n| n.owner).unwrap_or(NsInode(0));
    let userns = inode(NsKind::User);
    if owner == userns {
        return Ok(());
    }
    Err(PodError::WrongOwner { netns: inode(NsKind::Net), owner, userns })
}
