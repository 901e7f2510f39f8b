//! What the endpoint asks of the container room: a seam, so that the wire is tested without namespaces.

use std::sync::Arc;
use std::time::Duration;

use crate::container::error::ContainerError;
use crate::container::exec::ExecOutput;
use crate::container::model::{Container, ContainerId};
use crate::container::spec::ContainerSpec;
use crate::pod::model::{Pod, PodId};
use crate::pod::spec::Resources;

/// The containers of this node. Ids are whole ones or unique prefixes.
#[tonic::async_trait]
pub trait ContainerService: Send + Sync + std::fmt::Debug + 'static {
    /// Makes a container in a pod, up to the point before its command is executed.
    async fn create(&self, pod: Arc<Pod>, spec: ContainerSpec) -> Result<ContainerId, ContainerError>;
    async fn start(&self, id: &str) -> Result<(), ContainerError>;
    /// Idempotent; an unknown container is stopped already.
    async fn stop(&self, id: &str, grace: Duration) -> Result<(), ContainerError>;
    /// By force. Idempotent.
    async fn remove(&self, id: &str) -> Result<(), ContainerError>;
    /// Stops all containers of a pod by force, at the same time.
    async fn stop_pod(&self, pod: &PodId) -> Result<(), ContainerError>;
    /// Removes all containers of a pod by force.
    async fn remove_pod(&self, pod: &PodId) -> Result<(), ContainerError>;
    /// A snapshot, oldest first.
    fn list(&self) -> Vec<Arc<Container>>;
    fn find(&self, id: &str) -> Result<Option<Arc<Container>>, ContainerError>;
    /// New limits: those that are named change, all of them or none.
    async fn update(&self, id: &str, resources: Resources) -> Result<(), ContainerError>;
    async fn reopen_log(&self, id: &str) -> Result<(), ContainerError>;
    /// `None`: no time limit.
    async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<ExecOutput, ContainerError>;
    /// The OCI runtime spec it was made with, for a verbose status; `None` where it is not kept.
    fn runtime_spec(&self, id: &ContainerId) -> Option<serde_json::Value>;
}
