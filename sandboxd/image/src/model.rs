//! What is known of an image.

use std::fmt;
use std::path::PathBuf;

/// An image's id: the digest of its configuration, "sha256:" and 64 hex digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ImageId(pub String);

impl fmt::Display for ImageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An unpacked layer: the digest of its uncompressed tar (its diff id).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LayerId(pub String);

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An image of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    pub id: ImageId,
    /// "docker.io/library/busybox:1.36", sorted.
    pub repo_tags: Vec<String>,
    /// "docker.io/library/busybox@sha256:…", sorted.
    pub repo_digests: Vec<String>,
    /// Bytes of its blobs: manifest, configuration, compressed layers.
    pub size: u64,
    /// Never removed by garbage collection.
    pub pinned: bool,
    pub config: ImageConfig,
    /// Lowest first.
    pub layers: Vec<Layer>,
    /// Annotations of the manifest.
    pub annotations: std::collections::BTreeMap<String, String>,
}

/// A layer on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    pub id: LayerId,
    /// Its unpacked files, in overlayfs's form (whiteouts as 0/0 devices, opaque directories as
    /// `trusted.overlay.opaque`), owned by the ids the image has.
    pub path: PathBuf,
    /// The highest uid and gid of its files.
    pub max_uid: u32,
    pub max_gid: u32,
}

/// What an image says about the containers made from it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageConfig {
    pub user: User,
    pub env: Vec<String>,
    pub entrypoint: Vec<String>,
    pub cmd: Vec<String>,
    pub working_dir: String,
    /// Absolute paths.
    pub volumes: Vec<String>,
    /// "SIGQUIT", "3"; as written.
    pub stop_signal: String,
    pub labels: std::collections::BTreeMap<String, String>,
}

/// `User` of an image's configuration, "user[:group]", as written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct User(pub String);
