//! What a pull asks of a registry: manifests and blobs, of its hosts in order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, RANGE};
use reqwest::{Method, Response, StatusCode, Url};

use super::auth::Credentials;
use super::error::{Cause, RegistryError, transport};
use super::host::Host;
use super::hosts::{Endpoint, authority};
use super::tries::{Failures, Tries, attempts, backoff};
use super::{Hosts, HttpSettings, is_loopback};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::{Reference, Version};

/// A repository's registry, for one pull.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(super) domain: String,
    pub(super) repository: String,
    hosts: Vec<Host>,
    pub(super) credentials: Option<Credentials>,
    pub(super) settings: HttpSettings,
    /// The host that gave the newest manifest: its blobs are asked of it first.
    preferred: AtomicUsize,
}

/// A manifest, or an error to go on with at the next host.
#[derive(Debug)]
pub(crate) struct Document {
    pub media_type: String,
    pub announced: Option<String>,
    pub bytes: Vec<u8>,
    pub host: String,
}

/// A blob's bytes on their way.
#[derive(Debug)]
pub(crate) struct Blob {
    response: Response,
    /// Where in the blob they begin.
    pub offset: u64,
    pub length: Option<u64>,
    what: String,
    host: String,
    idle: Duration,
}

impl Blob {
    /// The next bytes; `None` at the end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, RegistryError> {
        let unavailable =
            |cause| RegistryError::Unavailable { what: self.what.clone(), host: self.host.clone(), cause };
        match tokio::time::timeout(self.idle, self.response.chunk()).await {
            Err(_) => Err(unavailable(Cause::Idle(self.idle))),
            Ok(Err(e)) => Err(unavailable(transport(e))),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }

    pub(crate) fn truncated(&self, got: u64, expected: u64) -> RegistryError {
        let cause = Cause::Truncated { got, expected };
        RegistryError::Unavailable { what: self.what.clone(), host: self.host.clone(), cause }
    }
}

impl Registry {
    /// Reads the registry's configuration and sets up its clients.
    pub(crate) async fn open(
        hosts: &Hosts,
        reference: &Reference,
        credentials: Option<Credentials>,
        plain: bool,
        settings: &HttpSettings,
    ) -> Result<Self, RegistryError> {
        let (hosts, domain) = (hosts.clone(), reference.domain().to_owned());
        let (wait, name) = (settings.clone(), domain.clone());
        let open = move || {
            let endpoints = hosts.endpoints(&domain, plain)?.into_iter();
            endpoints.map(|endpoint| Host::new(endpoint, &wait)).collect::<Result<Vec<_>, _>>()
        };
        let hosts = tokio::task::spawn_blocking(open)
            .await
            .unwrap_or_else(|e| Err(RegistryError::Tls { host: name.clone(), detail: e.to_string() }))?;
        let repository = reference.path().to_owned();
        let (settings, preferred) = (settings.clone(), AtomicUsize::new(0));
        Ok(Self { domain: name, repository, hosts, credentials, settings, preferred })
    }

    /// A manifest by tag or digest, from the first host that has it.
    pub(crate) async fn manifest(&self, version: &Version, limit: u64) -> Result<Document, RegistryError> {
        let (object, capability) = match version {
            Version::Tag(tag) => (tag.clone(), "resolve"),
            Version::Digest(digest) => (digest.to_string(), "pull"),
        };
        let what = format!("manifest {object} of {}", self.repository);
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST, "*/*;q=0.1"].join(", ");
        let mut headers = HeaderMap::new();
        if let Ok(accept) = accept.parse() {
            headers.insert(ACCEPT, accept);
        }
        let mut failed = Failures::default();
        for (index, host) in self.hosts.iter().enumerate() {
            let able = if capability == "resolve" { host.endpoint.resolve } else { host.endpoint.pull };
            if !able {
                continue;
            }
            // It speaks TLS: to go on without would be to give up what its certificate stands for.
            if host.endpoint.is_fallback() && failed.of_tls() {
                break;
            }
            match self.document(host, &what, &format!("manifests/{object}"), &headers, limit).await {
                Ok(document) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(document);
                }
                Err(error) => failed.add(error, &host.endpoint),
            }
        }
        Err(failed.worst().unwrap_or_else(|| self.no_host(what, capability)))
    }

    async fn document(
        &self,
        host: &Host,
        what: &str,
        path: &str,
        headers: &HeaderMap,
        limit: u64,
    ) -> Result<Document, RegistryError> {
        let mut tries = Tries::new(self, host);
        loop {
            let outcome = async {
                let response = self.ask(host, what, path, headers).await?;
                let header = |name: &str| {
                    response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned)
                };
                let media_type = header(CONTENT_TYPE.as_str()).unwrap_or_default();
                let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
                let announced = header("docker-content-digest");
                let bytes = self.body(response, what, host.endpoint.authority(), limit).await?;
                Ok(Document { media_type, announced, bytes, host: host.endpoint.authority() })
            };
            match outcome.await {
                Err(error) => tries.wait_or_fail(error).await?,
                Ok(document) => return Ok(document),
            }
        }
    }

    /// The hosts a blob may be asked of, in this order.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = usize> + use<> {
        let answered = self.preferred.load(Ordering::Relaxed);
        let able = self.hosts.iter().enumerate().filter(|(_, host)| host.endpoint.pull);
        // Those before it were asked as well, unless they may not resolve.
        let (failed, rest): (Vec<_>, Vec<_>) =
            able.partition(|(index, host)| *index < answered && host.endpoint.resolve);
        let order: Vec<_> = rest.into_iter().chain(failed).map(|(index, _)| index).collect();
        order.into_iter()
    }

    /// Tries of one blob at one host.
    pub(crate) fn attempts(&self, host: usize) -> u32 {
        self.hosts.get(host).map_or(1, |h| attempts(&self.settings, &h.endpoint))
    }

    /// The pause before a try.
    pub(crate) fn pause(&self, tried: u32) -> Duration {
        backoff(&self.settings, tried)
    }

    /// A blob from one of [`hosts`](Self::hosts), from `offset` on if it can do that.
    pub(crate) async fn blob(&self, host: usize, digest: &str, offset: u64) -> Result<Blob, RegistryError> {
        let what = format!("blob {digest} of {}", self.repository);
        let Some(host) = self.hosts.get(host) else { return Err(self.no_host(what, "pull")) };
        let response = self.ask(host, &what, &format!("blobs/{digest}"), &range(offset)).await?;
        self.opened(response, offset, what, host.endpoint.authority())
    }

    /// A blob that fits into memory, with the tries of a document.
    pub(crate) async fn small_blob(
        &self,
        host: usize,
        digest: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let what = format!("blob {digest} of {}", self.repository);
        let Some(host) = self.hosts.get(host) else { return Err(self.no_host(what, "pull")) };
        let path = format!("blobs/{digest}");
        Ok(self.document(host, &what, &path, &HeaderMap::new(), limit).await?.bytes)
    }

    /// A host's name for errors.
    pub(crate) fn name_of(&self, host: usize) -> String {
        self.hosts.get(host).map(|host| host.endpoint.authority()).unwrap_or_default()
    }

    pub(crate) fn no_host(&self, what: String, capability: &'static str) -> RegistryError {
        RegistryError::NoHost { registry: self.domain.clone(), what, capability }
    }

    /// A foreign layer, from where its descriptor says; without credentials.
    pub(crate) async fn foreign(&self, url: &str, offset: u64) -> Result<Blob, RegistryError> {
        let what = "a foreign layer".to_owned();
        let bad =
            |detail: String| RegistryError::BadAnswer { what: what.clone(), host: url.to_owned(), detail };
        let url = Url::parse(url).map_err(|e| bad(format!("its address is no URL: {e}")))?;
        let local = url.host_str().is_some_and(is_loopback);
        if url.scheme() != "https" && !(url.scheme() == "http" && local) {
            return Err(bad("its address is not https".to_owned()));
        }
        let (base, wait, place) = (url.clone(), self.settings.clone(), authority(&url));
        let host = tokio::task::spawn_blocking(move || Host::new(Endpoint::at(base), &wait)).await;
        let host = host.unwrap_or_else(|e| Err(bad(e.to_string())))?;
        let response = self.follow(&host, &what, Method::GET, url, &range(offset), None, None).await?;
        let response = self.checked(response, &what, &place).await?;
        self.opened(response, offset, what, place)
    }

    fn opened(
        &self,
        response: Response,
        asked: u64,
        what: String,
        host: String,
    ) -> Result<Blob, RegistryError> {
        let mut offset = 0;
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range =
                response.headers().get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
            let start =
                range.strip_prefix("bytes ").and_then(|r| r.split('-').next()).and_then(|s| s.parse().ok());
            match start {
                Some(start) if start == asked => offset = start,
                _ => {
                    let detail = format!("asked for bytes from {asked} on, it sends {range:?}");
                    return Err(RegistryError::BadAnswer { what, host, detail });
                }
            }
        }
        let length = response.content_length();
        Ok(Blob { response, offset, length, what, host, idle: self.settings.idle_timeout })
    }
}

fn range(offset: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    if offset > 0
        && let Ok(value) = HeaderValue::from_str(&format!("bytes={offset}-"))
    {
        headers.insert(RANGE, value);
    }
    headers
}
