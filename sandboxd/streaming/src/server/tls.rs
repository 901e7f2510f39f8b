//! TLS for the streaming server.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, version};

/// The oldest version that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MinVersion {
    #[default]
    Tls12,
    Tls13,
}

/// Where certificates are: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// The server's own certificate, then those between it and the root.
    pub cert: PathBuf,
    pub key: PathBuf,
    /// Clients have to show a certificate of this authority.
    pub client_ca: Option<PathBuf>,
    pub min_version: MinVersion,
}

/// Why TLS cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("reading {what} from {path}")]
    Read {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: pem::Error,
    },
    #[error("{path} has no certificate: give a PEM file with at least one")]
    NoCertificate { path: PathBuf },
    #[error("the certificates of {path} are not usable")]
    Authority {
        path: PathBuf,
        #[source]
        source: rustls::Error,
    },
    #[error("verifying clients by {path}")]
    Verifier {
        path: PathBuf,
        #[source]
        source: VerifierBuilderError,
    },
    #[error("the certificate of {cert} with the key of {key}")]
    Pair {
        cert: PathBuf,
        key: PathBuf,
        #[source]
        source: rustls::Error,
    },
}

impl Tls {
    /// Reads the files and checks that they fit.
    ///
    /// # Errors
    /// When a file cannot be read or used, by its path.
    pub fn check(&self) -> Result<(), TlsError> {
        self.server_config(&[]).map(drop)
    }

    /// What a server with these files speaks, for these protocols (ALPN).
    pub(super) fn server_config(&self, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
        let Self { cert, key, client_ca, min_version } = self;
        let chain = certificates("the certificate", cert)?;
        let private = PrivateKeyDer::from_pem_file(key).map_err(|source| TlsError::Read {
            what: "the private key",
            path: key.clone(),
            source,
        })?;
        let versions: &[_] = match min_version {
            MinVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            MinVersion::Tls13 => &[&version::TLS13],
        };
        let pair = |source| TlsError::Pair { cert: cert.clone(), key: key.clone(), source };
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(versions)
            .map_err(pair)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates("the client authority", path)? {
                    roots
                        .add(certificate)
                        .map_err(|source| TlsError::Authority { path: path.clone(), source })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .build()
                    .map_err(|source| TlsError::Verifier { path: path.clone(), source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let mut config = builder.with_single_cert(chain, private).map_err(pair)?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(config)
    }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = |source| TlsError::Read { what, path: path.to_owned(), source };
    let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(read)?.collect();
    let all = all.map_err(read)?;
    if all.is_empty() {
        return Err(TlsError::NoCertificate { path: path.to_owned() });
    }
    Ok(all)
}
