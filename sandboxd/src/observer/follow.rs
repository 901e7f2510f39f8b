//! Tells the observer of the containers: their mount namespaces and first processes.

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use tokio::sync::broadcast::error::RecvError;

use super::Observer;
use super::attribution::{Attribution, ContainerKeys};
use crate::container::ContainerChange;
use crate::container::model::{Container, ContainerState};
use crate::container::store::Store;
use crate::pod::model::NsInode;

/// Follows the list of containers for as long as there is one.
pub async fn follow_containers(store: Arc<Store>, attribution: Arc<Attribution>, observer: Observer) {
    loop {
        let (listed, mut changes) = store.list_and_subscribe();
        attribution.retain_containers(|id| listed.iter().any(|container| container.id == *id));
        for container in listed {
            tell(&attribution, &observer, &container);
        }
        loop {
            match changes.recv().await {
                Ok(ContainerChange::Upsert(container)) => tell(&attribution, &observer, &container),
                Ok(ContainerChange::Removed(id)) => {
                    attribution.remove_container(&id);
                    observer.forget_container(&id);
                }
                // Once more from the list.
                Err(RecvError::Lagged(_)) => break,
                Err(RecvError::Closed) => return,
            }
        }
    }
}

fn tell(attribution: &Attribution, observer: &Observer, container: &Container) {
    let alive = matches!(container.state, ContainerState::Created | ContainerState::Running);
    // Its inodes and pids may be another's from now on.
    let Some(pid) = container.pid.filter(|_| alive) else {
        observer.unwatch_container(&container.id);
        return attribution.remove_container(&container.id);
    };
    let mntns = std::fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|file| NsInode(file.ino()));
    if let Some(mntns) = mntns {
        observer.watch_container(&container.id, mntns);
    }
    attribution.upsert_container(ContainerKeys {
        id: container.id.clone(),
        pod: container.pod.clone(),
        name: container.spec.metadata.name.clone(),
        created_at_ns: container.created_at_ns,
        pid: Some(pid),
        mntns,
    });
}
