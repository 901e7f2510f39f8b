//! A registry that does what a test tells it, on loopback.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use crate::content::Digest;
use crate::manifest::{OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST};
use crate::pull::{PullRequest, PullSettings, Puller};
use crate::registry::{Credentials, Hosts, HttpSettings};
use crate::store::Images;
use crate::testing::{config_of, layer_tar};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

type Route = Arc<dyn Fn(&Seen) -> Response + Send + Sync>;

#[derive(Default)]
struct State {
    routes: HashMap<String, Route>,
    seen: Vec<Seen>,
}

/// Answers 404 to what it was not told about.
#[derive(Clone)]
pub(super) struct Fake {
    pub port: u16,
    state: Arc<Mutex<State>>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::<Mutex<State>>::default();
        let shared = Arc::clone(&state);
        let app = axum::Router::new().fallback(move |request: Request| {
            let shared = Arc::clone(&shared);
            async move {
                let (parts, body) = request.into_parts();
                let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
                let seen = Seen {
                    method: parts.method.to_string(),
                    path: parts.uri.path().to_owned(),
                    query: parts.uri.query().unwrap_or_default().to_owned(),
                    headers: parts.headers,
                    body: String::from_utf8_lossy(&body).into_owned(),
                };
                let route = {
                    let mut state = shared.lock().unwrap();
                    state.seen.push(seen.clone());
                    state.routes.get(&seen.path).cloned()
                };
                let answer = route.map_or_else(|| status(404), |route| route(&seen));
                Ok::<_, Infallible>(answer)
            }
        });
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { port, state }
    }

    pub(super) fn route(
        &self,
        path: impl Into<String>,
        answer: impl Fn(&Seen) -> Response + Send + Sync + 'static,
    ) {
        self.state.lock().unwrap().routes.insert(path.into(), Arc::new(answer));
    }

    /// The requests for a path.
    pub(super) fn seen(&self, path: &str) -> Vec<Seen> {
        self.state.lock().unwrap().seen.iter().filter(|seen| seen.path == path).cloned().collect()
    }

    /// Serves an image as "REPOSITORY:1"; returns the digests of its blobs.
    pub(super) fn serve(&self, repository: &str, layers: &[&str]) -> Served {
        let config = config_of(repository, layers);
        let mut served = Served { prefix: format!("/v2/{repository}"), ..Served::default() };
        let mut descriptors = Vec::new();
        for text in layers {
            let tar = layer_tar(text);
            let digest = Digest::of(&tar);
            descriptors.push(json!({ "mediaType": OCI_LAYER, "digest": digest, "size": tar.len() }));
            served.layers.push((digest.clone(), tar.clone()));
            self.blob(&served.blob(&digest), tar);
        }
        served.config = Digest::of(config.as_bytes());
        served.config_bytes = config.clone().into_bytes();
        self.blob(&served.blob(&served.config), config.clone().into_bytes());
        served.manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": descriptors,
            "config": { "mediaType": OCI_CONFIG, "digest": served.config, "size": config.len() },
        });
        self.tag(&served, "1", &served.manifest, OCI_MANIFEST);
        served
    }

    /// Serves a document under a tag and its digest.
    pub(super) fn tag(
        &self,
        served: &Served,
        tag: &str,
        document: &Value,
        media_type: &'static str,
    ) -> Digest {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        for name in [tag.to_owned(), digest.to_string()] {
            let bytes = bytes.clone();
            self.route(format!("{}/manifests/{name}", served.prefix), move |_| {
                Response::builder().header("content-type", media_type).body(bytes.clone().into()).unwrap()
            });
        }
        digest
    }

    /// Serves an index of manifests under a tag.
    pub(super) fn index(&self, served: &Served, tag: &str, manifests: &[(&Value, &str, &str)]) -> Digest {
        let manifests: Vec<_> = manifests
            .iter()
            .map(|(document, media_type, architecture)| {
                let bytes = document.to_string().into_bytes();
                json!({
                    "mediaType": media_type, "digest": Digest::of(&bytes), "size": bytes.len(),
                    "platform": { "os": "linux", "architecture": architecture },
                })
            })
            .collect();
        let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
        self.tag(served, tag, &index, OCI_INDEX)
    }

    /// Serves bytes, also from a range on.
    pub(super) fn blob(&self, path: &str, bytes: Vec<u8>) {
        self.route(path, move |seen| ranged(seen, &bytes));
    }

    pub(super) fn request(&self, reference: &str) -> PullRequest {
        let reference = format!("127.0.0.1:{}/{reference}", self.port).parse().expect("a reference");
        PullRequest { reference, credentials: None, plain_http: true }
    }

    pub(super) fn as_user(&self, reference: &str, credentials: Credentials) -> PullRequest {
        PullRequest { credentials: Some(credentials), ..self.request(reference) }
    }
}

/// An image that is served.
#[derive(Debug, Clone)]
pub(super) struct Served {
    pub prefix: String,
    pub manifest: Value,
    pub config: Digest,
    pub config_bytes: Vec<u8>,
    pub layers: Vec<(Digest, Vec<u8>)>,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            prefix: String::new(),
            manifest: Value::Null,
            config: Digest::of(b""),
            config_bytes: Vec::new(),
            layers: Vec::new(),
        }
    }
}

impl Served {
    pub(super) fn blob(&self, digest: &Digest) -> String {
        format!("{}/blobs/{digest}", self.prefix)
    }

    pub(super) fn layer(&self, index: usize) -> String {
        self.blob(&self.layers[index].0)
    }
}

pub(super) fn status(code: u16) -> Response {
    Response::builder().status(StatusCode::from_u16(code).unwrap()).body(Body::empty()).unwrap()
}

pub(super) fn ranged(seen: &Seen, bytes: &[u8]) -> Response {
    let from = seen
        .header("range")
        .strip_prefix("bytes=")
        .and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
    match from {
        Some(from) => Response::builder()
            .status(206)
            .header("content-range", format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len()))
            .body(bytes[from..].to_vec().into())
            .unwrap(),
        None => Response::new(bytes.to_vec().into()),
    }
}

/// Announces all, and breaks off.
pub(super) fn truncated(bytes: &[u8], at: usize) -> Response {
    let (first, length) = (Bytes::copy_from_slice(&bytes[..at]), bytes.len());
    let pieces = futures_util::stream::unfold(Some(first), |piece| async move {
        match piece {
            Some(piece) => Some((Ok(piece), None)),
            None => {
                // The bytes before it are to be sent first.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Some((Err(std::io::Error::other("broken off")), None))
            }
        }
    });
    Response::builder().header("content-length", length).body(Body::from_stream(pieces)).unwrap()
}

/// Never ends; a piece every `pause`.
pub(super) fn endless(pause: Duration) -> Response {
    let pieces = futures_util::stream::unfold((), move |()| async move {
        tokio::time::sleep(pause).await;
        Some((Ok::<_, Infallible>(Bytes::from_static(&[7; 4096])), ()))
    });
    Response::new(Body::from_stream(pieces))
}

pub(super) struct Bench {
    pub images: Arc<Images>,
    pub puller: Arc<Puller>,
    pub dir: tempfile::TempDir,
}

pub(super) fn quick() -> HttpSettings {
    HttpSettings {
        connect_timeout: Duration::from_secs(5),
        idle_timeout: Duration::from_secs(2),
        attempts: 3,
        backoff: Duration::from_millis(10),
    }
}

pub(super) fn bench_with(change: impl FnOnce(&mut PullSettings, &Path)) -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let images = crate::testing::open(dir.path());
    let mut settings = PullSettings {
        hosts: Hosts::new(Some(dir.path().join("certs.d"))),
        http: quick(),
        timeout: Duration::from_secs(60),
        ..PullSettings::default()
    };
    change(&mut settings, dir.path());
    let puller = Puller::new(Arc::clone(&images), settings);
    Bench { images, puller, dir }
}

pub(super) fn bench() -> Bench {
    bench_with(|_, _| {})
}

impl Bench {
    /// The error of a pull that must fail.
    pub(super) async fn refused(&self, request: PullRequest) -> String {
        let error = self.puller.pull(request).await.expect_err("refused");
        crate::error::chain(&*error)
    }

    /// Nothing of a pull is left: no image, blob, layer or partial file. The store cleans up beside us.
    pub(super) async fn is_empty(&self) {
        let store = self.dir.path().join("store");
        let mut left = Vec::new();
        for _ in 0..100 {
            left.clear();
            for sub in ["blobs/sha256", "ingest", "layers", "images"] {
                let entries = std::fs::read_dir(store.join(sub)).into_iter().flatten().flatten();
                left.extend(entries.map(|entry| entry.path()));
            }
            if left.is_empty() && self.images.list().is_empty() && self.puller.pulls().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("left behind: {left:?}");
    }

    pub(super) fn hosts_toml(&self, domain: &str, text: &str) {
        let dir = self.dir.path().join("certs.d").join(domain);
        std::fs::create_dir_all(&dir).expect("made");
        std::fs::write(dir.join("hosts.toml"), text).expect("written");
    }
}
