//! Runs one CNI plugin: one spawn, bounded output, a deadline that ends its whole process group.
//!
//! `std` spawns with `posix_spawn` here (absolute path, no pre-exec hook), so a plugin costs one
//! vfork-like clone whatever the daemon's size. The environment is empty but for what the CNI
//! specification names, and PATH: bridge and portmap look `iptables` up in it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout, timeout_at};

use super::error::{NetworkError, PluginReport};

/// Results are some hundred bytes; what writes more than this is broken.
pub(super) const MAX_STDOUT: usize = 1 << 20;
/// The head of stderr that is kept; the rest is read and dropped, so that the plugin does not block on it.
const MAX_STDERR: u64 = 16 << 10;
/// How long the pipes of a plugin that has exited may stay open (a child of its own holds them).
const PIPE_GRACE: Duration = Duration::from_millis(500);
/// How long a killed plugin may take to be reaped.
const REAP: Duration = Duration::from_secs(1);

/// An operation of the CNI protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Verb {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A deadline, and the time that was given, for the error's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deadline {
    at: Instant,
    allowed: Duration,
}

impl Deadline {
    pub(super) fn after(allowed: Duration) -> Self {
        let now = Instant::now();
        // A timeout beyond what an Instant can hold is a day: never, for a plugin.
        let day = Duration::from_secs(86_400);
        Self { at: now.checked_add(allowed).unwrap_or(now + day), allowed }
    }
}

/// The pod's part of a plugin's environment. All empty for GC, STATUS and VERSION.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Target<'a> {
    pub container_id: &'a str,
    /// `None`: the namespace is gone.
    pub netns: Option<&'a Path>,
    pub ifname: &'a str,
    pub args: &'a str,
}

/// Where plugins are found.
#[derive(Debug, Clone)]
pub(super) struct Plugins {
    dirs: Vec<PathBuf>,
    /// CNI_PATH: plugins that run others (IPAM) look there.
    cni_path: OsString,
    path: OsString,
}

impl Plugins {
    pub(super) fn new(dirs: Vec<PathBuf>) -> Self {
        let mut cni_path = OsString::new();
        for (i, dir) in dirs.iter().enumerate() {
            if i > 0 {
                cni_path.push(":");
            }
            cni_path.push(dir);
        }
        let path = std::env::var_os("PATH")
            .unwrap_or_else(|| "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into());
        Self { dirs, cni_path, path }
    }

    /// The plugin's executable.
    pub(super) fn find(&self, plugin: &str) -> Result<PathBuf, NetworkError> {
        let usable = !plugin.is_empty() && !plugin.contains('/') && !plugin.starts_with('.');
        let found = self.dirs.iter().filter(|_| usable).map(|d| d.join(plugin)).find(|p| is_executable(p));
        found.ok_or_else(|| NetworkError::PluginMissing {
            plugin: plugin.to_owned(),
            dirs: self.dirs.iter().map(|d| d.display().to_string()).collect::<Vec<_>>().join(", "),
        })
    }

    /// Runs the plugin and returns what it wrote to stdout.
    pub(super) async fn run(
        &self,
        plugin: &str,
        verb: Verb,
        target: Target<'_>,
        input: &[u8],
        deadline: Deadline,
    ) -> Result<Vec<u8>, NetworkError> {
        let path = self.find(plugin)?;
        let mut child = Command::new(&path)
            .env_clear()
            .env("CNI_COMMAND", verb.name())
            .env("CNI_CONTAINERID", target.container_id)
            .env("CNI_NETNS", target.netns.map_or(OsStr::new(""), Path::as_os_str))
            .env("CNI_IFNAME", target.ifname)
            .env("CNI_ARGS", target.args)
            .env("CNI_PATH", &self.cni_path)
            .env("PATH", &self.path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|source| NetworkError::Spawn { path, verb, source })?;
        let group = Group::of(&child);
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let outcome = timeout_at(deadline.at, converse(&mut child, input, &mut stdout, &mut stderr)).await;
        let plugin = plugin.to_owned();
        match outcome {
            Ok(Ok(Some(status))) => {
                group.disarm();
                if status.success() {
                    Ok(stdout)
                } else {
                    Err(NetworkError::Plugin {
                        plugin,
                        verb,
                        report: Box::new(report(status, &stdout, &stderr)),
                    })
                }
            }
            Ok(Ok(None)) => {
                group.kill(&mut child).await;
                Err(NetworkError::TooMuchOutput { plugin, verb, limit: MAX_STDOUT })
            }
            Ok(Err(source)) => {
                group.kill(&mut child).await;
                Err(NetworkError::Io { action: "talking to CNI plugin", path: plugin.into(), source })
            }
            Err(_) => {
                group.kill(&mut child).await;
                let stderr = String::from_utf8_lossy(&stderr).into_owned();
                Err(NetworkError::Timeout { plugin, verb, allowed: deadline.allowed, stderr })
            }
        }
    }
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// Feeds stdin, reads stdout and stderr, waits. `None`: stdout exceeded its bound.
async fn converse(
    child: &mut Child,
    input: &[u8],
    out: &mut Vec<u8>,
    err: &mut Vec<u8>,
) -> std::io::Result<Option<ExitStatus>> {
    let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let feed = async {
        if let Some(mut stdin) = stdin {
            // A plugin may answer without reading its input: EPIPE is its right.
            let _ = stdin.write_all(input).await;
        }
        Ok::<_, Overflow>(())
    };
    let status = {
        let pipes = async {
            // Ends early on too much output: the plugin may be blocked on writing even more.
            tokio::try_join!(feed, read_bounded(stdout, out), read_head(stderr, err)).is_ok()
        };
        tokio::pin!(pipes);
        tokio::select! {
            bounded = &mut pipes => if bounded { None } else { return Ok(None) },
            status = child.wait() => {
                match timeout(PIPE_GRACE, pipes).await {
                    Ok(false) => return Ok(None),
                    Ok(true) | Err(_) => Some(status?),
                }
            }
        }
    };
    match status {
        Some(status) => Ok(Some(status)),
        None => child.wait().await.map(Some),
    }
}

/// stdout had more than [`MAX_STDOUT`] bytes.
struct Overflow;

async fn read_bounded(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Overflow> {
    let Some(from) = from else { return Ok(()) };
    let _ = from.take(MAX_STDOUT as u64 + 1).read_to_end(into).await;
    if into.len() <= MAX_STDOUT { Ok(()) } else { Err(Overflow) }
}

async fn read_head(from: Option<impl AsyncRead + Unpin>, into: &mut Vec<u8>) -> Result<(), Overflow> {
    let Some(mut from) = from else { return Ok(()) };
    let _ = (&mut from).take(MAX_STDERR).read_to_end(into).await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    Ok(())
}

/// The plugin's process group; killed when the caller goes away before the plugin has ended.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }

    /// The leader was reaped: its number may be another's from now on.
    fn disarm(mut self) {
        self.0 = None;
    }

    async fn kill(self, child: &mut Child) {
        drop(self);
        let _ = timeout(REAP, child.wait()).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // The leader is not reaped yet (`disarm`), so the number is still this group's.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

fn report(status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> PluginReport {
    #[derive(Deserialize)]
    struct ErrorObject {
        code: u64,
        #[serde(default)]
        msg: String,
        #[serde(default)]
        details: String,
    }
    let exit = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit status {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    let stderr = String::from_utf8_lossy(stderr).into_owned();
    match serde_json::from_slice::<ErrorObject>(stdout) {
        Ok(e) => PluginReport { exit, code: Some(e.code), msg: e.msg, details: e.details, stderr },
        Err(_) => {
            let printed = String::from_utf8_lossy(stdout).trim().to_owned();
            let msg = if printed.is_empty() { printed } else { format!("{exit}; it printed {printed:?}") };
            PluginReport { exit, code: None, msg, details: String::new(), stderr }
        }
    }
}
