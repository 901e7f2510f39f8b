//! The images of this node: the store and the pulls of the crate `sandboxd-image`, as the configuration has
//! them.

mod archives;
mod client;
mod client_archives;
mod service;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use sandboxd_image::pull::{PolicyFile, SignaturePolicy};
use sandboxd_image::registry::{Hosts, HttpSettings};
use sandboxd_image::{Image, Images, Limits, PullError, PullRequest, PullSettings, Puller, Settings, Usage};

use tokio::sync::watch;

pub use client::{ImageCommand, run as run_command};
pub use service::server;

use crate::config;

/// How long the figures of the containers' files hold: to count them is to walk through them.
const USAGE_AGE: Duration = Duration::from_secs(30);
/// How long a caller waits for them to be counted: crictl gives any answer two seconds.
const USAGE_PATIENCE: Duration = Duration::from_millis(500);

/// The store's settings.
#[must_use]
pub fn settings(config: &config::Image) -> Settings {
    let limits = Limits { max_layer: config.max_layer_gib.saturating_mul(1 << 30), ..Limits::default() };
    Settings { pinned: config.pinned.clone(), unpackers: config.unpackers, limits, ..Settings::default() }
}

/// What the endpoints ask about images.
#[derive(Debug, Clone)]
pub struct ImageRoom {
    images: Arc<Images>,
    puller: Arc<Puller>,
    /// Of the containers' own files.
    containers: PathBuf,
    counted: Arc<watch::Sender<Option<(Instant, Usage)>>>,
    counting: Arc<AtomicBool>,
}

impl ImageRoom {
    /// Over an open store; `root` is the daemon's.
    ///
    /// # Errors
    /// When the signature policy cannot be used: without it nothing may be pulled.
    pub fn new(
        images: Arc<Images>,
        config: &config::Image,
        root: &Path,
    ) -> Result<Self, sandboxd_image::pull::BadPolicy> {
        let given = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        let policy = given(&config.signature_policy).map(|path| PolicyFile::read(&path)).transpose()?;
        let settings = PullSettings {
            hosts: Hosts::new(given(&config.registry_config_dir)),
            per_pull: config.max_parallel_downloads,
            total: config.max_total_downloads,
            timeout: config.pull_timeout,
            http: HttpSettings {
                connect_timeout: config.connect_timeout,
                idle_timeout: config.progress_timeout,
                ..HttpSettings::default()
            },
            policy: policy.map(|policy| Arc::new(policy) as Arc<dyn SignaturePolicy>),
        };
        let puller = Puller::new(Arc::clone(&images), settings);
        let containers = root.join("containers");
        Ok(Self { images, puller, containers, counted: Arc::default(), counting: Arc::default() })
    }

    #[must_use]
    pub fn images(&self) -> &Arc<Images> {
        &self.images
    }

    #[must_use]
    pub fn puller(&self) -> &Arc<Puller> {
        &self.puller
    }

    /// Pulls an image.
    ///
    /// # Errors
    /// See [`Puller::pull`].
    pub async fn pull(&self, request: PullRequest) -> Result<Arc<Image>, Arc<PullError>> {
        self.puller.pull(request).await
    }

    /// Where the containers' own files are.
    #[must_use]
    pub fn containers_dir(&self) -> &Path {
        &self.containers
    }

    /// What the containers' own files take. Where they are too many to count at once, that of the time before.
    pub async fn containers_usage(&self) -> Usage {
        let mut counted = self.counted.subscribe();
        let fresh = counted.borrow_and_update().filter(|(at, _)| at.elapsed() < USAGE_AGE);
        if let Some((_, usage)) = fresh {
            return usage;
        }
        if !self.counting.swap(true, Ordering::AcqRel) {
            let (this, dir) = (self.clone(), self.containers.clone());
            tokio::task::spawn_blocking(move || {
                this.counted.send_replace(Some((Instant::now(), walk(&dir))));
                this.counting.store(false, Ordering::Release);
            });
        }
        let _ = tokio::time::timeout(USAGE_PATIENCE, counted.changed()).await;
        counted.borrow().map(|(_, usage)| usage).unwrap_or_default()
    }
}

/// Follows no link, and goes over what vanishes meanwhile.
fn walk(dir: &Path) -> Usage {
    use std::os::unix::fs::MetadataExt as _;
    let mut usage = Usage::default();
    let mut left = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            usage.bytes += meta.blocks() * 512;
            usage.inodes += 1;
            if meta.is_dir() {
                left.push(entry.path());
            }
        }
    }
    usage
}
