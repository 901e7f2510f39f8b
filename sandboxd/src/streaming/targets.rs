//! What this room asks of the container and pod rooms: a seam, so that sessions are tested without either.

use std::sync::Arc;

use super::StreamingError;
use crate::container::Containers;
use crate::container::error::ContainerError;
use crate::container::model::Container;
use crate::pod::Pods;
use crate::pod::model::Pod;
use crate::runtime::task::{ExecPlan, Task, Wanted};

/// The node's containers and pods. Ids are whole ones or unique prefixes.
pub trait Targets: Send + Sync + std::fmt::Debug + 'static {
    /// See [`Containers::task`].
    ///
    /// # Errors
    /// When there is no such container, or it does not run.
    fn task(&self, id: &str) -> Result<(Arc<Container>, Arc<dyn Task>), ContainerError>;

    /// See [`Containers::exec_plan`].
    ///
    /// # Errors
    /// As [`Targets::task`].
    fn exec_plan(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<(Arc<dyn Task>, ExecPlan), ContainerError>;

    /// A pod, in whatever state.
    ///
    /// # Errors
    /// When there is none.
    fn pod(&self, id: &str) -> Result<Arc<Pod>, StreamingError>;
}

/// The real ones.
#[derive(Debug)]
pub struct NodeTargets {
    pub pods: Arc<Pods>,
    pub containers: Arc<Containers>,
}

impl Targets for NodeTargets {
    fn task(&self, id: &str) -> Result<(Arc<Container>, Arc<dyn Task>), ContainerError> {
        self.containers.task(id)
    }

    fn exec_plan(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<(Arc<dyn Task>, ExecPlan), ContainerError> {
        self.containers.exec_plan(id, command, tty, wanted)
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>, StreamingError> {
        self.pods.find(id)?.ok_or_else(|| StreamingError::NoPod { id: id.to_owned() })
    }
}
