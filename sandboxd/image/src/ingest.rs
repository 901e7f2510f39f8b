//! An image on its way in.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::OwnedMutexGuard;

use crate::content::{BlobWriter, Blobs, Digest};
use crate::error::ImageError;
use crate::layer::Unpacked;
use crate::manifest::Descriptor;
use crate::model::{Image, Layer, LayerId};
use crate::store::Images;

/// Brings one image in: its blobs, its layers, then [`commit`](Self::commit). What it brought is kept from
/// removal meanwhile, and goes when it is dropped without a commit and nobody else needs it; so do the
/// partial files of the blobs it began, unless [`keep_for_retry`](Self::keep_for_retry) says otherwise.
///
/// Any number may run at once, also for the same blobs and layers: the second waits for the first and finds
/// the work done.
#[derive(Debug, Clone)]
pub struct Ingest {
    shared: Arc<Shared>,
}

/// What an ingest and its writers have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    images: Arc<Images>,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    blobs: BTreeSet<Digest>,
    layers: BTreeSet<LayerId>,
    begun: BTreeSet<Digest>,
}

/// A blob that was asked for.
#[derive(Debug)]
pub enum Slot {
    /// It is in the store, and held.
    Present,
    /// It has to be brought; perhaps from [`BlobWriter::offset`] on.
    Missing(Box<BlobWriter>),
}

/// The names an image gets at its commit, written out: "docker.io/library/busybox:1.36".
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    pub tags: Vec<String>,
    /// "docker.io/library/busybox@sha256:…"
    pub digests: Vec<String>,
}

impl Ingest {
    pub(crate) fn new(images: Arc<Images>) -> Self {
        Self { shared: Arc::new(Shared { images, held: Mutex::default() }) }
    }

    /// Asks for a blob. Waits while another ingest writes the same one.
    ///
    /// # Errors
    /// When it is larger than the store takes, or is there with another size, or its partial file cannot be
    /// opened.
    pub async fn blob(&self, descriptor: &Descriptor) -> Result<Slot, ImageError> {
        if self.present(descriptor)? {
            return Ok(Slot::Present);
        }
        let images = &self.shared.images;
        let claim = images.writing.lock(&descriptor.digest.to_string()).await;
        if self.present(descriptor)? {
            return Ok(Slot::Present);
        }
        self.shared.held().begun.insert(descriptor.digest.clone());
        let (shared, digest, size) = (Arc::clone(&self.shared), descriptor.digest.clone(), descriptor.size);
        let open = move || BlobWriter::open(shared, digest, size, claim);
        Ok(Slot::Missing(Box::new(tokio::task::spawn_blocking(open).await??)))
    }

    /// Whether a blob is there, and of the size that is said; from then on it is held.
    fn present(&self, descriptor: &Descriptor) -> Result<bool, ImageError> {
        let Descriptor { digest, size, .. } = descriptor;
        let limit = self.shared.images.settings.limits.max_blob;
        if *size > limit {
            return Err(ImageError::TooLarge { digest: digest.clone(), size: *size, limit });
        }
        match self.shared.hold_blob(digest) {
            Some(got) if got != *size => {
                Err(ImageError::Size { digest: digest.clone(), expected: *size, got })
            }
            found => Ok(found.is_some()),
        }
    }

    /// Brings a blob that is in memory: a manifest or configuration.
    ///
    /// # Errors
    /// When the bytes are not the digest's, or cannot be written.
    pub async fn bytes(&self, media_type: &str, digest: &Digest, bytes: &[u8]) -> Result<(), ImageError> {
        let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
        if let Slot::Missing(mut writer) = self.blob(&descriptor).await? {
            writer.restart()?;
            writer.write(bytes)?;
            writer.commit().await?;
        }
        Ok(())
    }

    /// Unpacks a layer whose blob is there, unless that was done before; the layer is held. As many at once
    /// as the settings say; a call that is dropped stops the work and leaves nothing.
    ///
    /// # Errors
    /// When the blob is not there, its media type is no layer's, its bytes are no tar that may be unpacked,
    /// or they have another diff id.
    pub async fn unpack_layer(&self, blob: &Descriptor, diff_id: &LayerId) -> Result<Layer, ImageError> {
        let images = &self.shared.images;
        if let Some(layer) = self.shared.hold_layer(diff_id) {
            return Ok(layer);
        }
        let claim = images.unpacking.lock(&diff_id.0).await;
        if let Some(layer) = self.shared.hold_layer(diff_id) {
            return Ok(layer);
        }
        let permit = Arc::clone(&images.unpackers).acquire_owned().await.ok();
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let (shared, blob, diff_id, flag) =
            (Arc::clone(&self.shared), blob.clone(), diff_id.clone(), Arc::clone(&stop.0));
        let unpack = move || {
            let _both = (claim, permit);
            let (layer, unpacked) = shared.images.unpack(&blob, &diff_id, &flag)?;
            shared.layer_is_here(layer.clone(), unpacked);
            Ok(layer)
        };
        tokio::task::spawn_blocking(unpack).await?
    }

    /// Unpacks an image's layers, as many at once as the settings say.
    ///
    /// # Errors
    /// As [`unpack_layer`](Self::unpack_layer); the others stop then.
    pub async fn unpack_layers(&self, layers: Vec<(Descriptor, LayerId)>) -> Result<(), ImageError> {
        let mut tasks = tokio::task::JoinSet::new();
        for (blob, diff_id) in layers {
            let ingest = self.clone();
            tasks.spawn(async move { ingest.unpack_layer(&blob, &diff_id).await });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(())
    }

    /// Keeps a blob that is there.
    ///
    /// # Errors
    /// When it is not there.
    pub fn keep(&self, digest: &Digest) -> Result<(), ImageError> {
        self.shared.hold_blob(digest).map(drop).ok_or_else(|| ImageError::NoBlob(digest.clone()))
    }

    /// Keeps what was brought so far, partial files too, for [`Settings::retry_window`](crate::Settings):
    /// for a pull that failed and will be tried again, as opposed to one that was called off.
    pub fn keep_for_retry(&self) {
        let shared = Arc::clone(&self.shared);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(shared.images.settings.retry_window).await;
                drop(shared);
            });
        }
    }

    /// Checks that all an image needs is there, and makes it an image of the store, durably. A tag that
    /// another image had moves to this one. An image that was there keeps its names and gets these as well.
    ///
    /// # Errors
    /// When manifest or configuration cannot be read, or a blob or layer they name is missing, or the disk
    /// fails.
    pub async fn commit(
        self,
        manifest: Vec<u8>,
        config: Vec<u8>,
        names: Names,
    ) -> Result<Arc<Image>, ImageError> {
        let images = Arc::clone(&self.shared.images);
        let manifest_digest = Digest::of(&manifest);
        let parsed: crate::manifest::Manifest = crate::store::json("manifest", &manifest_digest, &manifest)?;
        self.bytes(&parsed.media_type, &manifest_digest, &manifest).await?;
        self.bytes(&parsed.config.media_type, &parsed.config.digest, &config).await?;
        let shared = Arc::clone(&self.shared);
        tokio::task::spawn_blocking(move || {
            let image = images.commit(&manifest_digest, &names);
            drop(shared);
            image
        })
        .await?
    }
}

impl Shared {
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.images.blobs
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold_blob(&self, digest: &Digest) -> Option<u64> {
        let mut held = self.held();
        let mut state = self.images.state();
        if held.blobs.contains(digest) {
            return state.has_blob(digest);
        }
        let size = state.use_blob(digest)?;
        held.blobs.insert(digest.clone());
        Some(size)
    }

    fn hold_layer(&self, id: &LayerId) -> Option<Layer> {
        let mut held = self.held();
        let mut state = self.images.state();
        if held.layers.contains(id) {
            return state.layer(id).map(|(layer, _)| layer.clone());
        }
        let layer = state.use_layer(id)?;
        held.layers.insert(id.clone());
        Some(layer)
    }

    /// A blob of this ingest has its name.
    pub(crate) fn blob_is_here(&self, digest: &Digest, size: u64) {
        let mut held = self.held();
        held.begun.remove(digest);
        let users = u32::from(held.blobs.insert(digest.clone()));
        self.images.state().add_blob(digest, size, users);
    }

    /// A layer that this ingest unpacked has its name.
    fn layer_is_here(&self, layer: Layer, unpacked: Unpacked) {
        let mut held = self.held();
        let users = u32::from(held.layers.insert(layer.id.clone()));
        self.images.state().add_layer(layer, unpacked, users);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let held = std::mem::take(self.held.get_mut().unwrap_or_else(PoisonError::into_inner));
        self.images.release(&held.layers, &held.blobs, &held.begun);
    }
}

/// Tells blocking work that nobody waits for it any more.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One lock a name, made when it is asked for.
#[derive(Debug, Default)]
pub(crate) struct Keyed(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Keyed {
    fn entry(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lock) = locks.get(key).and_then(Weak::upgrade) {
            return lock;
        }
        locks.retain(|_, lock| lock.strong_count() > 0);
        let lock = Arc::default();
        locks.insert(key.to_owned(), Arc::downgrade(&lock));
        lock
    }

    pub(crate) async fn lock(&self, key: &str) -> OwnedMutexGuard<()> {
        self.entry(key).lock_owned().await
    }

    /// For a partial file that nobody writes at the moment.
    pub(crate) fn try_lock(&self, key: &str) -> Option<OwnedMutexGuard<()>> {
        self.entry(key).try_lock_owned().ok()
    }
}
