//! The daemon's start: every container of the records goes on, has ended, or is undone.

use std::collections::HashSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use sandboxd_image::LayerId;
use tokio::sync::broadcast;

use super::containers::Containers;
use super::driver::Live;
use super::error::ContainerError;
use super::ground::Ground;
use super::model::{ContainerId, ContainerState, Ended};
use super::record::{Phase, Record};
use super::store::ContainerChange;
use crate::pod::now_ns;
use crate::runtime::{Exit, has_ended};

/// For a driver to note an end that came before it.
const TOLD: Duration = Duration::from_secs(5);

impl Containers {
    /// Brings the node to what the records say. After the pods have been recovered.
    ///
    /// # Errors
    /// When the records cannot be read; nothing was touched then.
    pub async fn recover(self: &Arc<Self>) -> Result<(), ContainerError> {
        let records = self.records.read()?;
        let known: HashSet<String> = records.iter().map(|r| r.container.id.to_string()).collect();
        join_all(records.into_iter().map(|record| async move {
            let id = record.container.id.clone();
            if let Err(error) = self.recover_one(record).await {
                tracing::warn!(container = %id, %error, "it could not be recovered: the next start tries again");
            }
        }))
        .await;
        self.sweep(&known);
        Ok(())
    }

    async fn recover_one(self: &Arc<Self>, mut record: Record) -> Result<(), ContainerError> {
        let id = record.container.id.clone();
        let ground = self.ground(&id, &record.container.pod, &record.cgroup_parent)?;
        let pod_is_there = self.base.pods.find(record.container.pod.as_str())?.is_some();
        let infra = self.base.pods.infra(&record.container.pod);
        let adopted = match &infra {
            Some(infra) => infra.adopt_container(&id).await.unwrap_or_else(|error| {
                tracing::warn!(container = %id, %error, "its pod's runtime does not tell of it");
                None
            }),
            None => None,
        };
        if record.phase == Phase::Making || !pod_is_there {
            tracing::info!(container = %id, phase = ?record.phase, "half made, or without its pod: undoing it");
            if let Some(adopted) = adopted {
                let _ = adopted.task.remove().await;
            }
            ground.kill().await?;
            return ground.clear().await;
        }
        let alive = matches!(record.container.state, ContainerState::Created | ContainerState::Running);
        match &adopted {
            // Started while nobody wrote it down.
            Some(adopted) if alive && adopted.started && record.container.started_at_ns.is_none() => {
                record.container.state = ContainerState::Running;
                record.container.started_at_ns = Some(now_ns());
            }
            Some(_) => {}
            None if alive => {
                let container = &mut record.container;
                container.state = ContainerState::Exited;
                container.pid = None;
                let message =
                    "its end was not seen: the pod's shim was gone when sandboxd started".to_owned();
                container.ended =
                    Some(Ended { exit: Exit::Unknown, at_ns: now_ns(), oom_killed: false, message });
                ground.kill().await?;
                ground.record(&record)?;
            }
            None => {}
        }
        let container = &record.container;
        let name = self.store.reserve(&container.pod, &container.spec.metadata, &id)?;
        let layers: Vec<_> = container.layers.iter().cloned().map(LayerId).collect();
        let hold = self.base.images.hold(&layers);
        if let Err(error) = &hold {
            tracing::warn!(container = %id, %error, "a layer that it needs is gone");
        }
        let task = adopted.map(|adopted| adopted.task);
        let died = alive && task.as_ref().is_some_and(|task| has_ended(task.pidfd()));
        let (_, changes) = self.store.list_and_subscribe();
        self.drive(Live {
            record,
            task,
            ground: Arc::new(ground),
            store: Arc::clone(&self.store),
            name: Some(name),
            hold: hold.ok(),
        });
        // Nobody is shown a container as running that ended while there was no daemon.
        if died && tokio::time::timeout(TOLD, end_of(changes, &id)).await.is_err() {
            tracing::warn!(container = %id, "it has ended, but how is not known yet");
        }
        Ok(())
    }

    /// Removes what containers wrote that have no record any more: of an earlier boot, or of a removal that was
    /// cut short.
    fn sweep(&self, known: &HashSet<String>) {
        let Ok(entries) = fs::read_dir(self.root()) else { return };
        for entry in entries.flatten() {
            if known.contains(&*entry.file_name().to_string_lossy()) {
                continue;
            }
            if let Err(error) = sandboxd_image::remove_tree(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "removing what a container left failed");
            }
        }
    }
}

/// Waits until a container is published as ended.
async fn end_of(mut changes: broadcast::Receiver<ContainerChange>, id: &ContainerId) {
    loop {
        match changes.recv().await {
            Ok(ContainerChange::Upsert(container)) if container.id == *id && container.ended.is_some() => {
                return;
            }
            // What was missed cannot be told from what is to come.
            Err(_) => return,
            Ok(_) => {}
        }
    }
}
