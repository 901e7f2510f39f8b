//! Registries: which hosts serve a repository, and what they are asked.
//!
//! ```text
//! Reference ─▶ hosts (certs.d/<host>/hosts.toml) ─▶ [Endpoint: mirrors first, the registry last]
//!                                                       │ client: hosts in order; tries: again, or the next
//!                                                       │ authorize, auth: Basic, Bearer, token servers
//!                                                       │ exchange: redirects, deadlines, bounds
//!                                                       ▼
//!                                           manifests and blobs, unchecked: `pull` checks digests
//! ```

mod auth;
mod authorize;
mod challenge;
mod client;
mod error;
mod exchange;
mod host;
mod hosts;
mod tls;
mod tries;

pub use auth::{BadCredentials, Credentials};
pub(crate) use client::{Blob, Registry};
pub use error::{Cause, RegistryError};
pub use hosts::{BadHosts, Hosts};

use std::time::Duration;

/// How registries are talked to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpSettings {
    /// Until a connection is there, TLS included.
    pub connect_timeout: Duration,
    /// Without a byte, after which an answer is given up.
    pub idle_timeout: Duration,
    /// Tries of one request at one host, the first included.
    pub attempts: u32,
    /// The first pause between tries; it doubles.
    pub backoff: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_millis(250),
        }
    }
}

/// Whether a host is this machine: plain http to it leaves nothing on a wire.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || host.ends_with(".localhost")
        || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}
