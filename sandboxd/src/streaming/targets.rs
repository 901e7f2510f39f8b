//! What this room asks of the container and pod rooms: a seam, so that sessions are tested without either.

use std::sync::Arc;

use oci_spec::runtime::Process;

use super::StreamingError;
use crate::pod::Pods;
use crate::pod::model::Pod;
use crate::runtime::task::Task;

/// A container whose process runs.
#[derive(Debug, Clone)]
pub struct Running {
    pub id: String,
    pub task: Arc<dyn Task>,
    /// Its first process: an exec's is the same, but for what the caller changes.
    pub process: Process,
    /// Its input ends with the first client that attached it.
    pub stdin_once: bool,
    pub tty: bool,
}

/// The node's containers and pods.
pub trait Targets: Send + Sync + std::fmt::Debug + 'static {
    /// A running container, by id or unique prefix.
    ///
    /// # Errors
    /// When there is none, or it does not run.
    fn running(&self, id: &str) -> Result<Running, StreamingError>;

    /// A pod, by id or unique prefix, in whatever state.
    ///
    /// # Errors
    /// When there is none.
    fn pod(&self, id: &str) -> Result<Arc<Pod>, StreamingError>;
}

/// A node without containers: pods alone can be connected to.
impl Targets for Arc<Pods> {
    fn running(&self, id: &str) -> Result<Running, StreamingError> {
        Err(StreamingError::NoContainer { id: id.to_owned() })
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>, StreamingError> {
        Pods::find(self, id)?.ok_or_else(|| StreamingError::NoPod { id: id.to_owned() })
    }
}
