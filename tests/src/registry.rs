//! A registry of a test's own: the real `docker-registry` on a loopback port.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tempfile::TempDir;

const START_PATIENCE: Duration = Duration::from_secs(15);

/// Ports that may be taken between being found free and being used.
const ATTEMPTS: u32 = 5;

/// How it is served.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// User and password it asks for.
    pub user: Option<(String, String)>,
    /// HTTPS, with a certificate of [`Registry::ca`] for 127.0.0.1 and localhost.
    pub tls: bool,
    /// HTTPS, and clients must show a certificate of the same CA: [`Registry::client_pair`].
    pub client_certificates: bool,
}

/// A running registry. It ends, and its storage goes, when this is dropped.
#[derive(Debug)]
pub struct Registry {
    child: Child,
    dir: TempDir,
    port: u16,
    options: Options,
}

impl Registry {
    /// Why no registry can be run here; `None` where it can.
    #[must_use]
    pub fn missing() -> Option<String> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let has = |tool: &&&str| std::env::split_paths(&path).any(|dir| dir.join(tool).exists());
        let tools = ["docker-registry", "skopeo", "openssl", "htpasswd"];
        tools.iter().find(|tool| !has(tool)).map(|tool| format!("no {tool}"))
    }

    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When `docker-registry` is missing or does not come up: with its log.
    pub fn start(options: Options) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        if options.tls || options.client_certificates {
            certificates(dir.path())?;
        }
        if let Some((user, password)) = &options.user {
            fs::write(dir.path().join("htpasswd"), htpasswd(user, password)?)?;
        }
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
            let mut child = spawn(dir.path(), port, &options)?;
            if answers(&mut child, port)? {
                return Ok(Self { child, dir, port, options });
            }
            let _ = child.kill();
            child.wait()?;
        }
        bail!("no registry comes up:\n{}", fs::read_to_string(dir.path().join("log")).unwrap_or_default())
    }

    /// "127.0.0.1:PORT", as references have it.
    #[must_use]
    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// "http://127.0.0.1:PORT" or "https://…".
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.options.tls || self.options.client_certificates { "https" } else { "http" };
        format!("{scheme}://{}", self.host())
    }

    /// The certificate of the CA, PEM.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// A client's certificate and key, PEM.
    #[must_use]
    pub fn client_pair(&self) -> (PathBuf, PathBuf) {
        (self.dir.path().join("client.pem"), self.dir.path().join("client.key"))
    }

    /// Pushes the image of an OCI archive as "repository:tag"; the whole reference.
    ///
    /// # Errors
    /// What `skopeo` says.
    pub fn push(&self, archive: &Path, name: &str) -> Result<String> {
        let reference = format!("{}/{name}", self.host());
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--quiet", "--preserve-digests"]);
        if self.options.client_certificates {
            // What skopeo takes for a client's certificate has this ending.
            let certs = self.dir.path().join("skopeo");
            fs::create_dir_all(&certs)?;
            let (cert, key) = self.client_pair();
            fs::copy(self.ca(), certs.join("ca.crt"))?;
            fs::copy(cert, certs.join("client.cert"))?;
            fs::copy(key, certs.join("client.key"))?;
            command.arg("--dest-cert-dir").arg(certs);
        } else {
            command.arg("--dest-tls-verify=false");
        }
        if let Some((user, password)) = &self.options.user {
            command.arg("--dest-creds").arg(format!("{user}:{password}"));
        }
        command.arg(format!("oci-archive:{}", archive.display())).arg(format!("docker://{reference}"));
        run(&mut command)?;
        Ok(reference)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(dir: &Path, port: u16, options: &Options) -> Result<Child> {
    let path = |name: &str| dir.join(name).display().to_string();
    let mut config = format!(
        "version: 0.1\nlog:\n  level: info\nstorage:\n  filesystem:\n    rootdirectory: {}\n  delete:\n    \
         enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n  secret: test\n",
        path("storage")
    );
    if options.tls || options.client_certificates {
        config +=
            &format!("  tls:\n    certificate: {}\n    key: {}\n", path("server.pem"), path("server.key"));
    }
    if options.client_certificates {
        config += &format!("    clientcas:\n      - {}\n", path("ca.pem"));
    }
    if options.user.is_some() {
        config += &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("htpasswd"));
    }
    let file = dir.join("config.yml");
    fs::write(&file, config)?;
    let log = fs::File::create(dir.join("log"))?;
    Command::new("docker-registry")
        .arg("serve")
        .arg(file)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("starting docker-registry")
}

/// Waits until the port is served; no when the registry ends before.
fn answers(child: &mut Child, port: u16) -> Result<bool> {
    let end = Instant::now() + START_PATIENCE;
    while Instant::now() < end {
        if child.try_wait()?.is_some() {
            return Ok(false);
        }
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(true);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(false)
}

fn htpasswd(user: &str, password: &str) -> Result<Vec<u8>> {
    let output = Command::new("htpasswd").args(["-Bbn", user, password]).output().context("htpasswd")?;
    ensure!(output.status.success(), "htpasswd: {}", String::from_utf8_lossy(&output.stderr));
    Ok(output.stdout)
}

/// A CA, and certificates of it for the server and for a client.
fn certificates(dir: &Path) -> Result<()> {
    let ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let openssl = |args: &[&str]| run(Command::new("openssl").current_dir(dir).args(args));
    let ca = ["-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2"];
    openssl(&[&["req", "-x509"], &ec[..], &ca[..]].concat())?;
    for (name, extension) in [
        ("server", "subjectAltName=IP:127.0.0.1,DNS:localhost\nextendedKeyUsage=serverAuth\n"),
        ("client", "extendedKeyUsage=clientAuth\n"),
    ] {
        let (key, csr, pem, ext) =
            (format!("{name}.key"), format!("{name}.csr"), format!("{name}.pem"), format!("{name}.ext"));
        fs::write(dir.join(&ext), extension)?;
        let request = ["-keyout", &key, "-out", &csr, "-subj", &format!("/CN={name}")];
        openssl(&[&["req"], &ec[..], &request[..]].concat())?;
        openssl(&[
            "x509",
            "-req",
            "-in",
            &csr,
            "-CA",
            "ca.pem",
            "-CAkey",
            "ca.key",
            "-CAcreateserial",
            "-out",
            &pem,
            "-days",
            "2",
            "-extfile",
            &ext,
        ])?;
    }
    Ok(())
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("running {:?}", command.get_program()))?;
    ensure!(
        output.status.success(),
        "{:?} ended with {}: {}",
        command.get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::busybox;

    #[test]
    fn takes_a_push_in_every_form() {
        if let Some(reason) = Registry::missing() {
            eprintln!("SKIPPED: {reason}");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("busybox.tar");
        busybox().unwrap().write(&archive).unwrap();
        let user = Some(("user".to_owned(), "secret".to_owned()));
        for options in [
            Options::default(),
            Options { user, tls: true, ..Options::default() },
            Options { client_certificates: true, ..Options::default() },
        ] {
            let registry = Registry::start(options).unwrap();
            let reference = registry.push(&archive, "test/busybox:1").unwrap();
            assert!(reference.ends_with("/test/busybox:1"), "{reference}");
        }
    }
}
