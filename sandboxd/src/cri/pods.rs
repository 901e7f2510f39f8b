//! What the endpoint asks of the pod room: a seam, so that the wire is tested without namespaces.

use std::sync::Arc;

use crate::pod::model::{Pod, PodId};
use crate::pod::spec::PodSpec;
use crate::pod::{Limits, PodError, Pods};

/// The pods of this node, as [`Pods`] keeps them.
#[tonic::async_trait]
pub trait PodService: Send + Sync + std::fmt::Debug + 'static {
    /// See [`Pods::run`].
    async fn run(&self, spec: PodSpec) -> Result<PodId, PodError>;
    /// See [`Pods::stop`].
    async fn stop(&self, id: &str) -> Result<(), PodError>;
    /// See [`Pods::remove`].
    async fn remove(&self, id: &str) -> Result<(), PodError>;
    /// See [`Pods::update`].
    async fn update(&self, id: &str, limits: Limits) -> Result<(), PodError>;
    /// See [`Pods::list`].
    fn list(&self) -> Vec<Arc<Pod>>;
    /// See [`Pods::find`].
    fn find(&self, id: &str) -> Result<Option<Arc<Pod>>, PodError>;
}

#[tonic::async_trait]
impl PodService for Arc<Pods> {
    async fn run(&self, spec: PodSpec) -> Result<PodId, PodError> {
        Pods::run(self, spec).await
    }

    async fn stop(&self, id: &str) -> Result<(), PodError> {
        Pods::stop(self, id).await
    }

    async fn remove(&self, id: &str) -> Result<(), PodError> {
        Pods::remove(self, id).await
    }

    async fn update(&self, id: &str, limits: Limits) -> Result<(), PodError> {
        Pods::update(self, id, limits).await
    }

    fn list(&self) -> Vec<Arc<Pod>> {
        Pods::list(self)
    }

    fn find(&self, id: &str) -> Result<Option<Arc<Pod>>, PodError> {
        Pods::find(self, id)
    }
}
