//! Which daemons: `--endpoint`, repeated, and the nodes file.
//!
//! ```toml
//! [[node]]
//! name = "worker-1"
//! endpoint = "https://10.0.0.11:7443"    # or a path, or unix://PATH
//! ca = "ca.pem"                          # relative to this file
//! cert = "operator.pem"
//! key = "operator.key"
//! server_name = "worker-1.example"       # where the certificate names another host than the endpoint
//! ```

use std::path::{Path, PathBuf};

use serde::Deserialize;
use tonic::transport::{Certificate, ClientTlsConfig, Identity};

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    Unix(PathBuf),
    /// `HOST:PORT`, over TLS.
    Https(String),
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Https(authority) => write!(f, "https://{authority}"),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    #[error("the endpoint {0:?} is not one: use a socket's path, unix://PATH or https://HOST:PORT")]
    Endpoint(String),
    #[error("the endpoint {0:?} would be unencrypted: use https://HOST:PORT, or a socket's path")]
    Plain(String),
    #[error("cannot read the nodes file {path:?}")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("the nodes file {path:?} is not understood")]
    Parse { path: PathBuf, source: Box<toml_edit::de::Error> },
    #[error("the nodes file {0:?} names no node: it needs [[node]] with name and endpoint")]
    NoNodes(PathBuf),
    #[error("the node {name:?} of {path:?} is named twice")]
    Twice { path: PathBuf, name: String },
    #[error("the node {name:?} of {path:?}: {source}")]
    Node { path: PathBuf, name: String, source: Box<TargetError> },
    #[error(
        "{endpoint} is reached over TLS with a client certificate: name {missing} as well ({flags}, or the nodes file)"
    )]
    NoCertificate { endpoint: String, missing: &'static str, flags: &'static str },
}

impl std::str::FromStr for Address {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let wrong = || TargetError::Endpoint(text.to_owned());
        match text.split_once("://") {
            // Tools of this field name sockets both ways.
            None | Some(("unix", _)) => {
                let path = text.strip_prefix("unix://").unwrap_or(text);
                if path.is_empty() { Err(wrong()) } else { Ok(Self::Unix(path.into())) }
            }
            Some(("https", authority)) => {
                let authority = authority.trim_end_matches('/');
                let port = authority.rsplit_once(':').and_then(|(host, port)| {
                    let port = port.parse::<u16>().ok().filter(|port| *port > 0);
                    port.filter(|_| !host.is_empty() && !host.contains('/'))
                });
                port.map(|_| Self::Https(authority.to_owned())).ok_or_else(wrong)
            }
            Some(("http", _)) => Err(TargetError::Plain(text.to_owned())),
            Some(_) => Err(wrong()),
        }
    }
}

/// Files of TLS. They are read with each attempt to connect, so that renewed ones are taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    pub ca: PathBuf,
    pub cert: PathBuf,
    pub key: PathBuf,
    /// The name the daemon's certificate must carry, where it is not the endpoint's host.
    pub server_name: Option<String>,
}

impl TlsFiles {
    /// Reads them.
    pub(super) fn config(&self) -> Result<ClientTlsConfig, (PathBuf, std::io::Error)> {
        let read = |path: &Path| std::fs::read(path).map_err(|error| (path.to_owned(), error));
        let mut config = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&self.ca)?))
            .identity(Identity::from_pem(read(&self.cert)?, read(&self.key)?));
        if let Some(name) = &self.server_name {
            config = config.domain_name(name);
        }
        Ok(config)
    }
}

/// One daemon to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// As the nodes file has it; else the endpoint.
    pub name: String,
    pub address: Address,
    pub tls: Option<TlsFiles>,
}

impl Target {
    /// What `--endpoint` names; TLS needs the files of `--ca`, `--cert` and `--key`.
    pub fn of_endpoint(address: Address, tls: Option<TlsFiles>) -> Result<Self, TargetError> {
        let name = address.to_string();
        match &address {
            Address::Unix(_) => Ok(Self { name, address, tls: None }),
            Address::Https(_) if tls.is_some() => Ok(Self { name, address, tls }),
            Address::Https(_) => Err(TargetError::NoCertificate {
                endpoint: name,
                missing: "the files",
                flags: "--ca, --cert, --key",
            }),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    node: Vec<Node>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    name: String,
    endpoint: String,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
}

impl Node {
    fn target(self, dir: &Path) -> Result<Target, TargetError> {
        let address: Address = self.endpoint.parse()?;
        let tls = match &address {
            Address::Unix(_) => None,
            Address::Https(_) => {
                let file = |path: Option<PathBuf>, missing| match path {
                    Some(path) => Ok(dir.join(path)),
                    None => Err(TargetError::NoCertificate {
                        endpoint: self.endpoint.clone(),
                        missing,
                        flags: "ca, cert, key",
                    }),
                };
                Some(TlsFiles {
                    ca: file(self.ca, "ca")?,
                    cert: file(self.cert, "cert")?,
                    key: file(self.key, "key")?,
                    server_name: self.server_name,
                })
            }
        };
        Ok(Target { name: crate::text::clean(&self.name), address, tls })
    }
}

/// Reads a nodes file.
pub fn read_nodes(path: &Path) -> Result<Vec<Target>, TargetError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| TargetError::Read { path: path.to_owned(), source })?;
    parse_nodes(&text, path)
}

fn parse_nodes(text: &str, path: &Path) -> Result<Vec<Target>, TargetError> {
    let file: File = toml_edit::de::from_str(text)
        .map_err(|source| TargetError::Parse { path: path.to_owned(), source: Box::new(source) })?;
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut targets: Vec<Target> = Vec::new();
    for node in file.node {
        let name = node.name.clone();
        let target = node.target(dir).map_err(|source| TargetError::Node {
            path: path.to_owned(),
            name: name.clone(),
            source: Box::new(source),
        })?;
        if targets.iter().any(|other| other.name == target.name) {
            return Err(TargetError::Twice { path: path.to_owned(), name });
        }
        targets.push(target);
    }
    if targets.is_empty() {
        return Err(TargetError::NoNodes(path.to_owned()));
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_paths_or_tls() {
        let unix = |path: &str| Address::Unix(path.into());
        assert_eq!("/run/a.sock".parse::<Address>().unwrap(), unix("/run/a.sock"));
        assert_eq!("unix:///run/a.sock".parse::<Address>().unwrap(), unix("/run/a.sock"));
        let https = "https://[::1]:7443/".parse::<Address>().unwrap();
        assert_eq!(https, Address::Https("[::1]:7443".into()));
        for (wrong, words) in [
            ("http://a:1", "unencrypted"),
            ("https://host", "https://HOST:PORT"),
            ("https://:1", "is not one"),
            ("https://a:0", "is not one"),
            ("tcp://a:1", "is not one"),
            ("", "is not one"),
        ] {
            let error = wrong.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(words), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_nodes_file_names_daemons_with_their_certificates() {
        let text = r#"
            [[node]]
            name = "local"
            endpoint = "/run/sandboxd/console.sock"
            [[node]]
            name = "far"
            endpoint = "https://far:7443"
            ca = "ca.pem"
            cert = "/etc/op.pem"
            key = "op.key"
            server_name = "far.example"
        "#;
        let targets = parse_nodes(text, Path::new("/etc/nodes/file.toml")).unwrap();
        assert_eq!(targets[0].name, "local");
        assert_eq!(targets[0].tls, None);
        let tls = targets[1].tls.clone().unwrap();
        assert_eq!(tls.ca, Path::new("/etc/nodes/ca.pem"));
        assert_eq!(tls.cert, Path::new("/etc/op.pem"));
        assert_eq!(tls.server_name.as_deref(), Some("far.example"));
    }

    #[test]
    fn a_wrong_nodes_file_says_which_node_and_what_it_lacks() {
        for (text, words) in [
            ("", "names no node"),
            ("[[node]]\nname = \"a\"\nendpoint = \"https://a:1\"", "name ca as well"),
            ("[[node]]\nname = \"a\"\nendpoint = \"ftp://a\"", "the node \"a\""),
            ("[[node]]\nname = \"a\"\nendpoint = \"/a\"\n[[node]]\nname = \"a\"\nendpoint = \"/b\"", "twice"),
            ("[[node]]\nname = \"a\"\nendpoint = \"/a\"\ncaa = \"x\"", "not understood"),
        ] {
            let error = parse_nodes(text, Path::new("n.toml")).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("n.toml"), "{text}: {error}");
        }
    }
}
