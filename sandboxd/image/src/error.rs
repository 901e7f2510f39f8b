//! Why the store could not do something.

use std::io;
use std::path::{Path, PathBuf};

use crate::content::{BadDigest, Digest};
use crate::layer::UnpackError;
use crate::model::LayerId;

/// What went wrong in the store. Pulls have an error of their own, around this one.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is in use by another sandboxd: stop it, or talk to it over its socket")]
    Locked { path: PathBuf },
    #[error(
        "{path} has layout {found}, this sandboxd knows {known}: use the one that wrote it, or another root"
    )]
    Version { path: PathBuf, found: u64, known: u64 },
    #[error(transparent)]
    Digest(#[from] BadDigest),
    #[error("blob {digest} holds {got} bytes and its descriptor says {expected}")]
    Size { digest: Digest, expected: u64, got: u64 },
    #[error("the bytes that came for blob {expected} have digest {got}")]
    Mismatch { expected: Digest, got: Digest },
    #[error("blob {digest} of {size} bytes is larger than the {limit} this store takes")]
    TooLarge { digest: Digest, size: u64, limit: u64 },
    #[error("blob {0} is not in the store")]
    NoBlob(Digest),
    #[error("layer {0} is not in the store: pull its image again")]
    NoLayer(LayerId),
    #[error("layer {layer} cannot be unpacked from blob {blob}")]
    Unpack {
        layer: LayerId,
        blob: Digest,
        #[source]
        source: UnpackError,
    },
    #[error("layer {blob} has media type {media_type:?}, which is no tar this store unpacks")]
    LayerType { blob: Digest, media_type: String },
    #[error("{what} {digest} cannot be read as JSON")]
    Json {
        what: &'static str,
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
    #[error("manifest {digest} has {layers} layers and its configuration {diff_ids} diff ids")]
    LayerCount { digest: Digest, layers: usize, diff_ids: usize },
    #[error("{what} of {size} bytes is larger than the {limit} this store reads")]
    Document { what: &'static str, size: u64, limit: u64 },
    #[error("{reference:?} is the beginning of several image ids: {first}, {second}, …; write more of it")]
    Ambiguous { reference: String, first: String, second: String },
    #[error("{reference:?} names no image: {why}")]
    Reference { reference: String, why: &'static str },
    #[error("archive {path}: {why}")]
    Archive { path: PathBuf, why: String },
    #[error("there is no image {0:?} to export")]
    NoImage(String),
    #[error("a task of the store ended before its work did")]
    Task(#[from] tokio::task::JoinError),
}

impl ImageError {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
