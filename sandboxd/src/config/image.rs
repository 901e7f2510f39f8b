//! `[image]`: registries, pulls and the store.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::duration;

/// As written; `default.toml` says what each is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Empty: none.
    pub registry_config_dir: PathBuf,
    pub max_parallel_downloads: usize,
    pub max_total_downloads: usize,
    pub unpackers: usize,
    #[serde(with = "duration")]
    pub pull_timeout: Duration,
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    #[serde(with = "duration")]
    pub progress_timeout: Duration,
    pub max_layer_gib: u64,
    pub pinned: Vec<String>,
    /// Empty: every image is accepted.
    pub signature_policy: PathBuf,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            registry_config_dir: "/etc/sandboxd/certs.d".into(),
            max_parallel_downloads: 3,
            max_total_downloads: 6,
            unpackers: 2,
            pull_timeout: Duration::from_hours(1),
            connect_timeout: Duration::from_secs(30),
            progress_timeout: Duration::from_mins(1),
            max_layer_gib: 128,
            pinned: Vec::new(),
            signature_policy: PathBuf::new(),
        }
    }
}
