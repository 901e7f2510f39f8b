//! A registry on loopback: Debian's `docker-registry`, with htpasswd and TLS where a test wants them.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

const PATIENCE: Duration = Duration::from_secs(20);

/// The tools that [`Registry`] runs.
pub const TOOLS: [&str; 4] = ["docker-registry", "skopeo", "htpasswd", "openssl"];

/// How a registry is protected.
#[derive(Debug, Clone, Default)]
pub struct Protection {
    /// Name and password, without which it answers 401.
    pub user: Option<(String, String)>,
    /// A certificate of an authority made for this registry, instead of plain http.
    pub tls: bool,
}

/// A running registry; it ends, and its files go, when this is dropped.
#[derive(Debug)]
pub struct Registry {
    server: Child,
    port: u16,
    protection: Protection,
    dir: tempfile::TempDir,
}

impl Registry {
    /// # Errors
    /// When a tool is missing, or it does not come up: with its log.
    pub fn start(protection: Protection) -> Result<Self> {
        let dir = tempfile::tempdir().context("a directory for the registry")?;
        let path = |name: &str| dir.path().join(name);
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let mut text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:{port}\n",
            path("data").display()
        );
        if protection.tls {
            certificates(dir.path())?;
            let (cert, key) = (path("server.pem"), path("server.key"));
            text += &format!("  tls:\n    certificate: {}\n    key: {}\n", cert.display(), key.display());
        }
        if let Some((user, password)) = &protection.user {
            let line = output(Command::new("htpasswd").args(["-Bbn", user, password]))?;
            fs::write(path("htpasswd"), line)?;
            text +=
                &format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", path("htpasswd").display());
        }
        fs::write(path("config.yml"), text)?;
        let log = File::create(path("log"))?;
        let server = Command::new("docker-registry")
            .arg("serve")
            .arg(path("config.yml"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting docker-registry")?;
        let mut this = Self { server, port, protection, dir };
        this.wait()?;
        Ok(this)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            let ended = self.server.try_wait()?;
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                bail!("docker-registry does not listen ({ended:?}): {log}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// "localhost:PORT"
    #[must_use]
    pub fn domain(&self) -> String {
        format!("localhost:{}", self.port)
    }

    /// Pushes all of an OCI layout's tag "1" as `name`.
    ///
    /// # Errors
    /// When skopeo fails: with what it says.
    pub fn push(&self, layout: &Path, name: &str) -> Result<()> {
        let mut command = Command::new("skopeo");
        command.args(["copy", "--quiet", "--all", "--dest-tls-verify=false"]);
        if let Some((user, password)) = &self.protection.user {
            command.arg(format!("--dest-creds={user}:{password}"));
        }
        command.arg(format!("oci:{}:1", layout.display()));
        command.arg(format!("docker://{}/{name}", self.domain()));
        output(&mut command).map(drop)
    }

    /// A directory for `image.registry_config_dir`, in which this registry's authority is known.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn config_dir(&self) -> Result<PathBuf> {
        let dir = self.dir.path().join("certs.d");
        let own = dir.join(self.domain());
        fs::create_dir_all(&own)?;
        let scheme = if self.protection.tls { "https" } else { "http" };
        let mut text = format!("server = \"{scheme}://{}\"\n", self.domain());
        if self.protection.tls {
            text += &format!("ca = {:?}\n", self.dir.path().join("ca.pem"));
        }
        fs::write(own.join("hosts.toml"), text)?;
        Ok(dir)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// ca.pem, and server.pem with server.key for localhost.
fn certificates(dir: &Path) -> Result<()> {
    let path = |name: &str| dir.join(name).display().to_string();
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let mut authority = Command::new("openssl");
    authority.args(["req", "-x509", "-days", "2", "-subj", "/CN=test authority"]).args(key);
    authority.args(["-addext", "basicConstraints=critical,CA:TRUE"]);
    output(authority.args(["-keyout", &path("ca.key"), "-out", &path("ca.pem")]))?;
    let mut request = Command::new("openssl");
    request.args(["req", "-subj", "/CN=localhost"]).args(key);
    output(request.args(["-keyout", &path("server.key"), "-out", &path("server.csr")]))?;
    fs::write(
        dir.join("extensions"),
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n",
    )?;
    let mut sign = Command::new("openssl");
    sign.args(["x509", "-req", "-days", "2", "-CAcreateserial", "-in", &path("server.csr")]);
    sign.args(["-CA", &path("ca.pem"), "-CAkey", &path("ca.key"), "-extfile", &path("extensions")]);
    output(sign.args(["-out", &path("server.pem")])).map(drop)
}

/// What a tool prints.
fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output().with_context(|| format!("running {name}: is it installed?"))?;
    ensure!(done.status.success(), "{name} failed: {}", String::from_utf8_lossy(&done.stderr));
    Ok(done.stdout)
}
