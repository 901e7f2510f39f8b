//! The daemon's start: every pod of the journal is adopted or undone, every lease has a pod or is given back.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use super::flow::{Base, PINNED, Ready, chain, pin_path};
use super::model::{NsKind, Pod, PodId, PodState, StepName};
use super::pods::Pods;
use crate::journal::{Found, Journal, JournalError, Record};
use crate::network::Network;

/// Kubelet waits while the plugins sort out what is left of earlier pods.
const GC_PATIENCE: Duration = Duration::from_secs(5);

impl Pods {
    /// Reads the journal and brings the node to what it says. Pods are handled at the same time.
    ///
    /// # Errors
    /// When the journal cannot be read; nothing was touched then. The daemon must not go on: to
    /// [`Pods::reap_leases`] every pod that was not adopted is gone, and running pods would lose their
    /// addresses to others.
    pub async fn recover(self: &Arc<Self>, journal: &Journal) -> Result<(), JournalError> {
        let found = journal.read()?;
        join_all(found.into_iter().map(|found| async move {
            match found {
                Found::Record(record) if record.boot_id != journal.boot_id() => {
                    tracing::info!(pod = %record.pod.id, "of an earlier boot: giving its lease back");
                    self.sweep(&record.pod.id, Some(&record.pod), true).await;
                }
                Found::Record(record) if record.step == StepName::Ready => self.adopt(*record).await,
                Found::Record(record) => {
                    tracing::info!(pod = %record.pod.id, step = record.step.name(), "half made: undoing it");
                    self.undo(*record).await;
                }
                Found::Broken { id, why } => {
                    tracing::warn!(pod = %id, error = chain(&why), "undoing what its name tells of");
                    let killed = self.kill_leftover(&id, None).await;
                    self.sweep(&id, None, killed).await;
                }
            }
        }))
        .await;
        Ok(())
    }

    /// Gives back every lease whose pod is gone. Returns how many could not be given back.
    pub async fn reap_leases(&self, network: &Network) -> usize {
        // The list first: a lease written after it belongs to a pod that is being made.
        let leases = match network.leases() {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the CNI leases cannot be read");
                return 1;
            }
        };
        let mut left = 0;
        for lease in leases {
            let gone = match self.find(lease.pod.as_str()) {
                Ok(Some(pod)) => pod.state == PodState::Failed,
                // One that could not be adopted or swept is not published, but may still run.
                Ok(None) => !self.effects.dir(&lease.pod).exists(),
                Err(_) => false,
            };
            if gone && let Err(error) = self.effects.cni_del(&lease.pod, None).await {
                tracing::warn!(pod = %lease.pod, error = chain(&error), "a lease without a pod stays");
                left += 1;
            }
        }
        left
    }

    /// Tells the plugins which pods there are, so that they forget all others (CNI GC, specification 1.1.0).
    /// Only before pods are made: a plugin may take the address of one it has not been told of.
    pub async fn collect_garbage(&self, network: &Network) {
        // Also those that could not be adopted: they may still run.
        let valid =
            network.leases().map(|leases| leases.into_iter().map(|lease| lease.pod).collect::<Vec<_>>());
        let valid = match valid {
            Ok(valid) => valid,
            Err(error) => {
                tracing::warn!(error = chain(&error), "the CNI leases cannot be read: no CNI GC");
                return;
            }
        };
        match tokio::time::timeout(GC_PATIENCE, network.gc(&valid)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error = chain(&error), "CNI GC failed"),
            Err(_) => tracing::warn!("CNI GC took longer than {} s", GC_PATIENCE.as_secs()),
        }
    }

    /// Asks the plugins whether the networks of the adopted pods are still what they made (CNI CHECK).
    pub async fn check_networks(&self, network: &Network) {
        for pod in self.list() {
            let Some(netns) = pod.netns_path.as_deref().filter(|_| pod.state == PodState::Ready) else {
                continue;
            };
            if let Err(error) = network.check(&pod.id, netns).await {
                // A plugin's word, and some say so of rules that are all there.
                tracing::warn!(
                    pod = %pod.id, error = chain(&error),
                    "CNI CHECK: a plugin says that the pod's network is not as it left it; the pod goes on"
                );
            }
        }
    }

    async fn adopt(self: &Arc<Self>, record: Record) {
        let pod = record.pod;
        let dir = self.effects.dir(&pod.id);
        let runtime = match self.handler(&pod.spec.handler) {
            Ok(handler) => Arc::clone(&handler.runtime),
            Err(error) => {
                let Some(former) = self.former(&pod.spec.handler) else { return };
                tracing::warn!(
                    pod = %pod.id, error = chain(&error),
                    "its handler is no longer in the configuration: what runs goes on, and can be removed"
                );
                Arc::clone(former)
            }
        };
        let infra = match runtime.adopt(&pod.id, &dir).await {
            Ok(infra) => Some(infra),
            Err(error) => {
                if pod.shim_pid.is_some() {
                    tracing::warn!(pod = %pod.id, error = chain(&error), "its infra container is gone");
                }
                None
            }
        };
        let name = match self.store.reserve(&pod.spec.metadata, &pod.id) {
            Ok(name) => name,
            Err(error) => {
                tracing::error!(pod = %pod.id, error = chain(&error), "two pods of one name in the journal");
                return;
            }
        };
        let base = Base {
            effects: Arc::clone(&self.effects),
            runtime,
            store: Arc::clone(&self.store),
            pod,
            name,
            unfinished: false,
        };
        self.drive(Ready::adopted(base, infra));
    }

    async fn undo(&self, record: Record) {
        let killed = self.kill_leftover(&record.pod.id, Some(&record.pod)).await;
        self.sweep(&record.pod.id, Some(&record.pod), killed).await;
    }

    /// A shim of a half-made pod still waits for its daemon. False: it was found, and could not be killed.
    async fn kill_leftover(&self, id: &PodId, pod: Option<&Pod>) -> bool {
        let name = pod.map_or("", |pod| pod.spec.handler.as_str());
        let known = self.handlers().get(name).map(|handler| &handler.runtime);
        let Some(runtime) = known.or_else(|| self.former(name)) else { return true };
        if let Ok(infra) = runtime.adopt(id, &self.effects.dir(id)).await
            && let Err(error) = infra.kill().await
        {
            tracing::warn!(pod = %id, error = chain(&error), "killing its infra container failed");
            return false;
        }
        true
    }

    /// Gives back the lease, the pins, the cgroup and the directory of a pod that is not to live.
    /// What has no trace but the journal (a process, a cgroup) keeps its entry there for the next start;
    /// `clean`: no such thing was left before.
    async fn sweep(&self, id: &PodId, pod: Option<&Pod>, mut clean: bool) {
        self.effects.end_orphans(id).await;
        // Processes first, as in a stop: their address may be given to another pod after DEL.
        if let Some(pod) = pod.filter(|p| !p.cgroup.is_empty())
            && let Err(error) = self.effects.end_processes(pod).await
        {
            tracing::warn!(pod = %id, error = chain(&error), "killing what is left in its cgroup failed");
        }
        let dir = self.effects.dir(id);
        let pin = pin_path(&dir, NsKind::Net);
        let netns = self.effects.is_pinned(&pin).then_some(pin.as_path());
        if let Err(error) = self.effects.cni_del(id, netns).await {
            tracing::warn!(pod = %id, error = chain(&error), "CNI DEL failed; the lease is tried again later");
        }
        for kind in PINNED {
            if let Err(error) = self.effects.unpin(&pin_path(&dir, kind)) {
                tracing::warn!(pod = %id, error = chain(&error), "unpinning failed");
            }
        }
        if let Some(pod) = pod.filter(|p| !p.cgroup.is_empty())
            && let Err(error) = self.effects.remove_cgroup(pod).await
        {
            tracing::warn!(pod = %id, error = chain(&error), "removing the cgroup failed");
            clean = false;
        }
        if !clean {
            return;
        }
        if let Err(error) = self.effects.journal_remove(id) {
            tracing::warn!(pod = %id, error = chain(&error), "removing the journal entry failed");
        }
    }
}
