//! A registry that does as it is told: serves what it was given, lies, breaks off, hangs, and counts.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream::{self, Stream};
use sandboxd_image::Digest;
use sandboxd_image::manifest::{Descriptor, OCI_LAYER};
use serde_json::{Value, json};

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What it does once when something is asked for, instead of serving it.
#[derive(Debug, Clone)]
pub enum Act {
    /// Serves it after all.
    Serve,
    /// Other bytes, with their own length.
    Bytes(Vec<u8>),
    /// All but the bytes after this many of them, and then the connection breaks.
    Cut(usize),
    /// Bytes without an end.
    Endless,
    /// A status, and perhaps `Retry-After`.
    Status(u16, Option<&'static str>),
    Redirect(String),
    /// Does not answer.
    Hang,
    /// Answers, and then nothing comes.
    Stall,
    /// Serves it from the beginning, whatever range is asked for.
    NoRange,
    /// A kilobyte at a time, with this pause before each.
    Slow(Duration),
}

/// Whom it lets in.
#[derive(Debug, Clone)]
pub enum Auth {
    Basic(&'static str, &'static str),
    /// A token of the token server at `realm` ("…/token" of a fake).
    Bearer {
        realm: String,
    },
}

/// What its token server takes.
#[derive(Debug, Clone, Copy)]
pub enum Grant {
    Anonymous,
    /// GET with this user and password.
    Password(&'static str, &'static str),
    /// POST with this refresh token.
    Refresh(&'static str),
}

pub const TOKEN: &str = "a-token-of-the-server";

/// A request it got.
#[derive(Debug, Clone)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub query: String,
    pub headers: HeaderMap,
    pub body: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

#[derive(Debug, Default)]
struct Inner {
    blobs: BTreeMap<String, Vec<u8>>,
    /// By tag and by digest: media type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
    rules: Vec<(String, VecDeque<Act>, Option<Act>)>,
    auth: Option<Auth>,
    grant: Option<Grant>,
    prefix: String,
    seen: Vec<Seen>,
}

/// The registry. It ends with the test's runtime.
#[derive(Debug, Clone)]
pub struct Fake {
    inner: Arc<Mutex<Inner>>,
    pub host: String,
}

impl Fake {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let inner = Arc::new(Mutex::new(Inner { prefix: "/v2".to_owned(), ..Inner::default() }));
        let router = Router::new().fallback(answer).with_state(Arc::clone(&inner));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { inner, host }
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.host)
    }

    /// Serves under another path than "/v2".
    pub fn prefix(&self, prefix: &str) {
        self.inner().prefix = prefix.to_owned();
    }

    pub fn auth(&self, auth: Auth, grant: Grant) {
        (self.inner().auth, self.inner().grant) = (Some(auth), Some(grant));
    }

    /// What it does the next times something with this in its path is asked for.
    pub fn next(&self, path: &str, acts: impl IntoIterator<Item = Act>) {
        self.inner().rules.push((path.to_owned(), acts.into_iter().collect(), None));
    }

    /// What it always does then.
    pub fn always(&self, path: &str, act: Act) {
        self.inner().rules.push((path.to_owned(), VecDeque::new(), Some(act)));
    }

    /// Forgets what it was told to do.
    pub fn behave(&self) {
        self.inner().rules.clear();
    }

    pub fn blob(&self, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        self.inner().blobs.insert(digest.to_string(), bytes.to_vec());
        Descriptor::new(OCI_LAYER, digest, bytes.len() as u64)
    }

    /// A document, by its digest and perhaps by a tag.
    pub fn manifest(&self, tag: Option<&str>, media_type: &str, document: &Value) -> Descriptor {
        self.raw_manifest(tag, media_type, document.to_string().into_bytes())
    }

    pub fn raw_manifest(&self, tag: Option<&str>, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let digest = Digest::of(&bytes);
        let descriptor = Descriptor::new(media_type, digest.clone(), bytes.len() as u64);
        let mut inner = self.inner();
        for name in tag.into_iter().map(str::to_owned).chain([digest.to_string()]) {
            inner.manifests.insert(name, (media_type.to_owned(), bytes.clone()));
        }
        descriptor
    }

    /// An image with these layers, lowest first, under a tag.
    pub fn image(&self, tag: &str, layers: &[&[u8]]) -> Descriptor {
        self.image_for(Some(tag), layers, std::env::consts::ARCH)
    }

    pub fn image_for(&self, tag: Option<&str>, layers: &[&[u8]], arch: &str) -> Descriptor {
        let blobs: Vec<_> = layers.iter().map(|layer| self.blob(layer)).collect();
        let config = self.config(layers, arch);
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": blobs });
        self.manifest(tag, OCI_MANIFEST, &manifest)
    }

    pub fn config(&self, layers: &[&[u8]], arch: &str) -> Descriptor {
        let diff_ids: Vec<_> = layers.iter().map(|layer| Digest::of(layer).to_string()).collect();
        let config = json!({
            "architecture": oci_arch(arch), "os": "linux", "config": { "Env": ["A=b"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Descriptor { media_type: OCI_CONFIG.to_owned(), ..self.blob(config.to_string().as_bytes()) }
    }

    /// The requests with this in their path.
    pub fn seen(&self, path: &str) -> Vec<Seen> {
        self.inner().seen.iter().filter(|seen| seen.path.contains(path)).cloned().collect()
    }
}

pub fn oci_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn answer(State(inner): State<Arc<Mutex<Inner>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.unwrap_or_default();
    let seen = Seen {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: parts.headers,
        body: String::from_utf8_lossy(&body).into_owned(),
    };
    let (act, answer) = {
        let mut inner = inner.lock().unwrap();
        inner.seen.push(seen.clone());
        (inner.act(&seen.path), inner.answer(&seen))
    };
    let Some((media_type, bytes)) = answer.bytes else { return answer.response };
    match act {
        Act::Serve => whole(&seen, &media_type, bytes, true),
        Act::NoRange => whole(&seen, &media_type, bytes, false),
        Act::Bytes(other) => whole(&seen, &media_type, other, false),
        Act::Status(status, after) => {
            let mut response = empty(status);
            if let Some(after) = after {
                response.headers_mut().insert(header::RETRY_AFTER, after.parse().unwrap());
            }
            response
        }
        Act::Redirect(to) => {
            let mut response = empty(307);
            response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
            response
        }
        Act::Hang => std::future::pending().await,
        Act::Stall => {
            let body = Body::from_stream(stream::pending::<io::Result<Bytes>>());
            Response::builder().header(header::CONTENT_LENGTH, bytes.len()).body(body).unwrap()
        }
        Act::Endless => {
            let piece = || Ok::<_, io::Error>(Bytes::from_static(&[0; 4096]));
            Response::new(Body::from_stream(stream::repeat_with(piece)))
        }
        Act::Cut(at) => {
            let mut response = whole(&seen, &media_type, bytes, true);
            let rest = std::mem::replace(response.body_mut(), Body::empty());
            let rest = to_bytes(rest, usize::MAX).await.unwrap();
            *response.body_mut() = Body::from_stream(broken(rest.slice(..at.min(rest.len()))));
            response
        }
        Act::Slow(pause) => {
            let length = bytes.len();
            let pieces: VecDeque<_> = bytes.chunks(1024).map(Bytes::copy_from_slice).collect();
            let body = Body::from_stream(stream::unfold(pieces, move |mut left| async move {
                tokio::time::sleep(pause).await;
                left.pop_front().map(|piece| (Ok::<_, io::Error>(piece), left))
            }));
            Response::builder().header(header::CONTENT_LENGTH, length).body(body).unwrap()
        }
    }
}

/// Bytes, and then an error that closes the connection, once they are on their way.
fn broken(bytes: Bytes) -> impl Stream<Item = io::Result<Bytes>> {
    stream::unfold(0, move |step| {
        let bytes = bytes.clone();
        async move {
            match step {
                0 => Some((Ok(bytes), 1)),
                _ => {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    Some((Err(io::Error::other("cut")), 2))
                }
            }
        }
    })
}

fn empty(status: u16) -> Response {
    Response::builder().status(status).body(Body::empty()).unwrap()
}

fn whole(seen: &Seen, media_type: &str, bytes: Vec<u8>, ranges: bool) -> Response {
    let response = Response::builder().header(header::CONTENT_TYPE, media_type);
    let range = seen.header("range").and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-'));
    let start = range.and_then(|start| start.parse::<usize>().ok()).filter(|_| ranges);
    match start {
        Some(start) if start < bytes.len() => {
            let range = format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len());
            let response = response.status(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_RANGE, range);
            response.body(Body::from(bytes[start..].to_vec())).unwrap()
        }
        Some(_) => empty(416),
        None => response.body(Body::from(bytes)).unwrap(),
    }
}

/// Bytes that may be tampered with, or a response as it is.
struct Answer {
    response: Response,
    bytes: Option<(String, Vec<u8>)>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self { response, bytes: None }
    }
}

impl Inner {
    fn act(&mut self, path: &str) -> Act {
        for (part, acts, always) in &mut self.rules {
            if !path.contains(part.as_str()) {
                continue;
            }
            if let Some(act) = acts.pop_front().or_else(|| always.clone()) {
                return act;
            }
        }
        Act::Serve
    }

    fn answer(&self, seen: &Seen) -> Answer {
        if seen.path == "/token" {
            return self.token(seen);
        }
        if let Some(challenge) = self.challenge(seen) {
            let mut response = empty(401);
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge.parse().unwrap());
            return response.into();
        }
        let name = seen.path.rsplit('/').next().unwrap_or_default();
        let under = seen.path.starts_with(&self.prefix);
        let found = match () {
            () if !under => None,
            () if seen.path.contains("/manifests/") => self.manifests.get(name).cloned(),
            () if seen.path.contains("/blobs/") || seen.path.contains("/cdn/") => {
                self.blobs.get(name).map(|bytes| ("application/octet-stream".to_owned(), bytes.clone()))
            }
            () => None,
        };
        match found {
            Some(found) => Answer { response: empty(200), bytes: Some(found) },
            None => empty(404).into(),
        }
    }

    /// What is missing for a request to be let in.
    fn challenge(&self, seen: &Seen) -> Option<String> {
        let shown = seen.header("authorization").unwrap_or_default();
        match self.auth.as_ref()? {
            Auth::Basic(user, password) => {
                (shown != basic(user, password)).then(|| "Basic realm=\"fake\"".to_owned())
            }
            Auth::Bearer { realm } => (shown != format!("Bearer {TOKEN}"))
                .then(|| format!("Bearer realm=\"{realm}\",service=\"fake\",scope=\"repository:a/b:pull\"")),
        }
    }

    fn token(&self, seen: &Seen) -> Answer {
        let granted = match self.grant {
            Some(Grant::Anonymous) => seen.header("authorization").is_none(),
            Some(Grant::Password(user, password)) => {
                seen.method == "GET" && seen.header("authorization") == Some(&basic(user, password))
            }
            Some(Grant::Refresh(token)) => {
                seen.method == "POST" && seen.body.contains(&format!("refresh_token={token}"))
            }
            None => false,
        };
        if !granted {
            return empty(401).into();
        }
        let bytes = json!({ "token": TOKEN }).to_string().into_bytes();
        Answer { response: empty(200), bytes: Some(("application/json".to_owned(), bytes)) }
    }
}

pub fn basic(user: &str, password: &str) -> String {
    let text = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {text}")
}
