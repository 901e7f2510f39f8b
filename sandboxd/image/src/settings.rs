//! How the store is kept, and what it takes.

use std::time::Duration;

/// How the store is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Names of images that garbage collection must leave alone: "registry.k8s.io/pause:3.10".
    pub pinned: Vec<String>,
    /// Layers unpacked at once.
    pub unpackers: usize,
    /// How long a pull that failed keeps what it brought for the next attempt.
    pub retry_window: Duration,
    pub limits: Limits,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            pinned: Vec::new(),
            unpackers: 2,
            retry_window: Duration::from_mins(10),
            limits: Limits::default(),
        }
    }
}

/// What is refused because it is too much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a blob.
    pub max_blob: u64,
    /// Bytes of a layer's tar when it is uncompressed; also of its files, where they are sparse.
    pub max_layer: u64,
    /// Entries of a layer's tar.
    pub max_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { max_blob: 64 << 30, max_layer: 128 << 30, max_entries: 5_000_000 }
    }
}

/// What the store takes on its file system.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub bytes: u64,
    pub inodes: u64,
}

impl Usage {
    pub(crate) fn add(&mut self, bytes: u64, inodes: u64) {
        self.bytes += bytes;
        self.inodes += inodes;
    }

    pub(crate) fn sub(&mut self, bytes: u64, inodes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.inodes = self.inodes.saturating_sub(inodes);
    }
}
