//! Containers, as statistics and events ask for them.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::broadcast;

use crate::container::model::Container;
use crate::cri::{ContainerChange, ContainerSource};
use crate::pod::model::PodId;
use crate::stats::Containers;

/// A node whose pods have none.
#[derive(Debug)]
pub(super) struct NoContainers(broadcast::Sender<ContainerChange>);

impl NoContainers {
    pub(super) fn new() -> Self {
        Self(broadcast::channel(1).0)
    }
}

impl Containers for NoContainers {
    fn list(&self) -> Vec<Arc<Container>> {
        Vec::new()
    }

    fn upper(&self, _: &Container) -> Option<PathBuf> {
        None
    }
}

impl ContainerSource for NoContainers {
    fn list_and_subscribe(&self) -> (Vec<Arc<Container>>, broadcast::Receiver<ContainerChange>) {
        (Vec::new(), self.0.subscribe())
    }

    fn statuses(&self, _: &PodId) -> Vec<sandboxd_api::cri::ContainerStatus> {
        Vec::new()
    }
}
