//! Certificates by openssl, and clients that show them.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint, Uri};

/// An authority, and what it has signed: NAME.crt and NAME.key in a directory.
#[derive(Debug)]
pub struct Authority {
    dir: PathBuf,
    /// Of the server that clients trust.
    root: &'static str,
}

impl Authority {
    /// # Errors
    /// When openssl fails.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let this = Self::over(dir, "ca.crt");
        let arguments = ["req", "-x509", "-days", "2", "-subj", "/CN=test authority", "-out", "ca.crt"];
        this.openssl(&[&arguments[..], &KEY[..], &["-keyout", "ca.key"]].concat())?;
        Ok(this)
    }

    /// What is there already; clients trust `root`.
    #[must_use]
    pub fn over(dir: &Path, root: &'static str) -> Self {
        Self { dir: dir.to_owned(), root }
    }

    /// A certificate of this subject ("/O=…/CN=…") with these extensions.
    ///
    /// # Errors
    /// When openssl fails.
    pub fn issue(&self, name: &str, subject: &str, extensions: &str) -> Result<()> {
        let file = |suffix: &str| format!("{name}.{suffix}");
        let (key, csr, ext, crt) = (file("key"), file("csr"), file("ext"), file("crt"));
        let arguments = ["req", "-subj", subject, "-keyout", &key, "-out", &csr];
        self.openssl(&[&arguments[..], &KEY[..]].concat())?;
        fs::write(self.dir.join(&ext), extensions)?;
        self.openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.crt",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-days",
            "2",
            "-extfile",
            &ext,
            "-out",
            &crt,
        ])
    }

    #[must_use]
    pub fn path(&self, file: &str) -> PathBuf {
        self.dir.join(file)
    }

    fn openssl(&self, arguments: &[&str]) -> Result<()> {
        let output = Command::new("openssl")
            .args(arguments)
            .current_dir(&self.dir)
            .stdin(Stdio::null())
            .output()
            .context("running openssl")?;
        ensure!(
            output.status.success(),
            "openssl {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// A gRPC channel as the owner of a certificate; `None`: without one.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn channel(&self, owner: Option<&str>, server: SocketAddr) -> Result<Channel> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path(self.root))?)?;
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = match owner {
            None => builder.with_no_client_auth(),
            Some(owner) => builder.with_client_auth_cert(
                vec![CertificateDer::from_pem_file(self.path(&format!("{owner}.crt")))?],
                PrivateKeyDer::from_pem_file(self.path(&format!("{owner}.key")))?,
            )?,
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = TlsConnector::from(Arc::new(config));
        let name = ServerName::from(server.ip());
        let connect = tower::service_fn(move |_: Uri| {
            let (connector, name) = (connector.clone(), name.clone());
            async move {
                let stream = TcpStream::connect(server).await?;
                connector.connect(name, stream).await.map(TokioIo::new)
            }
        });
        Ok(Endpoint::from_static("http://sandboxd.invalid").connect_with_connector(connect).await?)
    }
}

/// A new key without a passphrase.
const KEY: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
