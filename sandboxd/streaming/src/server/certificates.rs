//! Certificates that are renewed while the server runs: looked at with each connection, read again when a file is
//! another one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use tokio_rustls::TlsAcceptor;

use super::tls::{Tls, TlsError};

/// A file as it was: inode, size, time of its last change.
type Stamp = Option<(u64, u64, i64, i64)>;

/// What new connections are accepted with.
pub(super) struct Certificates {
    tls: Tls,
    now: Mutex<(Vec<Stamp>, TlsAcceptor)>,
}

impl Certificates {
    pub(super) fn read(tls: Tls) -> Result<Self, TlsError> {
        // Before the reading: a file that is replaced meanwhile is read once more.
        let stamps = stamps(&tls);
        let acceptor = tls.acceptor()?;
        Ok(Self { tls, now: Mutex::new((stamps, acceptor)) })
    }

    /// With the files as they are; what cannot be used is said once, and the former ones serve on.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let stamps = stamps(&self.tls);
        if stamps != now.0 {
            now.0 = stamps;
            match self.tls.acceptor() {
                Ok(acceptor) => {
                    tracing::info!(cert = %self.tls.cert.display(), "the streaming server's certificates are new");
                    now.1 = acceptor;
                }
                // A certificate and its key are two files: between their renewals they do not fit.
                Err(error) => tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "new certificates cannot be used: the streaming server goes on with the former ones"
                ),
            }
        }
        now.1.clone()
    }
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
