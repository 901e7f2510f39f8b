//! What a container stands on, outside its runtime: its cgroup, its directory, its records. A seam, so that the
//! driver's order is tested without them.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::error::ContainerError;
use super::model::ContainerId;
use super::record::{Record, Records, io_error};
use crate::cgroup::{CgroupError, Cgroups, Planned};
use crate::pod::spec::Resources;

/// Side effects of a container's end, its limits and its removal. Those of the cgroup may wait on the kernel.
#[tonic::async_trait]
pub(super) trait Ground: Send + Sync + std::fmt::Debug {
    /// Kills what is left in the cgroup.
    async fn kill(&self) -> Result<(), ContainerError>;
    /// How many processes of it the kernel has killed for lack of memory.
    async fn oom_kills(&self) -> u64;
    async fn limit(&self, resources: Resources) -> Result<(), ContainerError>;
    /// Of its processes, those that have `from` get `to`.
    async fn oom_score(&self, from: i32, to: i32) -> Result<(), ContainerError>;
    fn record(&self, record: &Record) -> Result<(), ContainerError>;
    /// The cgroup, what the container wrote, the record; the record last, so that what fails is tried again at
    /// the next start. Idempotent.
    async fn clear(&self) -> Result<(), ContainerError>;
}

/// The real one.
#[derive(Debug)]
pub(super) struct Node {
    pub id: ContainerId,
    pub cgroups: Cgroups,
    pub planned: Planned,
    pub records: Arc<Records>,
    /// The containers' directory under the root directory.
    pub root: PathBuf,
}

impl Node {
    pub fn dir(&self) -> PathBuf {
        self.root.join(self.id.as_str())
    }
}

#[tonic::async_trait]
impl Ground for Node {
    async fn kill(&self) -> Result<(), ContainerError> {
        let (cgroups, planned) = (self.cgroups.clone(), self.planned.clone());
        blocking(move || cgroups.kill(&planned)).await
    }

    async fn oom_kills(&self) -> u64 {
        // Two small files: not worth a thread. A cgroup that is gone has nothing to tell.
        self.cgroups.oom_kills(&self.planned).unwrap_or(0)
    }

    async fn limit(&self, resources: Resources) -> Result<(), ContainerError> {
        let (cgroups, planned) = (self.cgroups.clone(), self.planned.clone());
        blocking(move || cgroups.update(&planned, &resources, &Resources::default())).await
    }

    async fn oom_score(&self, from: i32, to: i32) -> Result<(), ContainerError> {
        let (cgroups, planned) = (self.cgroups.clone(), self.planned.clone());
        blocking(move || cgroups.set_oom_score(&planned, from, to)).await
    }

    fn record(&self, record: &Record) -> Result<(), ContainerError> {
        self.records.write(record)
    }

    async fn clear(&self) -> Result<(), ContainerError> {
        let (cgroups, planned) = (self.cgroups.clone(), self.planned.clone());
        blocking(move || cgroups.remove(&planned)).await?;
        let dir = self.dir();
        // Out of the way first: what a crash leaves of it is no container's any more.
        let gone = self.root.join(format!(".gone-{}", self.id));
        let removed = tokio::task::spawn_blocking(move || remove(&dir, &gone)).await;
        removed.unwrap_or_else(|_| Err(ContainerError::ShuttingDown))?;
        self.records.remove(&self.id)
    }
}

fn remove(dir: &std::path::Path, gone: &std::path::Path) -> Result<(), ContainerError> {
    match fs::rename(dir, gone) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("renaming", dir)(error)),
    }
    sandboxd_image::remove_tree(gone).map_err(io_error("removing", gone))
}

async fn blocking(
    work: impl FnOnce() -> Result<(), CgroupError> + Send + 'static,
) -> Result<(), ContainerError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ContainerError::ShuttingDown),
    }
}
