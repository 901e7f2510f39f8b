//! Why a layer was not unpacked.

use std::io;
use std::path::{Path, PathBuf};

use crate::content::Digest;
use crate::tar::TarError;

/// Why a layer was not unpacked; nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("read the blob")]
    Read(#[source] io::Error),
    #[error("it is compressed with {name}, which images may not be: gzip, zstd or nothing")]
    Compression { name: &'static str },
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error("entry {path:?}: {why}")]
    Entry { path: String, why: &'static str },
    #[error("entry {path:?}: {action}")]
    Make {
        path: String,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("hard link {path:?} points at {target:?}, which this layer does not have")]
    LinkTarget { path: String, target: String },
    #[error("{what} exceeds the limit of {limit}")]
    TooMuch { what: &'static str, limit: u64 },
    #[error("its uncompressed tar has digest {got}, its image says {expected}")]
    DiffId { expected: Digest, got: Digest },
    #[error("the work was called off")]
    Stopped,
}

impl UnpackError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}
