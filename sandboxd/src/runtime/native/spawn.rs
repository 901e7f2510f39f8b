//! Starts a shim: the one fork and exec that a pod costs the daemon.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};

use super::link::{failed, gone};
use crate::runtime::RuntimeError;

/// The shim's file name.
const NAME: &str = "sandboxd-shim";
/// How long a shim may take to end by itself once it has nothing left to do.
const END: Duration = Duration::from_secs(2);

/// A shim that is the daemon's child. It is killed when dropped, unless [`Shim::keep`] lets it live on.
#[derive(Debug)]
pub struct Shim {
    child: Option<Child>,
    pid: i32,
}

/// The shim beside the daemon's own executable.
pub fn beside_daemon() -> Result<PathBuf, RuntimeError> {
    let own = std::env::current_exe().map_err(|source| RuntimeError::Io {
        action: "finding the daemon's own executable".into(),
        source,
    })?;
    let path = own.with_file_name(NAME);
    if path.is_file() {
        return Ok(path);
    }
    Err(RuntimeError::Shim {
        problem: format!(
            "is missing: {} does not exist; install it there or configure its path",
            path.display()
        ),
    })
}

impl Shim {
    /// Starts it with `socket` as standard input, in `/`, without environment.
    pub fn spawn(path: &Path, socket: OwnedFd) -> Result<Self, RuntimeError> {
        let mut command = Command::new(path);
        command
            .stdin(Stdio::from(socket))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .env_clear()
            .current_dir("/");
        let child = command.spawn().map_err(|source| RuntimeError::Io {
            action: format!("starting the shim {}", path.display()),
            source,
        })?;
        let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).ok_or_else(gone)?;
        Ok(Self { child: Some(child), pid })
    }

    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// A pidfd: certain while the child is not waited for.
    pub fn pidfd(&self) -> Result<OwnedFd, RuntimeError> {
        let pid = Pid::from_raw(self.pid).ok_or_else(gone)?;
        pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| failed("opening the shim's pidfd".into(), errno))
    }

    /// Lets it live; it is reaped when it ends.
    pub fn keep(mut self) {
        if let Some(mut child) = self.child.take() {
            tokio::spawn(async move {
                // Only an error of wait(2) itself could come, and there is nobody it would matter to.
                let _ = child.wait().await;
            });
        }
    }

    /// Waits for its end; kills it when it takes too long. With it dies what it has made.
    pub async fn end(mut self) {
        if let Some(mut child) = self.child.take()
            && tokio::time::timeout(END, child.wait()).await.is_err()
        {
            if let Ok(pidfd) = self.pidfd() {
                let _ = pidfd_send_signal(pidfd, Signal::KILL);
            }
            let _ = child.wait().await;
        }
    }
}

impl Drop for Shim {
    fn drop(&mut self) {
        // The making was cancelled. tokio reaps what is left of a child.
        if let Some(child) = &mut self.child {
            let _ = child.start_kill();
        }
    }
}
