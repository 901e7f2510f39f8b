//! A node of its own: one daemon with directories, sockets, a CNI network and a cgroup parent that
//! nobody else uses.
//!
//! ```text
//!            start ──▶ running ──stop──▶ stopped: pods removed, daemon ended, leftovers counted, swept
//!                       │  ▲
//!      kill / terminate ▼  │ spawn
//!                    daemonless ── drop ──▶ swept by force
//! ```

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_api::cri::VersionRequest;
use serde_json::Value;
use tokio::time::sleep;

use crate::bins;
use crate::cni::{self, Subnet};
use crate::console::Console;
use crate::cri::Cri;
use crate::leftovers::{self, Leftover, Scope};
use crate::patience::patient;
use crate::pod::Pod;
use crate::sweep;

/// Ten times what a machine under software emulation takes.
const START_PATIENCE: Duration = Duration::from_secs(120);
const END_PATIENCE: Duration = Duration::from_secs(20);
/// What is undone after a reply (a cgroup that is still busy) may take this long.
const SETTLE_PATIENCE: Duration = Duration::from_secs(5);

/// What is special about a node.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The daemon to run; the one in the build directory where empty.
    pub daemon: Option<PathBuf>,
    /// Lines added to the configuration file.
    pub config: String,
    /// One more plugin at the end of the chain, and the program that is it.
    pub plugin: Option<(Value, PathBuf)>,
    /// Without the masquerading of the bridge plugin, which takes its rules back only from inside a network
    /// namespace that still exists.
    pub plain_bridge: bool,
    /// The state directory is made here (a tmpfs, say) instead of in the temporary directory.
    pub on: Option<PathBuf>,
}

/// A running node.
#[derive(Debug)]
pub struct Node {
    pub scope: Scope,
    daemon: Option<Child>,
    program: PathBuf,
    swept: bool,
    masquerade: bool,
}

impl Node {
    /// Makes the node and starts its daemon.
    ///
    /// # Errors
    /// When something that is needed is missing, or the daemon does not come up: with its log.
    pub async fn start(options: Options) -> Result<Self> {
        let program = match &options.daemon {
            Some(path) => path.clone(),
            None => bins::find("sandboxd")?,
        };
        let mut node = Self {
            scope: make_scope(options.on.as_deref())?,
            daemon: None,
            program,
            swept: false,
            masquerade: !options.plain_bridge,
        };
        node.write_files(&options)?;
        node.spawn().await?;
        Ok(node)
    }

    fn write_files(&self, options: &Options) -> Result<()> {
        let standard = bins::cni_dir().context("no CNI plugins in /usr/lib/cni, /opt/cni/bin")?;
        let extra: Vec<_> = match &options.plugin {
            Some((conf, program)) => {
                let name = conf.get("type").and_then(Value::as_str).context("a plugin without a type")?;
                vec![(name, program.clone())]
            }
            None => Vec::new(),
        };
        cni::plugin_dir(&self.path("cni-bin"), standard, &extra)?;
        fs::create_dir(self.path("net.d"))?;
        self.write_conflist(options.plugin.as_ref().map(|(conf, _)| conf.clone()))?;
        // Its cgroup parent is a path: where systemd runs the machine, the daemon would want a slice.
        let driver = "[cgroup]\ndriver = \"cgroupfs\"\n";
        let driver = if options.config.contains("[cgroup]") { "" } else { driver };
        fs::write(self.path("config.toml"), format!("{}\n{driver}", options.config))?;
        Ok(())
    }

    /// Writes the CNI configuration list, as an administrator would at any time.
    ///
    /// # Errors
    /// When the directory is gone.
    pub fn write_conflist(&self, last: Option<Value>) -> Result<()> {
        let scope = &self.scope;
        let list =
            cni::conflist(&scope.name, &scope.subnet.cidr(), &self.path("ipam"), self.masquerade, last);
        let path = self.path("net.d/10-test.conflist");
        fs::write(&path, list.to_string()).with_context(|| format!("writing {}", path.display()))
    }

    /// The daemon's command line; without its subcommand's options where only the program matters.
    #[must_use]
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("serve").arg("--config").arg(self.path("config.toml"));
        command.arg("--root").arg(self.path("root")).arg("--state").arg(self.path("run"));
        command.arg("--cri-socket").arg(self.cri_socket());
        command.arg("--console-socket").arg(self.console_socket());
        command.arg("--cni-conf-dir").arg(self.path("net.d"));
        command.arg("--cni-bin-dir").arg(self.path("cni-bin"));
        command
    }

    /// A command of `sandboxd` to this node's running daemon.
    #[must_use]
    pub fn sandboxd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--cri-socket").arg(self.cri_socket());
        command.arg("--console-socket").arg(self.console_socket());
        command
    }

    /// A command of `sandboxd` that asks this node's running daemon: `namespaces`, `explain`, `events`.
    #[must_use]
    pub fn ask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--console-socket").arg(self.console_socket());
        command
    }

    /// Brings an image archive into the running daemon.
    ///
    /// # Errors
    /// What `sandboxd image import` says.
    pub fn import(&self, archive: &Path) -> Result<()> {
        let output = self.sandboxd(&["image", "import"]).arg(archive).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "importing {}: {said}", archive.display());
        Ok(())
    }

    /// Starts the daemon (again) and waits until it serves.
    ///
    /// # Errors
    /// When it ends or does not answer in time: with its log.
    pub async fn spawn(&mut self) -> Result<()> {
        ensure!(self.daemon.is_none(), "the daemon runs already");
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let child = self
            .command()
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // A group of its own: Ctrl-C is for whoever drives the node, not for the daemon.
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", self.program.display()))?;
        self.daemon = Some(child);
        let end = Instant::now() + START_PATIENCE;
        loop {
            if let Some(status) = self.daemon.as_mut().and_then(|c| c.try_wait().transpose()) {
                self.daemon = None;
                bail!("the daemon ended at start ({}):\n{}", status?, self.log_tail(30));
            }
            if let Ok(cri) = self.cri().await
                && cri.runtime.clone().version(VersionRequest::default()).await.is_ok()
            {
                return Ok(());
            }
            ensure!(Instant::now() < end, "the daemon does not serve:\n{}", self.log_tail(30));
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// A path below the node's directory.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.scope.dir.join(name)
    }

    #[must_use]
    pub fn cri_socket(&self) -> PathBuf {
        self.path("cri.sock")
    }

    #[must_use]
    pub fn console_socket(&self) -> PathBuf {
        self.path("console.sock")
    }

    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.path("daemon.log")
    }

    /// The last lines of the daemon's log.
    #[must_use]
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log_path()).unwrap_or_default();
        let all: Vec<_> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The daemon's pid while it runs.
    #[must_use]
    pub fn daemon_pid(&self) -> Option<i32> {
        self.daemon.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// # Errors
    /// When nobody listens.
    pub async fn cri(&self) -> Result<Cri> {
        Cri::connect(&self.cri_socket()).await
    }

    /// # Errors
    /// When nobody listens.
    pub async fn console(&self) -> Result<Console> {
        Console::connect(&self.console_socket()).await
    }

    /// A pod request below this node's cgroup parent.
    #[must_use]
    pub fn pod(&self, name: &str) -> Pod {
        Pod::new(name, &self.scope.cgroup_parent())
    }

    /// SIGKILL: the daemon gets no chance to do anything.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn kill_daemon(&mut self) -> Result<()> {
        if let Some(mut child) = self.daemon.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When the daemon does not end in time (it is killed then) or ends with a failure.
    pub async fn terminate_daemon(&mut self) -> Result<()> {
        let Some(mut child) = self.daemon.take() else { return Ok(()) };
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        kill(pid, Signal::SIGTERM)?;
        let end = Instant::now() + patient(END_PATIENCE);
        loop {
            if let Some(status) = child.try_wait()? {
                ensure!(status.success(), "the daemon ended with {status} on SIGTERM");
                return Ok(());
            }
            if Instant::now() > end {
                child.kill()?;
                child.wait()?;
                bail!("the daemon still ran {} s after SIGTERM", patient(END_PATIENCE).as_secs());
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Puts [`image::BUSYBOX`](crate::image::BUSYBOX) into the node's store, as an operator would.
    ///
    /// # Errors
    /// When the image cannot be made or taken in.
    pub fn load_busybox(&self) -> Result<()> {
        let archive = self.path("busybox.tar");
        fs::write(&archive, crate::image::busybox_archive()?)?;
        self.import(&archive)?;
        fs::remove_file(&archive).context("removing the image's archive")
    }

    /// Stops and removes every pod, as kubelet would.
    ///
    /// # Errors
    /// What the daemon answered to the first that failed.
    pub async fn remove_pods(&self) -> Result<()> {
        let cri = &self.cri().await?;
        let pods = cri.list(None).await?;
        let results = futures_util::stream::iter(pods)
            .map(|pod| async move {
                cri.stop(&pod.id).await?;
                cri.remove(&pod.id).await
            })
            .buffer_unordered(16);
        let failed = results.filter_map(|r| async { r.err() }).collect::<Vec<_>>().await;
        match failed.into_iter().next() {
            Some(status) => Err(status).context("removing the pods"),
            None => Ok(()),
        }
    }

    /// What the pods left, once what is undone in the background had its time.
    pub async fn leftovers(&self) -> Vec<Leftover> {
        let end = Instant::now() + patient(SETTLE_PATIENCE);
        loop {
            let found = leftovers::of_pods(&self.scope, self.daemon_pid());
            if found.is_empty() || Instant::now() > end {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Removes the pods, ends the daemon, counts what they left, and takes all of it away.
    ///
    /// # Errors
    /// When a pod could not be removed or the daemon would not end. Everything is swept all the same.
    pub async fn stop(mut self) -> Result<Vec<Leftover>> {
        let removed = async {
            if self.daemon.is_none() {
                self.spawn().await?;
            }
            self.remove_pods().await
        }
        .await;
        let ended = self.terminate_daemon().await;
        let found = self.leftovers().await;
        self.sweep();
        removed.and(ended)?;
        Ok(found)
    }

    fn sweep(&mut self) {
        if !std::mem::replace(&mut self.swept, true) {
            let _ = self.kill_daemon();
            sweep::everything(&self.scope);
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.sweep();
    }
}

fn make_scope(on: Option<&Path>) -> Result<Scope> {
    // "sdv" and 8 letters: a bridge's name has at most 15, and a unix socket's path at most 107.
    let dir = tempfile::Builder::new()
        .prefix("sdv")
        .rand_bytes(8)
        .tempdir_in(on.map_or_else(std::env::temp_dir, Path::to_path_buf))
        .context("making a temporary directory")?
        .keep();
    let name = dir.file_name().and_then(|n| n.to_str()).context("a directory without a name")?.to_owned();
    let scope = Scope {
        name,
        dir,
        subnet: Subnet::claim()?,
        portmap_before: sweep::portmap_chains(),
        ip_forward_before: sweep::ip_forward(),
    };
    Ok(scope)
}

/// Writes what happened to a failed test's node on the real standard error, past any capture.
pub fn report(what: &str, detail: &str) {
    let mut out = std::io::stderr().lock();
    let _ = writeln!(out, "\n---- {what} ----\n{detail}\n");
}
