//! Certificates that are renewed while the server runs: looked at with each connection, read again when a file is
//! another one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::tls::{Tls, TlsError};

/// A file as it was: inode, size, time of its last change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// What new connections are accepted with.
pub struct Certificates {
    /// Whose they are, for the log.
    whose: &'static str,
    alpn: &'static [&'static [u8]],
    tls: Tls,
    now: Mutex<(Vec<Stamp>, TlsAcceptor)>,
}

impl Certificates {
    /// Those of a server with this name, which speaks these protocols (ALPN).
    ///
    /// # Errors
    /// When a file cannot be read or used, by its path.
    pub fn read(whose: &'static str, alpn: &'static [&'static [u8]], tls: Tls) -> Result<Self, TlsError> {
        // Before the reading: a file that is replaced meanwhile is read once more.
        let stamps = stamps(&tls);
        let acceptor = tls.server_config(alpn).map(acceptor)?;
        Ok(Self { whose, alpn, tls, now: Mutex::new((stamps, acceptor)) })
    }

    /// With the files as they are; what cannot be used is said once, and the former ones serve on.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.tls);
        if stamps != now.0 {
            now.0 = stamps;
            let whose = self.whose;
            match self.tls.server_config(self.alpn) {
                Ok(config) => {
                    tracing::info!(cert = %self.tls.cert.display(), "the certificates of {whose} are new");
                    now.1 = acceptor(config);
                }
                // A certificate and its key are two files: between their renewals they do not fit.
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "new certificates cannot be used: {whose} goes on with the former ones"
                ),
            }
        }
        now.1.clone()
    }
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Certificates").field("tls", &self.tls).finish_non_exhaustive()
    }
}

fn acceptor(config: ServerConfig) -> TlsAcceptor {
    TlsAcceptor::from(Arc::new(config))
}

fn stamps(tls: &Tls) -> Vec<Stamp> {
    let stamp = |path: &Path| {
        let meta = fs::metadata(path).ok()?;
        Some((meta.ino(), meta.len(), meta.mtime(), meta.mtime_nsec()))
    };
    [Some(&tls.cert), Some(&tls.key), tls.client_ca.as_ref()]
        .into_iter()
        .flatten()
        .map(|p| stamp(p))
        .collect()
}
