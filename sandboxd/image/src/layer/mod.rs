//! Layers, unpacked once for each diff id: `layers/HEX/fs`, and beside it what is known of them.

mod error;
mod make;
mod pipe;
mod remove;
#[cfg(test)]
mod tests;
mod tree;
mod unpack;
mod xattr;

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

pub use error::UnpackError;
pub(crate) use pipe::{Compression, compression, decompressed};
pub use remove::remove_tree;
pub(crate) use unpack::Source;

use crate::content::{Digest, private_dir};
use crate::error::ImageError;
use crate::model::{Layer, LayerId};
use crate::settings::Limits;

/// The layout of a layer's directory.
const VERSION: u64 = 1;

/// What was learnt of a layer while it was unpacked: `layer.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Unpacked {
    pub version: u64,
    pub max_uid: u32,
    pub max_gid: u32,
    /// On disk, as the file system rounds.
    pub bytes: u64,
    pub inodes: u64,
    /// Bytes of its uncompressed tar.
    pub tar_size: u64,
    /// The boot it was unpacked in. Its files are not synced one by one: in another boot it is whole only
    /// if the file beside it says that a sync came after it.
    pub boot_id: String,
}

/// The directory of layers.
#[derive(Debug)]
pub(crate) struct Layers {
    dir: PathBuf,
    boot_id: String,
    serial: AtomicU64,
}

/// A directory under `layers/`.
#[derive(Debug)]
pub(crate) enum Found {
    Layer(Layer, Unpacked),
    /// Half-made, half-deleted, lost with the power, or none of ours.
    Waste(PathBuf, &'static str),
}

impl Layers {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("layers");
        private_dir(&dir)?;
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(path).map_err(ImageError::io("read", path))?.trim().to_owned();
        Ok(Self { dir, boot_id, serial: AtomicU64::new(0) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn home(&self, id: &LayerId) -> PathBuf {
        self.dir.join(id.0.split_once(':').map_or(id.0.as_str(), |(_, hex)| hex))
    }

    /// A name under `layers/` that nothing has; the next start removes what is left there.
    fn temporary(&self, what: &str) -> PathBuf {
        self.dir.join(format!(
            ".{what}-{}-{}",
            std::process::id(),
            self.serial.fetch_add(1, Ordering::Relaxed)
        ))
    }

    fn layer(&self, id: &LayerId, unpacked: &Unpacked) -> Layer {
        Layer {
            id: id.clone(),
            path: self.home(id).join("fs"),
            max_uid: unpacked.max_uid,
            max_gid: unpacked.max_gid,
        }
    }

    /// Unpacks a layer and gives it its name, or leaves nothing. Blocks.
    pub(crate) fn unpack(
        &self,
        source: Source<'_>,
        limits: &Limits,
    ) -> Result<(Layer, Unpacked), UnpackError> {
        let id = LayerId(source.diff_id.to_string());
        let temporary = self.temporary("tmp");
        let result = self.unpack_into(&temporary, source, limits).and_then(|unpacked| {
            let home = self.home(&id);
            let name = |_| fs::rename(&temporary, &home);
            // A directory that has the name was left out by the repair, or is damaged.
            let named = name(()).or_else(|_| self.discard(&home).and_then(name));
            named.map_err(UnpackError::io("name", &home))?;
            Ok((self.layer(&id, &unpacked), unpacked))
        });
        if result.is_err() {
            crate::chores::delete(&temporary);
        }
        result
    }

    fn unpack_into(
        &self,
        temporary: &Path,
        source: Source<'_>,
        limits: &Limits,
    ) -> Result<Unpacked, UnpackError> {
        let files = temporary.join("fs");
        fs::create_dir(temporary)
            .and_then(|()| fs::create_dir(&files))
            // What a layer without an entry for its root has, whatever the umask.
            .and_then(|()| fs::set_permissions(&files, fs::Permissions::from_mode(0o755)))
            .map_err(UnpackError::io("make", &files))?;
        let mut unpacked = unpack::unpack(&files, source, limits)?;
        unpacked.version = VERSION;
        unpacked.boot_id.clone_from(&self.boot_id);
        let path = temporary.join("layer.json");
        let bytes = serde_json::to_vec(&unpacked).map_err(io::Error::from);
        bytes.and_then(|bytes| fs::write(&path, bytes)).map_err(UnpackError::io("write", &path))?;
        Ok(unpacked)
    }

    /// Moves a layer out of the way.
    pub(crate) fn doom(&self, id: &LayerId) -> Option<PathBuf> {
        let home = self.home(id);
        let doomed = self.temporary("del");
        match fs::rename(&home, &doomed) {
            Ok(()) => Some(doomed),
            Err(error) => {
                tracing::warn!(path = %home.display(), %error, "an unneeded layer cannot be moved; the next start removes it");
                None
            }
        }
    }

    fn discard(&self, home: &Path) -> io::Result<()> {
        let doomed = self.temporary("del");
        fs::rename(home, &doomed)?;
        remove_tree(&doomed)
    }

    /// Everything under `layers/`.
    pub(crate) fn read(&self) -> Result<Vec<Found>, ImageError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(ImageError::io("read", &self.dir))? {
            let path = entry.map_err(ImageError::io("read", &self.dir))?.path();
            found.push(match self.read_one(&path) {
                Ok((layer, unpacked)) => Found::Layer(layer, unpacked),
                Err(why) => Found::Waste(path, why),
            });
        }
        Ok(found)
    }

    fn read_one(&self, path: &Path) -> Result<(Layer, Unpacked), &'static str> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with('.') {
            return Err("half-made or half-deleted");
        }
        let algorithm = if name.len() == 128 { "sha512" } else { "sha256" };
        let digest: Digest = format!("{algorithm}:{name}").parse().map_err(|_| "no layer by its name")?;
        let bytes = fs::read(path.join("layer.json")).map_err(|_| "without its layer.json")?;
        let unpacked: Unpacked = serde_json::from_slice(&bytes).map_err(|_| "its layer.json is damaged")?;
        if unpacked.version != VERSION {
            return Err("of another layout");
        }
        if unpacked.boot_id != self.boot_id && !path.join("synced").exists() {
            return Err("not synced before the machine went down");
        }
        if !path.join("fs").is_dir() {
            return Err("without its files");
        }
        let id = LayerId(digest.to_string());
        Ok((self.layer(&id, &unpacked), unpacked))
    }

    /// Makes layers durable: one sync of the file system for all of them. Blocks.
    pub(crate) fn sync(&self, layers: &[LayerId]) -> io::Result<()> {
        let homes = layers.iter().map(|id| self.home(id)).filter(|home| !home.join("synced").exists());
        let homes: Vec<_> = homes.collect();
        if homes.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(fs::File::open(&self.dir)?)?;
        homes.iter().try_for_each(|home| match fs::write(home.join("synced"), "") {
            // Removed meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        })
    }
}
