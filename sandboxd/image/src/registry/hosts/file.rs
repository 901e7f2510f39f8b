//! hosts.toml itself, and docker's form of it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::super::is_loopback;
use super::{BadHosts, ClientPair, Endpoint, defaults, host_of, server_of};

pub(super) const NAME: &str = "hosts.toml";
const MAX: u64 = 1 << 20;

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

/// The hosts, and the keys that mean nothing.
pub(super) fn read(dir: &Path, domain: &str) -> Result<(Vec<Endpoint>, Vec<String>), BadHosts> {
    let file = dir.join(NAME);
    let bad = |why: String| BadHosts { file: file.clone(), key: "the file".to_owned(), why };
    let text = match std::fs::metadata(&file) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok((docker_style(dir, domain)?, Vec::new()));
        }
        Ok(meta) if meta.len() > MAX => return Err(bad(format!("{} bytes are too many", meta.len()))),
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
