//! Which hosts serve a registry: `<dir>/<host>/hosts.toml`, as containerd reads it.
//!
//! ```text
//! <dir>/registry.example_5000_/   the first of these directories that is there
//! <dir>/registry.example:5000/
//! <dir>/_default/
//!     hosts.toml                  server, and mirrors that are asked before it in the order of the file
//!     *.crt, *.cert and *.key     docker's form, where there is no hosts.toml
//! ```

mod file;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::HeaderMap;

use super::is_loopback;

/// The directory of registries' configurations; there may be none.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    dir: Option<PathBuf>,
    /// Keys nobody knows, by their file: each is told of once.
    told: Arc<Mutex<BTreeSet<(PathBuf, String)>>>,
}

/// A host that is asked, and how.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    /// With its path: "https://registry.example/v2".
    pub base: Url,
    pub resolve: bool,
    pub pull: bool,
    pub ca: Vec<PathBuf>,
    pub client: Vec<ClientPair>,
    pub skip_verify: bool,
    pub header: HeaderMap,
    /// Until a connection is there; the setting of all where there is none.
    pub dial_timeout: Option<Duration>,
    /// Sent as `ns` to hosts that are not the registry itself.
    pub namespace: Option<String>,
    /// Plain http was asked for by name, so credentials may go over it too.
    pub plain_chosen: bool,
    /// Where it is the last one: the registry itself.
    pub is_mirror: bool,
}

/// A client certificate and its key; both may be in one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ClientPair {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// A hosts.toml that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {key}: {why}")]
pub struct BadHosts {
    pub file: PathBuf,
    pub key: String,
    pub why: String,
}

impl Hosts {
    /// Reads `dir`; without one every registry is its own only host.
    #[must_use]
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, told: Arc::default() }
    }

    /// The hosts to ask for a registry, in this order. Blocks. With `plain`, the registry itself is asked over
    /// plain http.
    ///
    /// # Errors
    /// When the registry's configuration cannot be read or used.
    pub(crate) fn endpoints(&self, domain: &str, plain: bool) -> Result<Vec<Endpoint>, BadHosts> {
        let mut found = match self.directory(domain) {
            Some(dir) => {
                let (found, unknown) = file::read(&dir, domain)?;
                self.tell(&dir.join(file::NAME), unknown);
                found
            }
            None => defaults(domain),
        };
        if plain {
            for endpoint in found.iter_mut().filter(|e| !e.is_mirror) {
                let _ = endpoint.base.set_scheme("http");
                endpoint.plain_chosen = true;
            }
            // One on this machine was there twice, for https as well.
            found.dedup_by(|b, a| !a.is_mirror && !b.is_mirror && a.base == b.base);
        }
        Ok(found)
    }

    /// An error would be too much: containerd takes such a file, and a newer one may know the key.
    fn tell(&self, file: &Path, unknown: Vec<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for key in unknown {
            if told.insert((file.to_owned(), key.clone())) {
                tracing::warn!(file = %file.display(), key, "a key of hosts.toml is not known, and ignored");
            }
        }
    }

    fn directory(&self, domain: &str) -> Option<PathBuf> {
        let dir = self.dir.as_ref()?;
        let legacy = match domain.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => Some(format!("{host}_{port}_")),
            _ => None,
        };
        let names = legacy.into_iter().chain([domain.to_owned(), "_default".to_owned()]);
        names.map(|name| dir.join(name)).find(|path| path.is_dir())
    }
}

/// The host that a registry's name leads to.
fn server_of(domain: &str) -> &str {
    if domain == "docker.io" { "registry-1.docker.io" } else { domain }
}

/// A registry nobody configured: https; on this machine plain http as well, where it does not speak TLS.
fn defaults(domain: &str) -> Vec<Endpoint> {
    let server = server_of(domain);
    let schemes: &[&str] = if is_loopback(host_of(server)) { &["https", "http"] } else { &["https"] };
    let url = |scheme: &&str| Url::parse(&format!("{scheme}://{server}/v2")).ok();
    schemes.iter().filter_map(url).map(|base| Endpoint::new(base, false)).collect()
}

fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => host,
        _ => authority,
    }
}

impl Endpoint {
    fn new(base: Url, is_mirror: bool) -> Self {
        Self {
            base,
            resolve: true,
            pull: true,
            ca: Vec::new(),
            client: Vec::new(),
            skip_verify: false,
            header: HeaderMap::new(),
            dial_timeout: None,
            namespace: None,
            plain_chosen: false,
            is_mirror,
        }
    }

    /// Somewhere no configuration is about.
    pub(crate) fn at(base: Url) -> Self {
        Self::new(base, true)
    }

    /// Plain http to this machine that nobody asked for by name.
    pub(crate) fn is_fallback(&self) -> bool {
        !self.is_mirror && !self.plain_chosen && self.base.scheme() == "http"
    }

    /// "registry.example:5000"
    pub(crate) fn authority(&self) -> String {
        authority(&self.base)
    }
}

pub(crate) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}
