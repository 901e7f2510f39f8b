//! `[streaming]`: where exec, attach and port-forward are served.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sandboxd_streaming::{MinVersion, Settings, Tls};
use serde::{Deserialize, Serialize};

use super::duration;

/// `[streaming]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Streaming {
    pub address: SocketAddr,
    /// Empty, as the key: no TLS.
    pub tls_cert: PathBuf,
    pub tls_key: PathBuf,
    /// Empty: clients show no certificate.
    pub tls_client_ca: PathBuf,
    pub tls_min_version: TlsVersion,
    #[serde(with = "duration")]
    pub idle_timeout: Duration,
    #[serde(with = "duration")]
    pub creation_timeout: Duration,
    pub max_connections: usize,
}

/// The oldest TLS that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TlsVersion {
    #[default]
    #[serde(rename = "1.2")]
    V12,
    #[serde(rename = "1.3")]
    V13,
}

impl Default for Streaming {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            tls_client_ca: PathBuf::new(),
            tls_min_version: TlsVersion::default(),
            idle_timeout: Duration::from_secs(4 * 60 * 60),
            creation_timeout: Duration::from_secs(30),
            max_connections: 1000,
        }
    }
}

impl Streaming {
    /// `None`: plain HTTP.
    #[must_use]
    pub fn tls(&self) -> Option<Tls> {
        let given = |path: &Path| (!path.as_os_str().is_empty()).then(|| path.to_owned());
        Some(Tls {
            cert: given(&self.tls_cert)?,
            key: given(&self.tls_key)?,
            client_ca: given(&self.tls_client_ca),
            min_version: match self.tls_min_version {
                TlsVersion::V12 => MinVersion::Tls12,
                TlsVersion::V13 => MinVersion::Tls13,
            },
        })
    }

    /// As the server takes them.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            address: self.address,
            tls: self.tls(),
            idle: self.idle_timeout,
            creation: self.creation_timeout,
            connections: self.max_connections,
        }
    }
}
