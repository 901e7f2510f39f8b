//! A blob on its way in.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use super::digest::{Digest, Hasher};
use crate::error::ImageError;
use crate::ingest::Shared;

/// Takes a blob's bytes in order. Dropped before [`commit`](Self::commit), it leaves the partial file to
/// the next [`Ingest::blob`](crate::Ingest::blob) of the same digest, which goes on at its end.
#[derive(Debug)]
pub struct BlobWriter {
    /// No other writer of this digest. Let go before `shared`, whose drop may remove the partial file.
    _claim: OwnedMutexGuard<()>,
    shared: Arc<Shared>,
    file: File,
    partial: PathBuf,
    digest: Digest,
    size: u64,
    hasher: Hasher,
    written: u64,
}

impl BlobWriter {
    /// Opens the partial file and hashes what it has. Blocks.
    pub(crate) fn open(
        shared: Arc<Shared>,
        digest: Digest,
        size: u64,
        claim: OwnedMutexGuard<()>,
    ) -> Result<Self, ImageError> {
        let partial = shared.blobs().partial(&digest);
        let open = || {
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&partial)
        };
        let mut file = open().map_err(ImageError::io("open", &partial))?;
        let mut hasher = Hasher::new(digest.algorithm());
        let written = hasher.drain(&mut file).map_err(ImageError::io("read", &partial))?;
        let mut this = Self { shared, file, partial, hasher, written, size, digest, _claim: claim };
        if written > size {
            this.restart()?;
        }
        Ok(this)
    }

    /// Bytes there already: where to go on.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// Bytes the descriptor announced.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Forgets what there is, for a server that cannot go on in the middle.
    ///
    /// # Errors
    /// When the file cannot be truncated.
    pub fn restart(&mut self) -> Result<(), ImageError> {
        let truncate = |file: &mut File| file.set_len(0).and_then(|()| file.seek(SeekFrom::Start(0)));
        truncate(&mut self.file).map_err(ImageError::io("truncate", &self.partial))?;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.written = 0;
        Ok(())
    }

    /// Appends bytes: hashed, and copied into the page cache. Blocks for as long as that takes, about
    /// 50 µs for 64 KiB; larger pieces belong on a blocking thread.
    ///
    /// # Errors
    /// When there are more than the descriptor said, or the disk refuses them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        let got = self.written.saturating_add(bytes.len() as u64);
        if got > self.size {
            return Err(ImageError::Size { digest: self.digest.clone(), expected: self.size, got });
        }
        if let Err(e) = self.file.write_all(bytes) {
            // How much of it was written is not known: the hash would no longer be the file's.
            let _ = self.restart();
            return Err(ImageError::io("write", &self.partial)(e));
        }
        self.hasher.update(bytes);
        self.written = got;
        Ok(())
    }

    /// Checks size and digest, makes the blob durable and gives it its name.
    ///
    /// # Errors
    /// When bytes are missing (the partial file stays, to be resumed) or are others than the digest says
    /// (it goes), or the disk fails.
    pub async fn commit(self) -> Result<(), ImageError> {
        tokio::task::spawn_blocking(move || self.finish()).await?
    }

    /// [`commit`](Self::commit) for a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn finish(self) -> Result<(), ImageError> {
        if self.written != self.size {
            return Err(ImageError::Size { digest: self.digest, expected: self.size, got: self.written });
        }
        let got = self.hasher.finish();
        if got != self.digest {
            let _ = fs::remove_file(&self.partial);
            return Err(ImageError::Mismatch { expected: self.digest, got });
        }
        self.file.sync_data().map_err(ImageError::io("sync", &self.partial))?;
        let path = self.shared.blobs().path(&self.digest);
        fs::rename(&self.partial, &path).map_err(ImageError::io("name", &path))?;
        self.shared.blob_is_here(&self.digest, self.size);
        Ok(())
    }
}
