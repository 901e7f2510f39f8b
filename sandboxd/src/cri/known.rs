//! The container room as the rooms of figures and events see it.

use std::path::PathBuf;
use std::sync::Arc;

use sandboxd_api::cri;
use tokio::sync::broadcast;

use super::{ContainerService, ContainerSource, container_translate};
use crate::container::model::Container;
use crate::container::{ContainerChange, Containers};
use crate::pod::model::PodId;
use crate::stats;

/// A view on the containers of the node.
#[derive(Debug)]
pub struct Known(Arc<Containers>);

impl Known {
    #[must_use]
    pub fn new(containers: Arc<Containers>) -> Self {
        Self(containers)
    }
}

impl stats::Containers for Known {
    fn list(&self) -> Vec<Arc<Container>> {
        self.0.list()
    }

    fn upper(&self, container: &Container) -> Option<PathBuf> {
        Some(self.0.dir(&container.id).join("upper"))
    }

    fn root(&self) -> PathBuf {
        self.0.root()
    }
}

impl ContainerSource for Known {
    fn list_and_subscribe(&self) -> (Vec<Arc<Container>>, broadcast::Receiver<ContainerChange>) {
        self.0.store().list_and_subscribe()
    }

    fn statuses(&self, pod: &PodId) -> Vec<cri::ContainerStatus> {
        container_translate::statuses(self.0.list(), pod)
    }
}
