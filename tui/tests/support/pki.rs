//! Certificates for the tests: an authority, a daemon's, an operator's, and a stranger's of another authority.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; tests may unwrap")]

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use sandboxd_sim::Tls;
use sandboxd_tui::feed::target::TlsFiles;

pub struct Pki {
    dir: PathBuf,
}

impl Pki {
    /// Writes `ca.pem`, and `NAME.pem` with `NAME.key` for each.
    pub fn new(dir: &Path) -> Self {
        let pki = Self { dir: dir.to_owned() };
        let ca = pki.authority("ca");
        pki.issue("server", &ca);
        pki.issue("operator", &ca);
        let other = pki.authority("other-ca");
        pki.issue("stranger", &other);
        pki
    }

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        self.write(&format!("{name}.pem"), &cert.pem());
        Issuer::new(params, key)
    }

    fn issue(&self, name: &str, ca: &Issuer<'_, KeyPair>) {
        let mut params =
            CertificateParams::new(vec!["127.0.0.1".to_owned(), format!("{name}.example")]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, ca).unwrap();
        self.write(&format!("{name}.pem"), &cert.pem());
        self.write(&format!("{name}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.dir.join(name), text).unwrap();
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.join(name)).unwrap()
    }

    /// The daemon's side.
    pub fn server(&self) -> Tls {
        Tls { cert: self.read("server.pem"), key: self.read("server.key"), client_ca: self.read("ca.pem") }
    }

    /// A client's side; the daemon's certificate is trusted.
    pub fn files(&self, client: &str) -> TlsFiles {
        TlsFiles {
            ca: self.dir.join("ca.pem"),
            cert: self.dir.join(format!("{client}.pem")),
            key: self.dir.join(format!("{client}.key")),
            server_name: None,
        }
    }
}
