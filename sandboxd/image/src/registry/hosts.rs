//! Which hosts serve a registry: `<dir>/<host>/hosts.toml`, as containerd reads it.
//!
//! ```text
//! <dir>/registry.example_5000_/   the first of these directories that is there
//! <dir>/registry.example:5000/
//! <dir>/_default/
//!     hosts.toml                  server, and mirrors that are asked before it in the order of the file
//!     *.crt, *.cert and *.key     docker's form, where there is no hosts.toml
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::is_loopback;

const FILE: &str = "hosts.toml";
const FILE_MAX: u64 = 1 << 20;

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

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    server: String,
    #[serde(default)]
    host: BTreeMap<String, Table>,
    #[serde(flatten)]
    root: Table,
}

#[derive(Default, Clone, Deserialize)]
struct Table {
    #[serde(default)]
    capabilities: Option<Vec<String>>,
    #[serde(default)]
    ca: Option<OneOrMany>,
    #[serde(default)]
    client: Option<Client>,
    #[serde(default)]
    skip_verify: Option<bool>,
    #[serde(default)]
    header: Option<BTreeMap<String, OneOrMany>>,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    dial_timeout: Option<String>,
    /// What containerd would pass over in silence.
    #[serde(flatten)]
    unknown: BTreeMap<String, IgnoredAny>,
}

#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

impl OneOrMany {
    fn all(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// "both.pem", ["a.pem", "b.pem"], or [["client.cert", "client.key"], …]
#[derive(Clone, Deserialize)]
#[serde(untagged)]
enum Client {
    One(String),
    Many(Vec<OneOrMany>),
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
                let (found, unknown) = read(&dir, domain)?;
                self.tell(&dir.join(FILE), unknown);
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

/// The hosts, and the keys that mean nothing.
fn read(dir: &Path, domain: &str) -> Result<(Vec<Endpoint>, Vec<String>), BadHosts> {
    let file = dir.join(FILE);
    let bad = |why: String| BadHosts { file: file.clone(), key: "the file".to_owned(), why };
    let text = match std::fs::metadata(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok((docker_style(dir, domain)?, Vec::new()));
        }
        Ok(meta) if meta.len() > FILE_MAX => return Err(bad(format!("{} bytes are too many", meta.len()))),
        _ => std::fs::read_to_string(&file).map_err(|e| bad(e.to_string()))?,
    };
    let parsed: File = toml::from_str(&text).map_err(|e| bad(e.to_string().trim_end().to_owned()))?;
    let reader = Reader { file: &file, dir, domain };
    let mut found = Vec::new();
    let mut unknown: Vec<String> = parsed.root.unknown.keys().cloned().collect();
    for name in in_order(&text, &parsed.host) {
        if let Some(table) = parsed.host.get(&name) {
            unknown.extend(table.unknown.keys().map(|key| format!("host.{name:?}.{key}")));
            found.push(reader.endpoint(&name, &format!("host.{name:?}"), table, true)?);
        }
    }
    let root = Table { override_path: parsed.root.override_path && !parsed.server.is_empty(), ..parsed.root };
    if parsed.server.is_empty() {
        for mut endpoint in defaults(domain) {
            reader.fill(&mut endpoint, "", &root)?;
            found.push(endpoint);
        }
    } else {
        found.push(reader.endpoint(&parsed.server, "server", &root, false)?);
    }
    Ok((found, unknown))
}

/// The hosts' names as they come in the file; the parser's map is sorted.
fn in_order(text: &str, hosts: &BTreeMap<String, Table>) -> Vec<String> {
    let mut names: Vec<(usize, String)> = toml::de::DeTable::parse(text)
        .ok()
        .and_then(|document| {
            let document = document.into_inner();
            let (_, table) = document.into_iter().find(|(key, _)| key.get_ref() == "host")?;
            let toml::de::DeValue::Table(table) = table.into_inner() else { return None };
            Some(
                table.into_iter().map(|(key, _)| (key.span().start, key.into_inner().into_owned())).collect(),
            )
        })
        .unwrap_or_default();
    names.sort();
    let mut names: Vec<String> = names.into_iter().map(|(_, name)| name).collect();
    names.extend(hosts.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    names
}

struct Reader<'a> {
    file: &'a Path,
    dir: &'a Path,
    domain: &'a str,
}

impl Reader<'_> {
    fn bad(&self, key: impl Into<String>, why: impl Into<String>) -> BadHosts {
        BadHosts { file: self.file.to_owned(), key: key.into(), why: why.into() }
    }

    fn endpoint(&self, text: &str, key: &str, table: &Table, is_mirror: bool) -> Result<Endpoint, BadHosts> {
        let written = if text.contains("://") {
            text.to_owned()
        } else if is_loopback(host_of(text.split('/').next().unwrap_or_default())) {
            format!("http://{text}")
        } else {
            format!("https://{text}")
        };
        let mut base = Url::parse(&written).map_err(|e| self.bad(key, format!("{text:?} is no URL: {e}")))?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(self.bad(key, format!("{text:?} is neither an http:// nor an https:// URL")));
        }
        if !base.username().is_empty() || base.password().is_some() {
            return Err(self.bad(key, "a URL with a password is not taken: write an Authorization header"));
        }
        let path = base.path().trim_end_matches('/').to_owned();
        let path = if table.override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
        base.set_path(&path);
        base.set_query(None);
        let mut endpoint = Endpoint::new(base, is_mirror);
        endpoint.plain_chosen = endpoint.base.scheme() == "http";
        if endpoint.authority() != self.domain && endpoint.authority() != server_of(self.domain) {
            endpoint.namespace = Some(self.domain.to_owned());
        }
        self.fill(&mut endpoint, key, table)?;
        Ok(endpoint)
    }

    fn fill(&self, endpoint: &mut Endpoint, prefix: &str, table: &Table) -> Result<(), BadHosts> {
        let key = |name: &str| if prefix.is_empty() { name.to_owned() } else { format!("{prefix}.{name}") };
        if let Some(capabilities) = table.capabilities.as_ref().filter(|c| !c.is_empty()) {
            (endpoint.pull, endpoint.resolve) = (false, false);
            for capability in capabilities {
                match capability.as_str() {
                    "pull" => endpoint.pull = true,
                    "resolve" => endpoint.resolve = true,
                    "push" | "referrers" => {}
                    other => {
                        let why = format!("{other:?} is none: \"pull\", \"resolve\", \"push\"");
                        return Err(self.bad(key("capabilities"), why));
                    }
                }
            }
        }
        if let Some(ca) = &table.ca {
            endpoint.ca = ca.all().iter().map(|path| self.path(path)).collect();
        }
        match &table.client {
            Some(Client::One(path)) => endpoint.client.push(self.both(path)),
            Some(Client::Many(many)) => {
                for one in many {
                    match one.all() {
                        [both] => endpoint.client.push(self.both(both)),
                        [cert, pair_key] => {
                            let (cert, pair_key) = (self.path(cert), self.path(pair_key));
                            endpoint.client.push(ClientPair { cert, key: pair_key });
                        }
                        _ => return Err(self.bad(key("client"), "a pair is [\"certificate\", \"key\"]")),
                    }
                }
            }
            None => {}
        }
        for file in endpoint.ca.iter().chain(endpoint.client.iter().flat_map(|c| [&c.cert, &c.key])) {
            if !file.is_file() {
                let name = if endpoint.ca.contains(file) { "ca" } else { "client" };
                return Err(self.bad(key(name), format!("there is no file {}", file.display())));
            }
        }
        if let Some(text) = &table.dial_timeout {
            let parsed = text.parse::<jiff::SignedDuration>().ok().and_then(|d| Duration::try_from(d).ok());
            let why = || format!("{text:?} is no time, such as \"10s\" or \"1m30s\"");
            let timeout = parsed.ok_or_else(|| self.bad(key("dial_timeout"), why()))?;
            endpoint.dial_timeout = (!timeout.is_zero()).then_some(timeout);
        }
        endpoint.skip_verify = table.skip_verify.unwrap_or_default();
        for (name, values) in table.header.iter().flatten() {
            let at = key(&format!("header.{name}"));
            let header: HeaderName =
                name.parse().map_err(|_| self.bad(&at, "this is no name of an HTTP header"))?;
            for value in values.all() {
                let mut value: HeaderValue = value
                    .parse()
                    .map_err(|_| self.bad(&at, "its value has characters no header may have"))?;
                value.set_sensitive(true);
                endpoint.header.append(header.clone(), value);
            }
        }
        Ok(())
    }

    fn path(&self, text: &str) -> PathBuf {
        self.dir.join(text)
    }

    fn both(&self, text: &str) -> ClientPair {
        ClientPair { cert: self.path(text), key: self.path(text) }
    }
}

/// A directory of certificates alone, as docker has it.
fn docker_style(dir: &Path, domain: &str) -> Result<Vec<Endpoint>, BadHosts> {
    let bad = |why: String| BadHosts { file: dir.to_owned(), key: "the directory".to_owned(), why };
    let entries = std::fs::read_dir(dir).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let mut files: Vec<PathBuf> =
        entries.map_err(|e| bad(e.to_string()))?.into_iter().map(|entry| entry.path()).collect();
    files.sort();
    let with = |extension: &str| {
        files
            .iter()
            .filter(move |f| f.extension().is_some_and(|e| e == extension))
            .cloned()
            .collect::<Vec<_>>()
    };
    let (ca, mut client) = (with("crt"), Vec::new());
    for cert in with("cert") {
        let key = cert.with_extension("key");
        if !key.is_file() {
            return Err(bad(format!("{} has no key: there is no {}", cert.display(), key.display())));
        }
        client.push(ClientPair { cert, key });
    }
    let mut endpoints = defaults(domain);
    for endpoint in &mut endpoints {
        (endpoint.ca, endpoint.client) = (ca.clone(), client.clone());
    }
    Ok(endpoints)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(name: &str, text: &str) -> (tempfile::TempDir, Hosts) {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join(name)).expect("made");
        std::fs::write(dir.path().join(name).join(FILE), text).expect("written");
        let hosts = Hosts::new(Some(dir.path().to_owned()));
        (dir, hosts)
    }

    fn bases(endpoints: &[Endpoint]) -> Vec<&str> {
        endpoints.iter().map(|e| e.base.as_str()).collect()
    }

    #[test]
    fn nobody_configured() {
        let hosts = Hosts::default();
        let of = |domain| hosts.endpoints(domain, false).expect("defaults");
        assert_eq!(bases(&of("docker.io")), ["https://registry-1.docker.io/v2"]);
        assert_eq!(bases(&of("localhost:5000")), ["https://localhost:5000/v2", "http://localhost:5000/v2"]);
        assert_eq!(bases(&of("[::1]:5000")), ["https://[::1]:5000/v2", "http://[::1]:5000/v2"]);
        let plain = hosts.endpoints("registry.example", true).expect("defaults");
        assert_eq!(bases(&plain), ["http://registry.example/v2"]);
        let plain = hosts.endpoints("localhost:5000", true).expect("defaults");
        assert_eq!(bases(&plain), ["http://localhost:5000/v2"]);
    }

    #[test]
    fn mirrors_in_the_order_of_the_file() {
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://z.example"]
              capabilities = ["pull"]
              [host."https://z.example".header]
                x-one = "1"
                x-two = ["a", "b"]
            [host."http://a.example:5000/proxy"]
              skip_verify = true
            [host."https://m.example/v2/dir"]
              override_path = true
        "#;
        let (_dir, hosts) = written("docker.io", text);
        let found = hosts.endpoints("docker.io", false).expect("read");
        assert_eq!(
            bases(&found),
            [
                "https://z.example/v2",
                "http://a.example:5000/proxy/v2",
                "https://m.example/v2/dir",
                "https://registry-1.docker.io/v2"
            ]
        );
        assert!(found[0].pull && !found[0].resolve && found[0].is_mirror);
        assert_eq!(found[0].header.get_all("x-two").iter().count(), 2);
        assert!(found[1].skip_verify && found[1].plain_chosen);
        assert_eq!(found[1].namespace.as_deref(), Some("docker.io"));
        assert_eq!(found[3].namespace, None);
        assert!(!found[3].is_mirror);
    }

    #[test]
    fn directories_by_port_and_default() {
        let (_dir, hosts) = written("registry.example_5000_", "server = \"http://legacy.example\"");
        assert_eq!(
            bases(&hosts.endpoints("registry.example:5000", false).expect("read")),
            ["http://legacy.example/v2"]
        );
        let (_dir, hosts) = written("registry.example:5000", "server = \"http://port.example\"");
        assert_eq!(
            bases(&hosts.endpoints("registry.example:5000", false).expect("read")),
            ["http://port.example/v2"]
        );
        let (_dir, hosts) = written("_default", "[host.\"https://mirror.example\"]");
        assert_eq!(
            bases(&hosts.endpoints("any.example", false).expect("read")),
            ["https://mirror.example/v2", "https://any.example/v2"]
        );
    }

    #[test]
    fn certificates_relative_to_the_file() {
        let (dir, hosts) = written("x.example", "ca = \"ca.pem\"\nclient = [[\"c.cert\", \"c.key\"]]");
        let error = hosts.endpoints("x.example", false).expect_err("missing").to_string();
        assert!(error.contains("hosts.toml: ca:") && error.contains("ca.pem"), "{error}");
        for name in ["ca.pem", "c.cert", "c.key"] {
            std::fs::write(dir.path().join("x.example").join(name), "").expect("written");
        }
        let found = hosts.endpoints("x.example", false).expect("read");
        assert_eq!(found[0].client[0].key, dir.path().join("x.example/c.key"));
    }

    #[test]
    fn dial_timeouts_of_each_host() {
        let text = "dial_timeout = \"1m30s\"\n[host.\"https://a\"]\ndial_timeout = \"300ms\"\n\
                    [host.\"https://b\"]\n[host.\"https://c\"]\ndial_timeout = \"0s\"";
        let (_dir, hosts) = written("x.example", text);
        let found = hosts.endpoints("x.example", false).expect("read");
        let times: Vec<_> = found.iter().map(|e| e.dial_timeout.map(|t| t.as_millis())).collect();
        assert_eq!(times, [Some(300), None, None, Some(90_000)]);
    }

    #[test]
    fn unknown_keys_are_named_and_passed_over() {
        let text = "sever = \"https://a\"\n[host.\"https://a\"]\ncapabilites = [\"pull\"]\n\
                    [host.\"https://a\".header]\nx = \"1\"\n[extra]\nx = 1";
        let (dir, hosts) = written("x.example", text);
        let (found, unknown) = read(&dir.path().join("x.example"), "x.example").expect("read");
        assert_eq!(bases(&found), ["https://a/v2", "https://x.example/v2"]);
        assert_eq!(unknown, ["extra", "sever", "host.\"https://a\".capabilites"]);
        // Told of once, however often the file is read.
        for _ in 0..2 {
            hosts.endpoints("x.example", false).expect("read");
            assert_eq!(hosts.told.lock().expect("not poisoned").len(), 3);
        }
    }

    #[test]
    fn errors_name_file_and_key() {
        for (text, key) in [
            ("server = 1", "server"),
            ("server = \"ftp://x\"", "server"),
            ("[host.\"https://a\"]\ncapabilities = [\"fly\"]", "capabilities"),
            ("[host.\"https://a\".header]\n\"b d\" = \"x\"", "header.b d"),
            ("server = \"https://u:p@x\"", "password"),
            ("dial_timeout = \"soon\"", "dial_timeout: \"soon\""),
            ("[host.\"https://a\"]\ndial_timeout = \"-1s\"", "dial_timeout"),
            ("nonsense", "hosts.toml"),
        ] {
            let (_dir, hosts) = written("x.example", text);
            let error = hosts.endpoints("x.example", false).expect_err(text).to_string();
            assert!(error.contains("x.example/hosts.toml") && error.contains(key), "{error}");
        }
    }
}
