//! The images of a node: the facade over blobs, layers and records.
//!
//! ```text
//! ROOT/lock                 held by the one process that has the store open
//! ROOT/blobs/sha256/HEX     manifests, configurations, layers as they came
//! ROOT/ingest/              blobs on their way in
//! ROOT/layers/HEX/fs        a layer unpacked; HEX is its diff id's
//! ROOT/layers/HEX/layer.json
//! ROOT/images/HEX.json      an image: its manifest and its names
//! ```
//!
//! Everything gets its name by a rename when it is whole. Images depend on layers and blobs, so they are
//! written last and removed first: a crash leaves things that nobody needs, never an image that lacks one.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;

use crate::chores::{Chore, Chores, delete};
use crate::config::{self, Document};
use crate::content::{Blobs, Digest, Hasher};
use crate::error::ImageError;
use crate::ingest::{Ingest, Keyed, Names};
use crate::layer::{Layers, Source, UnpackError, Unpacked};
use crate::manifest::{Descriptor, MAX_DOCUMENT, Manifest};
use crate::model::{Image, ImageId, Layer, LayerId};
use crate::names::{self, Name};
use crate::record::{Record, Records};
use crate::repair;
use crate::settings::{Settings, Usage};
use crate::state::{Known, State};

/// The store. What blocks says so; everything else is a look into memory.
#[derive(Debug)]
pub struct Images {
    root: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) blobs: Blobs,
    pub(crate) layers: Arc<Layers>,
    records: Records,
    state: Mutex<State>,
    /// One commit or removal at a time: they write records, and the state is not locked over a write.
    changing: Mutex<()>,
    pub(crate) writing: Keyed,
    pub(crate) unpacking: Keyed,
    pub(crate) unpackers: Arc<Semaphore>,
    /// Does what callers must not wait for.
    chores: Chores,
    /// Let go last.
    _lock: Lock,
}

impl Images {
    /// Opens the store, makes it where there is none, and repairs it: what is half-made goes, a layer that
    /// may have been lost with the machine's power is unpacked again, and an image that lacks something is
    /// dropped, each with a line in the log. Layers and blobs without an image stay until
    /// [`collect`](Self::collect). Blocks.
    ///
    /// # Errors
    /// When another process has it open, its layout is another one's, or a directory cannot be read.
    pub fn open(root: &Path, settings: Settings) -> Result<Arc<Self>, ImageError> {
        crate::content::private_dir(root)?;
        let lock = lock(root)?;
        let blobs = Blobs::open(root)?;
        let layers = Arc::new(Layers::open(root)?);
        let records = Records::open(root)?;
        let this = Arc::new(Self {
            root: root.to_owned(),
            unpackers: Arc::new(Semaphore::new(settings.unpackers.max(1))),
            settings,
            blobs,
            chores: Chores::start(Arc::clone(&layers))?,
            layers,
            records,
            state: Mutex::default(),
            changing: Mutex::default(),
            writing: Keyed::default(),
            unpacking: Keyed::default(),
            _lock: lock,
        });
        repair::run(&this)?;
        Ok(this)
    }

    /// All images, by id.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Image>> {
        self.state().images().map(|known| Arc::clone(&known.image)).collect()
    }

    /// Removes the image a reference names, with all its names; no such image is fine. Its layers and blobs
    /// go with it, but for those that another image, a container or a pull needs: they go with the last of
    /// these. Blocks until the space is free.
    ///
    /// # Errors
    /// When the reference fits several images, or the record cannot be removed; the image is whole then.
    pub fn remove(&self, reference: &str) -> Result<(), ImageError> {
        let doomed = {
            let _one = self.changing();
            let Some(image) = self.find(reference)? else { return Ok(()) };
            self.records.remove(&image.id)?;
            tracing::info!(image = %image.id, names = ?image.repo_tags, "image removed");
            self.state().take(&image.id, &self.layers, &self.blobs)
        };
        doomed.iter().for_each(|path| delete(path));
        Ok(())
    }

    /// What the store takes on its file system, kept as things come and go.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.state().usage()
    }

    /// A directory on the file system the images are on.
    #[must_use]
    pub fn mountpoint(&self) -> &Path {
        &self.root
    }

    /// An unpacked layer.
    #[must_use]
    pub fn layer(&self, id: &LayerId) -> Option<Layer> {
        self.state().layer(id).map(|(layer, _)| layer.clone())
    }

    /// Whether a blob is in the store.
    #[must_use]
    pub fn has_blob(&self, digest: &Digest) -> bool {
        self.state().has_blob(digest).is_some()
    }

    /// Opens a blob for reading. Blocks.
    ///
    /// # Errors
    /// When it is not there.
    pub fn blob(&self, digest: &Digest) -> Result<File, ImageError> {
        self.blobs.file(digest)
    }

    /// The digest of the manifest an image came with.
    #[must_use]
    pub fn manifest_of(&self, id: &ImageId) -> Option<Digest> {
        self.state().image(id).map(|known| known.manifest.clone())
    }

    /// An image's configuration document as it is in the registry. Blocks.
    ///
    /// # Errors
    /// When it cannot be read, or was damaged.
    pub fn raw_config(&self, id: &ImageId) -> Result<Vec<u8>, ImageError> {
        self.blobs.document(&id.0.parse()?, MAX_DOCUMENT)
    }

    /// Removes layers and blobs that no image, hold or ingest needs: those that a crash left. To be called
    /// once after [`open`](Self::open), when the containers have taken their holds again. Blocks.
    pub fn collect(&self) {
        let doomed = self.state().forget_unused(&self.layers, &self.blobs);
        if !doomed.is_empty() {
            tracing::info!(count = doomed.len(), "layers and blobs that nothing needs removed");
        }
        doomed.iter().for_each(|path| delete(path));
    }

    /// Begins to bring an image in.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Ingest {
        Ingest::new(Arc::clone(self))
    }

    /// Gives an image that is there more names; they leave the images that had them. Blocks.
    ///
    /// # Errors
    /// When there is no such image, or its record cannot be written.
    pub fn name(&self, id: &ImageId, names: &Names) -> Result<Arc<Image>, ImageError> {
        let manifest = self.manifest_of(id).ok_or_else(|| ImageError::NoImage(id.0.clone()))?;
        self.commit(&manifest, names)
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Unpacks a layer; the caller puts it into the state. Blocks.
    pub(crate) fn unpack(
        &self,
        blob: &Descriptor,
        diff_id: &LayerId,
        stop: &AtomicBool,
    ) -> Result<(Layer, Unpacked), ImageError> {
        let media_type = &blob.media_type;
        if !media_type.is_empty() && !is_layer(media_type) {
            return Err(ImageError::LayerType { blob: blob.digest.clone(), media_type: media_type.clone() });
        }
        let expected: Digest = diff_id.0.parse()?;
        let source = Source { file: self.blobs.file(&blob.digest)?, diff_id: expected, stop };
        self.layers.unpack(source, &self.settings.limits).map_err(|source| {
            // A blob that the disk changed would be found here at every pull.
            let is_stopped = matches!(source, UnpackError::Stopped);
            match if is_stopped { Ok(()) } else { self.check_blob(&blob.digest) } {
                Err(damaged) => damaged,
                Ok(()) => ImageError::Unpack { layer: diff_id.clone(), blob: blob.digest.clone(), source },
            }
        })
    }

    /// Reads a blob and marks it where its bytes are not what its name says. Blocks.
    fn check_blob(&self, digest: &Digest) -> Result<(), ImageError> {
        let mut hasher = Hasher::new(digest.algorithm());
        let read = hasher.drain(&mut self.blobs.file(digest)?);
        read.map_err(ImageError::io("read", &self.blobs.path(digest)))?;
        let got = hasher.finish();
        if got == *digest {
            return Ok(());
        }
        self.state().blob_is_damaged(digest);
        Err(ImageError::Mismatch { expected: digest.clone(), got })
    }

    /// A small blob, marked when it is damaged.
    fn document(&self, digest: &Digest) -> Result<Vec<u8>, ImageError> {
        let read = self.blobs.document(digest, MAX_DOCUMENT);
        if matches!(read, Err(ImageError::Mismatch { .. })) {
            self.state().blob_is_damaged(digest);
        }
        read
    }

    /// Makes an image of what is there. The caller holds its blobs and layers. Blocks.
    pub(crate) fn commit(&self, manifest: &Digest, names: &Names) -> Result<Arc<Image>, ImageError> {
        let _one = self.changing();
        self.blobs.sync_names()?;
        let mut record = Record::new(manifest.clone(), names);
        let (id, _) = self.documents(manifest)?;
        if let Some(before) = self.state().image(&id) {
            record.keep_names(&before.image);
        }
        let known = self.know(&id, record.clone())?;
        self.records.write(&id, &mut record)?;
        let image = Arc::clone(&known.image);
        let put = self.state().put(known, &self.layers, &self.blobs);
        for other in &put.changed {
            if let Err(error) = self.rewrite(other) {
                // The next start gives the name to the record written last, which is this one.
                tracing::warn!(image = %other, %error, "the record keeps a name that another image has now");
            }
        }
        put.doomed.iter().for_each(|path| delete(path));
        self.chores.give(Chore::Sync(image.layers.iter().map(|layer| layer.id.clone()).collect()));
        tracing::info!(image = %image.id, tags = ?image.repo_tags, size = image.size, "image committed");
        Ok(image)
    }

    /// Writes an image's record after names were taken from it.
    pub(crate) fn rewrite(&self, id: &ImageId) -> Result<(), ImageError> {
        let Some(mut record) = self.state().image(id).map(Record::of) else { return Ok(()) };
        self.records.write(id, &mut record)
    }

    fn documents(&self, manifest: &Digest) -> Result<(ImageId, (Manifest, Document)), ImageError> {
        let bytes = self.document(manifest)?;
        let parsed: Manifest = json("manifest", manifest, &bytes)?;
        let digest = &parsed.config.digest;
        let document = config::parse(digest, &self.document(digest)?)?;
        Ok((ImageId(digest.to_string()), (parsed, document)))
    }

    /// The blob that a layer of an image is unpacked from.
    pub(crate) fn blob_of_layer(&self, manifest: &Digest, id: &LayerId) -> Result<Descriptor, ImageError> {
        let (_, (manifest, document)) = self.documents(manifest)?;
        let mut layers = document.diff_ids.iter().zip(manifest.layers);
        layers
            .find(|(diff_id, _)| *diff_id == id)
            .map(|(_, blob)| blob)
            .ok_or_else(|| ImageError::NoLayer(id.clone()))
    }

    /// What a record comes to, all it needs checked to be there.
    pub(crate) fn know(&self, id: &ImageId, record: Record) -> Result<Known, ImageError> {
        let (found, (manifest, document)) = self.documents(&record.manifest)?;
        if found != *id {
            return Err(ImageError::NoImage(id.0.clone()));
        }
        if manifest.layers.len() != document.diff_ids.len() {
            return Err(ImageError::LayerCount {
                digest: record.manifest,
                layers: manifest.layers.len(),
                diff_ids: document.diff_ids.len(),
            });
        }
        let state = self.state();
        let mut size = 0;
        let mut blobs = BTreeSet::new();
        let pointed = manifest.layers.iter().chain([&manifest.config]).map(|d| (&d.digest, Some(d.size)));
        for (digest, expected) in pointed.chain([(&record.manifest, None)]) {
            let got = state.has_blob(digest).ok_or_else(|| ImageError::NoBlob(digest.clone()))?;
            let expected = expected.unwrap_or(got);
            if got != expected {
                return Err(ImageError::Size { digest: digest.clone(), expected, got });
            }
            if blobs.insert(digest.clone()) {
                size += got;
            }
        }
        let layer = |id: &LayerId| {
            let found = state.layer(id).map(|(layer, _)| layer.clone());
            found.ok_or_else(|| ImageError::NoLayer(id.clone()))
        };
        let layers = document.diff_ids.iter().map(layer).collect::<Result<_, _>>()?;
        let image = Image {
            id: found,
            pinned: self.is_pinned(&record),
            repo_tags: record.tags.into_iter().collect(),
            repo_digests: record.digests.into_iter().collect(),
            size,
            config: document.config,
            layers,
            annotations: manifest.annotations,
        };
        Ok(Known { image: Arc::new(image), blobs, manifest: record.manifest })
    }

    fn is_pinned(&self, record: &Record) -> bool {
        let pins = |pinned: &String| match names::normalise(pinned) {
            Some(Name::Tag(name)) => record.tags.contains(&name),
            Some(Name::Digest(name)) => record.digests.contains(&name),
            None => false,
        };
        self.settings.pinned.iter().any(pins)
    }

    /// Users less; what nobody needs any more is deleted by the reaper. Does not block.
    pub(crate) fn release(
        &self,
        layers: &BTreeSet<LayerId>,
        blobs: &BTreeSet<Digest>,
        begun: &BTreeSet<Digest>,
    ) {
        let mut state = self.state();
        let mut doomed: Vec<_> = layers.iter().filter_map(|id| state.drop_layer(id, &self.layers)).collect();
        doomed.extend(blobs.iter().filter_map(|digest| state.drop_blob(digest, &self.blobs)));
        drop(state);
        for digest in begun {
            let Some(_claim) = self.writing.try_lock(&digest.to_string()) else { continue };
            let _ = std::fs::remove_file(self.blobs.partial(digest));
        }
        for path in doomed {
            self.chores.give(Chore::Delete(path));
        }
    }
}

/// Reads a JSON document.
pub(crate) fn json<T: DeserializeOwned>(
    what: &'static str,
    digest: &Digest,
    bytes: &[u8],
) -> Result<T, ImageError> {
    serde_json::from_slice(bytes).map_err(|source| ImageError::Json { what, digest: digest.clone(), source })
}

/// Whether a media type is a layer's that can be unpacked; how it is compressed, its bytes say.
fn is_layer(media_type: &str) -> bool {
    let base = media_type.split_once('+').map_or(media_type, |(base, _)| base);
    let base = base.strip_suffix(".gzip").or_else(|| base.strip_suffix(".zstd")).unwrap_or(base);
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ]
    .contains(&base)
        && !media_type.contains("encrypted")
}

/// The store is one process's for as long as this lives.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing alone: a child of another thread that has not yet executed its program has the description,
        // too.
        let _ = self.0.unlock();
    }
}

fn lock(root: &Path) -> Result<Lock, ImageError> {
    let path = root.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(ImageError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(std::fs::TryLockError::WouldBlock) => Err(ImageError::Locked { path: root.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(ImageError::io("lock", &path)(source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_ends_with_its_owner_whoever_else_has_the_description() {
        let dir = tempfile::tempdir().unwrap();
        let first = lock(dir.path()).unwrap();
        // As in a child between fork(2) and execve(2).
        let _inherited = first.0.try_clone().unwrap();
        assert!(matches!(lock(dir.path()), Err(ImageError::Locked { .. })));
        drop(first);
        assert!(lock(dir.path()).is_ok());
    }
}
