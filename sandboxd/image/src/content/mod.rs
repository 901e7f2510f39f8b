//! Blobs by digest: `blobs/sha256/HEX`, written through `ingest/sha256-HEX.part`.
//!
//! A blob's file has its name only once its bytes were hashed and are on disk, so a file under `blobs` is
//! whole. What is under `ingest` is not, whatever its length: it is hashed again when it is resumed.

mod digest;
mod writer;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

pub use digest::{Algorithm, BadDigest, Digest, Hasher};
pub use writer::BlobWriter;

use crate::error::ImageError;

/// Where blobs are.
#[derive(Debug)]
pub(crate) struct Blobs {
    blobs: PathBuf,
    ingest: PathBuf,
}

impl Blobs {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let this = Self { blobs: root.join("blobs"), ingest: root.join("ingest") };
        private_dir(&this.ingest)?;
        for algorithm in Algorithm::ALL {
            private_dir(&this.blobs.join(algorithm.as_str()))?;
        }
        Ok(this)
    }

    pub(crate) fn path(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(digest.algorithm().as_str()).join(digest.hex())
    }

    pub(crate) fn partial(&self, digest: &Digest) -> PathBuf {
        self.ingest.join(format!("{}-{}.part", digest.algorithm().as_str(), digest.hex()))
    }

    pub(crate) fn ingest_dir(&self) -> &Path {
        &self.ingest
    }

    pub(crate) fn dir(&self, algorithm: Algorithm) -> PathBuf {
        self.blobs.join(algorithm.as_str())
    }

    /// A blob's file, for reading.
    pub(crate) fn file(&self, digest: &Digest) -> Result<File, ImageError> {
        let path = self.path(digest);
        File::open(&path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => ImageError::NoBlob(digest.clone()),
            _ => ImageError::io("open", &path)(e),
        })
    }

    /// A small blob, its digest checked again.
    pub(crate) fn document(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>, ImageError> {
        let mut bytes = Vec::new();
        let read = self.file(digest)?.take(limit + 1).read_to_end(&mut bytes);
        read.map_err(ImageError::io("read", &self.path(digest)))?;
        if bytes.len() as u64 > limit {
            return Err(ImageError::TooLarge { digest: digest.clone(), size: bytes.len() as u64, limit });
        }
        let mut hasher = Hasher::new(digest.algorithm());
        hasher.update(&bytes);
        let got = hasher.finish();
        if got != *digest {
            return Err(ImageError::Mismatch { expected: digest.clone(), got });
        }
        Ok(bytes)
    }

    /// Makes the names of committed blobs durable.
    pub(crate) fn sync_names(&self) -> Result<(), ImageError> {
        Algorithm::ALL.into_iter().try_for_each(|a| sync_dir(&self.dir(a)))
    }
}

/// Makes a directory, and its parents, for root alone.
pub(crate) fn private_dir(path: &Path) -> Result<(), ImageError> {
    DirBuilder::new().mode(0o700).recursive(true).create(path).map_err(ImageError::io("make", path))
}

/// Makes what was renamed into a directory durable.
pub(crate) fn sync_dir(path: &Path) -> Result<(), ImageError> {
    File::open(path).and_then(|dir| dir.sync_all()).map_err(ImageError::io("sync", path))
}

/// Replaces a file in one step, durably.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
    let temporary = path.with_extension("tmp");
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(ImageError::io("write", path))?;
    path.parent().map_or(Ok(()), sync_dir)
}
