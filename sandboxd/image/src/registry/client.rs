//! Asking a registry: endpoints in order, each with its redirects, retries, bounds and authorization.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use tokio::sync::Mutex;

use super::auth::{self, Credentials, Plan, TokenAnswer, TokenRequest, TokenServer};
use super::challenge;
use super::error::{Cause, RegistryError, transport};
use super::hosts::{Endpoint, authority};
use super::{Hosts, HttpSettings, is_loopback, tls};
use crate::manifest::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::reference::{Reference, Version};

const USER_AGENT: &str = concat!("sandboxd/", env!("CARGO_PKG_VERSION"));
const REDIRECTS: usize = 10;
/// What is read of an error's body, and of a token.
const ERROR_MAX: u64 = 8 * 1024;
const TOKEN_MAX: u64 = 1 << 20;
/// A registry that asks to wait longer is given up.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Tries at a mirror: the next host is there.
const MIRROR_ATTEMPTS: u32 = 2;

/// A repository's registry, for one pull.
#[derive(Debug)]
pub(crate) struct Registry {
    domain: String,
    repository: String,
    hosts: Vec<Host>,
    credentials: Option<Credentials>,
    settings: HttpSettings,
    /// The host that gave the newest manifest: its blobs are asked of it first.
    preferred: AtomicUsize,
}

#[derive(Debug)]
struct Host {
    endpoint: Endpoint,
    client: Client,
    /// What was accepted last; one asks for a token while the others wait.
    authorization: Mutex<Option<HeaderValue>>,
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

    /// One request at one host, with authorization: an answer of 200 or 206.
    async fn ask(
        &self,
        host: &Host,
        what: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response, RegistryError> {
        let url = host.url(&self.repository, path);
        let mut shown = {
            let mut known = host.authorization.lock().await;
            if known.is_none() {
                known.clone_from(&self.upfront(host)?);
            }
            known.clone()
        };
        let mut asked = 0;
        loop {
            let response =
                self.follow(host, what, Method::GET, url.clone(), headers, shown.as_ref(), None).await?;
            if response.status() != StatusCode::UNAUTHORIZED || asked == 2 {
                return self.checked(response, what, &host.endpoint.authority()).await;
            }
            asked += 1;
            let mut known = host.authorization.lock().await;
            // Somebody else may have got a token meanwhile.
            if *known != shown && known.is_some() {
                shown.clone_from(&known);
                continue;
            }
            let Some(next) = self.authorize(host, what, &response).await? else {
                drop(known);
                return self.checked(response, what, &host.endpoint.authority()).await;
            };
            if shown.as_ref() == Some(&next) {
                drop(known);
                return self.checked(response, what, &host.endpoint.authority()).await;
            }
            *known = Some(next.clone());
            shown = Some(next);
        }
    }

    /// The credentials a host may see.
    fn credentials_for(&self, host: &Host) -> Option<&Credentials> {
        let credentials = self.credentials.as_ref()?;
        let at = host.endpoint.authority();
        (credentials.are_for(&at) || credentials.are_for(&self.domain) && !host.endpoint.is_mirror)
            .then_some(credentials)
    }

    /// A registry token is shown without being asked for.
    fn upfront(&self, host: &Host) -> Result<Option<HeaderValue>, RegistryError> {
        let token = self.credentials_for(host).map(|c| c.registry_token.as_str()).filter(|t| !t.is_empty());
        let Some(token) = token else { return Ok(None) };
        host.may_see_secrets(&host.endpoint.base)?;
        Ok(auth::bearer(token))
    }

    async fn authorize(
        &self,
        host: &Host,
        what: &str,
        response: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let challenges: Vec<_> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let credentials = self.credentials_for(host);
        let bad = |detail| RegistryError::BadAnswer {
            what: what.to_owned(),
            host: host.endpoint.authority(),
            detail,
        };
        match auth::plan(&challenges, credentials, &self.repository).map_err(bad)? {
            None => Ok(None),
            Some(Plan::Header(header)) => {
                host.may_see_secrets(&host.endpoint.base)?;
                Ok(Some(header))
            }
            Some(Plan::Token(server)) => self.token(host, what, &server, credentials).await.map(Some),
        }
    }

    /// Gets a token; a server that is busy is asked again.
    async fn token(
        &self,
        host: &Host,
        what: &str,
        server: &TokenServer,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue, RegistryError> {
        let what = format!("a token for {what}");
        let at = authority(&server.realm);
        let mut last = None;
        for request in server.requests(credentials) {
            if request.secret {
                host.may_see_secrets(&request.url)?;
            }
            let mut tries = Tries::new(self, host);
            loop {
                match self.token_once(host, &what, &request).await {
                    Ok(header) => return Ok(header),
                    Err(error) if error.is_passing() => tries.wait_or_fail(error).await?,
                    // It does not know this way of asking; or, as some do, says 401 or 400 to it.
                    Err(error) => {
                        last.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or(RegistryError::Unauthorized {
            what,
            host: at,
            detail: "no way to ask".to_owned(),
        }))
    }

    async fn token_once(
        &self,
        host: &Host,
        what: &str,
        request: &TokenRequest,
    ) -> Result<HeaderValue, RegistryError> {
        let method = if request.form.is_some() { Method::POST } else { Method::GET };
        let (url, authorization) = (request.url.clone(), request.authorization.as_ref());
        let form = request.form.as_deref();
        let response = self.follow(host, what, method, url, &HeaderMap::new(), authorization, form).await?;
        let at = authority(&request.url);
        let response = self.checked(response, what, &at).await.map_err(|error| match error {
            // A token server's words for "not with these credentials".
            RegistryError::Refused { what, host, status: 400 | 404 | 405, detail } => {
                RegistryError::Unauthorized { what, host, detail }
            }
            other => other,
        })?;
        let bytes = self.body(response, what, at.clone(), TOKEN_MAX).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        answer.and_then(|answer| answer.header()).ok_or_else(|| RegistryError::BadAnswer {
            what: what.to_owned(),
            host: at,
            detail: "it has neither \"token\" nor \"access_token\"".to_owned(),
        })
    }

    /// Sends a request and follows redirects. Authorization and the host's own headers go to the first origin
    /// only.
    #[expect(clippy::too_many_arguments, reason = "one call a kind of request, all private")]
    async fn follow(
        &self,
        host: &Host,
        what: &str,
        method: Method,
        url: Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        form: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let (origin, mut url) = (url.origin(), url);
        for _ in 0..=REDIRECTS {
            let at = authority(&url);
            let mut request = host.client.request(method.clone(), url.clone()).headers(headers.clone());
            if url.origin() == origin {
                if url.origin() == host.endpoint.base.origin() {
                    request = request.headers(host.endpoint.header.clone());
                }
                if let Some(authorization) = authorization {
                    request = request.header(AUTHORIZATION, authorization);
                }
                if let Some(form) = form {
                    let kind = "application/x-www-form-urlencoded";
                    request = request.header(CONTENT_TYPE, kind).body(form.to_owned());
                }
            }
            let unavailable =
                |cause| RegistryError::Unavailable { what: what.to_owned(), host: at.clone(), cause };
            let response = match tokio::time::timeout(self.settings.idle_timeout, request.send()).await {
                Err(_) => return Err(unavailable(Cause::Idle(self.settings.idle_timeout))),
                Ok(Err(e)) => return Err(unavailable(transport(e))),
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let bad =
                |detail: String| RegistryError::BadAnswer { what: what.to_owned(), host: at.clone(), detail };
            let to = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let to = to.ok_or_else(|| bad("a redirect that says not where to".to_owned()))?;
            let next = url.join(to).map_err(|e| bad(format!("it redirects to no URL: {e}")))?;
            match (url.scheme(), next.scheme()) {
                ("https", "http") => {
                    let to = authority(&next);
                    return Err(RegistryError::Downgrade { what: what.to_owned(), host: at, to });
                }
                (_, "http" | "https") => {}
                (_, other) => return Err(bad(format!("it redirects to {other}:"))),
            }
            if form.is_some() {
                return Err(bad("a token server that redirects a POST".to_owned()));
            }
            url = next;
        }
        let detail = format!("more than {REDIRECTS} redirects");
        Err(RegistryError::BadAnswer { what: what.to_owned(), host: host.endpoint.authority(), detail })
    }

    /// An answer of success, or what its status means.
    async fn checked(&self, response: Response, what: &str, host: &str) -> Result<Response, RegistryError> {
        let status = response.status();
        if matches!(status.as_u16(), 200 | 206) {
            return Ok(response);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(retry_after);
        let (what, host) = (what.to_owned(), host.to_owned());
        let detail = self.detail(response).await;
        Err(match status.as_u16() {
            404 => RegistryError::NotFound { what, host },
            401 => RegistryError::Unauthorized { what, host, detail },
            403 => RegistryError::Denied { what, host, detail },
            429 => RegistryError::TooMany { what, host, after },
            408 | 500 | 502 | 503 | 504 => {
                let cause = Cause::Status { status: status.as_u16(), detail, after };
                RegistryError::Unavailable { what, host, cause }
            }
            status => RegistryError::Refused { what, host, status, detail },
        })
    }

    /// What a registry says of its error: `{"errors":[{"code":…,"message":…}]}`, or the beginning of its text.
    async fn detail(&self, mut response: Response) -> String {
        let mut bytes = Vec::new();
        while let Ok(Ok(Some(chunk))) =
            tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 >= ERROR_MAX {
                break;
            }
        }
        let json = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let member = |name: &str| {
            let found = json.as_ref().and_then(|j| j.pointer(&format!("/errors/0/{name}")));
            found.and_then(serde_json::Value::as_str).map(str::to_owned)
        };
        let text = match (member("code"), member("message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        };
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        if text.is_empty() { "it does not say why".to_owned() } else { text }
    }

    async fn body(
        &self,
        mut response: Response,
        what: &str,
        host: String,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large = |host| RegistryError::TooLarge { what: what.to_owned(), host, limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(host));
        }
        let mut bytes = Vec::new();
        loop {
            let unavailable =
                |cause| RegistryError::Unavailable { what: what.to_owned(), host: host.clone(), cause };
            match tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await {
                Err(_) => return Err(unavailable(Cause::Idle(self.settings.idle_timeout))),
                Ok(Err(e)) => return Err(unavailable(transport(e))),
                Ok(Ok(None)) => return Ok(bytes),
                Ok(Ok(Some(chunk))) if (bytes.len() + chunk.len()) as u64 > limit => {
                    return Err(too_large(host));
                }
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            }
        }
    }
}

impl Host {
    fn new(endpoint: Endpoint, settings: &HttpSettings) -> Result<Self, RegistryError> {
        let failed = |detail| RegistryError::Tls { host: endpoint.authority(), detail };
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .connect_timeout(endpoint.dial_timeout.unwrap_or(settings.connect_timeout))
            .pool_idle_timeout(Duration::from_secs(30));
        // Plain http: redirects may still lead to https.
        builder = builder.tls_backend_preconfigured(tls::config(&endpoint).map_err(failed)?);
        if endpoint.base.host_str().is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| failed(transport(e).to_string()))?;
        Ok(Self { endpoint, client, authorization: Mutex::default() })
    }

    fn url(&self, repository: &str, path: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{repository}/{path}"));
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Secrets go over TLS, to this machine, or over plain http to a host that was configured for it by name.
    fn may_see_secrets(&self, url: &Url) -> Result<(), RegistryError> {
        let same_host = url.host_str() == self.endpoint.base.host_str();
        let fine = url.scheme() == "https"
            || url.host_str().is_some_and(is_loopback)
            || (same_host && self.endpoint.plain_chosen);
        if fine { Ok(()) } else { Err(RegistryError::PlainCredentials { host: authority(url) }) }
    }
}

/// The tries of one thing at one host.
struct Tries<'a> {
    registry: &'a Registry,
    left: u32,
    done: u32,
}

impl<'a> Tries<'a> {
    fn new(registry: &'a Registry, host: &Host) -> Self {
        Self { registry, left: attempts(&registry.settings, &host.endpoint), done: 0 }
    }

    /// Returns when it is time to try again.
    async fn wait_or_fail(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.left = self.left.saturating_sub(1);
        self.done += 1;
        let Some(pause) = error.pause(self.registry.pause(self.done)).filter(|_| self.left > 0) else {
            return Err(error);
        };
        tracing::debug!(error = %crate::error::chain(&error), ?pause, "asking the registry again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl RegistryError {
    /// How long to wait before the next try; `None`: do not.
    pub(crate) fn pause(&self, backoff: Duration) -> Option<Duration> {
        match self {
            Self::TooMany { after: Some(after), .. }
            | Self::Unavailable { cause: Cause::Status { after: Some(after), .. }, .. } => {
                (*after <= RETRY_AFTER_MAX).then_some((*after).max(backoff))
            }
            Self::Unavailable { cause: Cause::Transport { settled: true, .. }, .. } => None,
            error => error.is_passing().then_some(backoff),
        }
    }
}

fn attempts(settings: &HttpSettings, endpoint: &Endpoint) -> u32 {
    if endpoint.is_mirror { settings.attempts.min(MIRROR_ATTEMPTS) } else { settings.attempts.max(1) }
}

/// Doubles, within bounds, and not the same for everybody.
fn backoff(settings: &HttpSettings, tried: u32) -> Duration {
    let whole = settings.backoff.saturating_mul(1 << tried.saturating_sub(1).min(10)).min(BACKOFF_MAX);
    let spread = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    whole.mul_f64(0.75 + f64::from(spread.subsec_nanos() % 1000) / 2000.0)
}

/// Seconds, or a date.
fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(Duration::try_from(jiff::Timestamp::now().duration_until(date.timestamp())).unwrap_or_default())
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

/// What went wrong at each host that was asked.
#[derive(Default)]
struct Failures(Vec<RegistryError>);

impl Failures {
    fn add(&mut self, error: RegistryError, endpoint: &Endpoint) {
        tracing::debug!(host = endpoint.authority(), error = %crate::error::chain(&error), "asking the next host");
        self.0.push(error);
    }

    /// Whether the last host could not agree on TLS.
    fn of_tls(&self) -> bool {
        let last = self.0.last();
        last.is_some_and(|e| {
            matches!(e, RegistryError::Unavailable { cause: Cause::Transport { tls: true, .. }, .. })
        })
    }

    /// The error to tell. The registry is asked last and its word counts; but of a loopback registry asked over
    /// https and then http, what was answered counts more than that nobody was there.
    fn worst(mut self) -> Option<RegistryError> {
        let last = self.0.pop()?;
        if !last.is_passing() {
            return Some(last);
        }
        let answered = self.0.into_iter().rev().find(|e| {
            matches!(
                e,
                RegistryError::Unauthorized { .. }
                    | RegistryError::Denied { .. }
                    | RegistryError::PlainCredentials { .. }
            )
        });
        Some(answered.unwrap_or(last))
    }
}
