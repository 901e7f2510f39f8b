//! A store, a puller and layers to pull.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use sandboxd_image::pull::SignaturePolicy;
use sandboxd_image::registry::{Credentials, Hosts, HttpSettings};
use sandboxd_image::{Image, Images, PullError, PullRequest, PullSettings, Puller, Settings};

use crate::fake::Fake;

/// Where one test pulls to.
pub struct Node {
    dir: tempfile::TempDir,
    pub images: Arc<Images>,
    pub puller: Arc<Puller>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut PullSettings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let images = Images::open(&dir.path().join("images"), Settings::default()).unwrap();
        let mut settings = PullSettings {
            http: HttpSettings {
                idle_timeout: Duration::from_millis(500),
                attempts: 3,
                backoff: Duration::from_millis(5),
                ..HttpSettings::default()
            },
            ..PullSettings::default()
        };
        change(&mut settings);
        let puller = Puller::new(Arc::clone(&images), settings);
        Self { dir, images, puller }
    }

    /// One whose registries' configuration is `DOMAIN/hosts.toml`.
    pub fn with_hosts(domain: &str, text: &str) -> Self {
        let certs = tempfile::tempdir().unwrap().keep();
        std::fs::create_dir(certs.join(domain)).unwrap();
        std::fs::write(certs.join(domain).join("hosts.toml"), text).unwrap();
        Self::with(|settings| settings.hosts = Hosts::new(Some(certs)))
    }

    pub fn with_policy(policy: impl SignaturePolicy + 'static) -> Self {
        Self::with(|settings| settings.policy = Some(Arc::new(policy)))
    }

    pub async fn pull(&self, reference: &str) -> Result<Arc<Image>, Arc<PullError>> {
        self.puller.pull(request(reference, None)).await
    }

    pub async fn pull_as(
        &self,
        reference: &str,
        credentials: Credentials,
    ) -> Result<Arc<Image>, Arc<PullError>> {
        self.puller.pull(request(reference, Some(credentials))).await
    }

    fn files(&self, under: &str) -> Vec<PathBuf> {
        let mut left = vec![self.dir.path().join("images").join(under)];
        let mut found = Vec::new();
        while let Some(path) = left.pop() {
            for entry in std::fs::read_dir(path).into_iter().flatten().flatten() {
                // `blobs/sha256` and `blobs/sha512` are always there.
                if entry.path().is_dir() && under == "blobs" {
                    left.push(entry.path());
                } else {
                    found.push(entry.path());
                }
            }
        }
        found
    }

    /// Waits until nothing of a pull is left in the store.
    pub async fn is_empty(&self) {
        let end = Instant::now() + Duration::from_secs(5);
        loop {
            let left: Vec<_> =
                ["blobs", "ingest", "layers", "images"].iter().flat_map(|dir| self.files(dir)).collect();
            if left.is_empty() && self.images.list().is_empty() {
                return;
            }
            assert!(Instant::now() < end, "left: {left:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

pub fn request(reference: &str, credentials: Option<Credentials>) -> PullRequest {
    PullRequest { reference: reference.parse().unwrap(), credentials, plain_http: true }
}

/// "127.0.0.1:PORT/a/b:TAG"
pub fn name(fake: &Fake, tag: &str) -> String {
    format!("{}/a/b:{tag}", fake.host)
}

pub fn user(name: &str, password: &str) -> Credentials {
    Credentials { username: name.into(), password: password.into(), ..Credentials::default() }
}

/// A layer with one file of this many bytes that do not compress, nor repeat in another.
pub fn layer(path: &str, size: usize) -> Vec<u8> {
    layer_of(path, size, 0)
}

pub fn layer_of(path: &str, size: usize, uid: u64) -> Vec<u8> {
    let mut state = path.bytes().fold(0x9E37_79B9_7F4A_7C15_u64, |s, b| s.rotate_left(7) ^ u64::from(b));
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_le_bytes()[5]
    })
    .take(size)
    .collect();
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(size as u64);
    header.set_uid(uid);
    header.set_gid(uid);
    let mut tar = tar::Builder::new(Vec::new());
    tar.append_data(&mut header, path, &content[..]).unwrap();
    tar.into_inner().unwrap()
}

/// The error and its causes, as they are told.
pub fn told(error: &PullError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub fn has_file(image: &Image, path: &str) -> bool {
    image.layers.iter().any(|layer| Path::new(&layer.path).join(path).is_file())
}
