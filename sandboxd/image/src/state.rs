//! What the store knows, in memory, and who needs what.
//!
//! A layer or blob has as many users as there are images, ingests and holds that name it. With the last
//! one it leaves the maps and its path goes to the caller as *doomed*: already renamed out of the way, so
//! that whoever makes the same thing again meets nothing, and to be deleted without the lock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use crate::content::{Blobs, Digest};
use crate::layer::{Layers, Unpacked};
use crate::model::{Image, ImageId, Layer, LayerId};
use crate::settings::Usage;

/// Bytes that a file takes: file systems hand them out in blocks.
pub(crate) fn on_disk(size: u64) -> u64 {
    size.next_multiple_of(4096)
}

#[derive(Debug)]
pub(crate) struct Known {
    pub image: Arc<Image>,
    /// Each once.
    pub blobs: BTreeSet<Digest>,
    pub manifest: Digest,
}

#[derive(Debug)]
struct KnownLayer {
    layer: Layer,
    unpacked: Unpacked,
    users: u32,
}

#[derive(Debug)]
struct KnownBlob {
    size: u64,
    users: u32,
    /// Its bytes turned out to be others than its name says: it counts as missing until it comes again.
    damaged: bool,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    images: BTreeMap<ImageId, Known>,
    /// Tags and repository digests.
    names: HashMap<String, ImageId>,
    layers: HashMap<LayerId, KnownLayer>,
    blobs: HashMap<Digest, KnownBlob>,
    usage: Usage,
}

impl State {
    pub(crate) fn images(&self) -> impl Iterator<Item = &Known> {
        self.images.values()
    }

    pub(crate) fn image(&self, id: &ImageId) -> Option<&Known> {
        self.images.get(id)
    }

    pub(crate) fn named(&self, name: &str) -> Option<&Known> {
        self.names.get(name).and_then(|id| self.images.get(id))
    }

    pub(crate) fn usage(&self) -> Usage {
        self.usage
    }

    pub(crate) fn layer(&self, id: &LayerId) -> Option<(&Layer, &Unpacked)> {
        self.layers.get(id).map(|known| (&known.layer, &known.unpacked))
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> Option<u64> {
        self.blobs.get(digest).filter(|known| !known.damaged).map(|known| known.size)
    }

    /// A layer that is on disk now, with its first user counted if it has one.
    pub(crate) fn add_layer(&mut self, layer: Layer, unpacked: Unpacked, users: u32) {
        self.usage.add(unpacked.bytes, unpacked.inodes);
        self.layers.insert(layer.id.clone(), KnownLayer { layer, unpacked, users });
    }

    /// A blob that is on disk now.
    pub(crate) fn add_blob(&mut self, digest: &Digest, size: u64, users: u32) {
        match self.blobs.get_mut(digest) {
            Some(known) => {
                let before = on_disk(std::mem::replace(&mut known.size, size));
                known.users += users;
                known.damaged = false;
                self.usage.sub(before, 0);
                self.usage.add(on_disk(size), 0);
            }
            None => {
                self.usage.add(on_disk(size), 1);
                self.blobs.insert(digest.clone(), KnownBlob { size, users, damaged: false });
            }
        }
    }

    /// Counts one more user of a layer.
    pub(crate) fn use_layer(&mut self, id: &LayerId) -> Option<Layer> {
        let known = self.layers.get_mut(id)?;
        known.users += 1;
        Some(known.layer.clone())
    }

    /// Counts one more user of a blob.
    pub(crate) fn use_blob(&mut self, digest: &Digest) -> Option<u64> {
        let known = self.blobs.get_mut(digest).filter(|known| !known.damaged)?;
        known.users += 1;
        Some(known.size)
    }

    /// A blob's bytes are not what its name says.
    pub(crate) fn blob_is_damaged(&mut self, digest: &Digest) {
        if let Some(known) = self.blobs.get_mut(digest) {
            tracing::warn!(%digest, "the blob is damaged on disk; it is missing until it is pulled again");
            known.damaged = true;
        }
    }

    /// One user less; the path when it was the last.
    pub(crate) fn drop_layer(&mut self, id: &LayerId, layers: &Layers) -> Option<PathBuf> {
        let known = self.layers.get_mut(id)?;
        known.users = known.users.saturating_sub(1);
        if known.users > 0 {
            return None;
        }
        self.forget_layer(id, layers)
    }

    fn forget_layer(&mut self, id: &LayerId, layers: &Layers) -> Option<PathBuf> {
        let known = self.layers.remove(id)?;
        self.usage.sub(known.unpacked.bytes, known.unpacked.inodes);
        layers.doom(id)
    }

    /// One user less; the path when it was the last.
    pub(crate) fn drop_blob(&mut self, digest: &Digest, blobs: &Blobs) -> Option<PathBuf> {
        let known = self.blobs.get_mut(digest)?;
        known.users = known.users.saturating_sub(1);
        if known.users > 0 {
            return None;
        }
        self.forget_blob(digest, blobs)
    }

    fn forget_blob(&mut self, digest: &Digest, blobs: &Blobs) -> Option<PathBuf> {
        let known = self.blobs.remove(digest)?;
        self.usage.sub(on_disk(known.size), 1);
        let path = blobs.path(digest);
        let doomed = blobs.ingest_dir().join(format!(".del-{}", digest.hex()));
        match fs::rename(&path, &doomed) {
            Ok(()) => Some(doomed),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "an unneeded blob cannot be moved; the next start removes it");
                None
            }
        }
    }

    /// Takes out everything that has no user.
    pub(crate) fn forget_unused(&mut self, layers: &Layers, blobs: &Blobs) -> Vec<PathBuf> {
        let idle: Vec<_> =
            self.layers.iter().filter(|(_, l)| l.users == 0).map(|(id, _)| id.clone()).collect();
        let mut doomed: Vec<_> = idle.iter().filter_map(|id| self.forget_layer(id, layers)).collect();
        let idle: Vec<_> = self.blobs.iter().filter(|(_, b)| b.users == 0).map(|(d, _)| d.clone()).collect();
        doomed.extend(idle.iter().filter_map(|digest| self.forget_blob(digest, blobs)));
        doomed
    }

    /// Puts an image in, in the place of one with the same id. Its names leave other images, which are
    /// returned: their records have to be written again. Layers and blobs must be in already.
    pub(crate) fn put(&mut self, known: Known, layers: &Layers, blobs: &Blobs) -> Put {
        let id = known.image.id.clone();
        let mut put = Put::default();
        for layer in distinct_layers(&known.image) {
            self.use_layer(&layer);
        }
        for digest in &known.blobs {
            // Whole: `Images::know` looked.
            self.use_blob(digest);
        }
        for name in known.image.repo_tags.iter().chain(&known.image.repo_digests) {
            if let Some(before) = self.names.insert(name.clone(), id.clone()).filter(|before| *before != id)
                && let Some(other) = self.images.get_mut(&before)
            {
                let mut image = Image::clone(&other.image);
                image.repo_tags.retain(|tag| tag != name);
                image.repo_digests.retain(|digest| digest != name);
                other.image = Arc::new(image);
                put.changed.insert(before);
            }
        }
        if let Some(old) = self.images.insert(id.clone(), known) {
            put.doomed = self.release(&old, layers, blobs);
            let current = &self.images[&id].image;
            let stale =
                |name: &&String| !current.repo_tags.contains(name) && !current.repo_digests.contains(name);
            let stale: Vec<_> =
                old.image.repo_tags.iter().chain(&old.image.repo_digests).filter(stale).cloned().collect();
            for name in stale {
                self.names.remove(&name);
            }
        }
        put
    }

    /// Takes an image out. Returns what nobody needs any more.
    pub(crate) fn take(&mut self, id: &ImageId, layers: &Layers, blobs: &Blobs) -> Vec<PathBuf> {
        let Some(known) = self.images.remove(id) else { return Vec::new() };
        self.names.retain(|_, image| image != id);
        self.release(&known, layers, blobs)
    }

    fn release(&mut self, known: &Known, layers: &Layers, blobs: &Blobs) -> Vec<PathBuf> {
        let mut doomed = Vec::new();
        for layer in distinct_layers(&known.image) {
            doomed.extend(self.drop_layer(&layer, layers));
        }
        for digest in &known.blobs {
            doomed.extend(self.drop_blob(digest, blobs));
        }
        doomed
    }
}

/// What putting an image in changed besides.
#[derive(Debug, Default)]
pub(crate) struct Put {
    pub changed: BTreeSet<ImageId>,
    pub doomed: Vec<PathBuf>,
}

fn distinct_layers(image: &Image) -> BTreeSet<LayerId> {
    image.layers.iter().map(|layer| layer.id.clone()).collect()
}
