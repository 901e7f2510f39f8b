//! ExecSync: a command, what it prints, how it ends.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::error::ContainerError;
use crate::runtime::task::{ExecPlan, Process, Task};
use crate::runtime::{Exit, RuntimeError};

/// Most bytes kept of both streams together: a CRI message has at most 16 MiB, a little of it for the rest.
const KEPT: usize = (16 << 20) - 1024;
/// Bytes read at once.
const CHUNK: usize = 64 << 10;

/// What a command printed and how it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    /// At most 16 MiB with `stderr`, the size of a CRI message; what came after is dropped.
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// 128 + n for signal n.
    pub exit_code: i32,
}

/// The exit code as shells and CRI have it.
#[must_use]
pub fn exit_code(exit: Exit) -> i32 {
    match exit {
        Exit::Code(code) => code,
        Exit::Signal(signal) => 128 + signal,
        Exit::Unknown => 255,
    }
}

/// Runs a command to its end, or kills it and everything it started.
pub(super) async fn run(
    task: &dyn Task,
    plan: ExecPlan,
    timeout: Option<Duration>,
) -> Result<ExecOutput, ContainerError> {
    let started = tokio::time::Instant::now();
    let failed = |source| ContainerError::Runtime { action: "executing the command failed", source };
    let process = task.exec(plan).await.map_err(failed)?;
    let mut guard = Guard(Some(Arc::clone(&process)));
    let streams = process.take_streams();
    let mut stdout = Collected::new(streams.stdout).map_err(|source| failed(io_error(source)))?;
    let mut stderr = Collected::new(streams.stderr).map_err(|source| failed(io_error(source)))?;
    let whole = async {
        let mut exit = std::pin::pin!(process.wait());
        loop {
            // No order: a child that never stops writing must not hide the command's end.
            tokio::select! {
                exit = &mut exit => return exit,
                () = stdout.more() => {}
                () = stderr.more() => {}
            }
        }
    };
    let limited = match timeout {
        None => whole.await,
        Some(after) => match tokio::time::timeout_at(started + after, whole).await {
            Ok(exit) => exit,
            Err(_) => {
                if let Err(error) = process.kill().await {
                    tracing::warn!(%error, pid = process.pid(), "killing a command that took too long failed");
                }
                guard.0 = None;
                return Err(ContainerError::ExecTimeout { after });
            }
        },
    };
    guard.0 = None;
    // What is in the pipes by now is its own; a child that keeps them open is not waited for.
    stdout.rest();
    stderr.rest();
    // The longer one gives way: what a command says on the other is not lost to it.
    let (mut stdout, mut stderr) = (stdout.kept, stderr.kept);
    let (longer, shorter) =
        if stdout.len() > stderr.len() { (&mut stdout, stderr.len()) } else { (&mut stderr, stdout.len()) };
    longer.truncate(KEPT.saturating_sub(shorter).max(KEPT / 2));
    Ok(ExecOutput { stdout, stderr, exit_code: exit_code(limited.exit) })
}

fn io_error(source: io::Error) -> RuntimeError {
    RuntimeError::Io { action: "reading what the command prints".into(), source }
}

/// Kills the command when its caller goes away.
struct Guard(Option<Arc<dyn Process>>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(process) = self.0.take() {
            tokio::spawn(async move {
                if let Err(error) = process.kill().await {
                    tracing::warn!(%error, pid = process.pid(), "killing an abandoned command failed");
                }
            });
        }
    }
}

/// One stream.
struct Collected {
    pipe: Option<pipe::Receiver>,
    kept: Vec<u8>,
    chunk: Vec<u8>,
}

impl Collected {
    fn new(fd: Option<OwnedFd>) -> io::Result<Self> {
        let pipe = fd.map(pipe::Receiver::from_owned_fd).transpose()?;
        Ok(Self { pipe, kept: Vec::new(), chunk: Vec::new() })
    }

    /// Takes what has come; waits where nothing has, for ever after the end.
    async fn more(&mut self) {
        let Some(pipe) = &mut self.pipe else { return std::future::pending().await };
        self.chunk.resize(CHUNK, 0);
        match pipe.read(&mut self.chunk).await {
            Ok(0) | Err(_) => self.pipe = None,
            Ok(read) => self.keep(read),
        }
    }

    /// Takes what is in the pipe now, not what a child goes on to write. Past tokio, whose idea of what can be
    /// read may be older than the command's end.
    fn rest(&mut self) {
        let Some(pipe) = self.pipe.take() else { return };
        let mut left = usize::try_from(rustix::io::ioctl_fionread(&pipe).unwrap_or(0)).unwrap_or(0);
        self.chunk.resize(CHUNK, 0);
        while left > 0 {
            let some = left.min(CHUNK);
            match rustix::io::read(&pipe, &mut self.chunk[..some]) {
                Ok(0) | Err(_) => return,
                Ok(read) => {
                    left -= read;
                    self.keep(read);
                }
            }
        }
    }

    fn keep(&mut self, read: usize) {
        let room = KEPT - self.kept.len();
        self.kept.extend_from_slice(&self.chunk[..read.min(room)]);
    }
}

#[cfg(test)]
#[path = "exec_tests.rs"]
mod tests;
