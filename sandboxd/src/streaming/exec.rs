//! A process in a running container, with its streams.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use sandboxd_streaming::{BackendError, Exited, Session, Size, Wanted};
use tokio::sync::mpsc;

use super::pipe::{Reader, Writer};
use super::{StreamingError, Targets};
use crate::container::error::ContainerError;
use crate::runtime::task::{self, Process, Streams};
use crate::runtime::{Exit, RuntimeError};

/// Terminal sizes that wait: more would be old ones.
pub(super) const SIZES: usize = 4;

/// Executes the command.
///
/// # Errors
/// When the runtime does not carry it out.
pub(super) async fn exec(
    targets: &dyn Targets,
    container: &str,
    command: &[String],
    wanted: Wanted,
) -> Result<Session, StreamingError> {
    Ok(start(targets, container, command, wanted).await?.1)
}

/// Executes the command; its process is there for who ends it with its client.
///
/// # Errors
/// As [`exec`].
pub(crate) async fn start(
    targets: &dyn Targets,
    container: &str,
    command: &[String],
    wanted: Wanted,
) -> Result<(Arc<dyn Process>, Session), StreamingError> {
    let failed = |source| ContainerError::Runtime { action: "executing the command", source };
    let (task, plan) = targets.exec_plan(container, command, wanted.tty, streams_wanted(wanted))?;
    let process = task.exec(plan).await.map_err(failed)?;
    tracing::debug!(container, pid = process.pid(), "executing for a client");
    let ends = process.take_streams();
    let resize = wanted.tty.then(|| {
        let process = Arc::clone(&process);
        sizes(move |size| {
            let process = Arc::clone(&process);
            async move { process.resize(size).await }
        })
    });
    let ends_with = Arc::clone(&process);
    let exit = Box::pin(async move { exited(ends_with.wait().await.exit) });
    Ok((process, session(ends, resize, exit)?))
}

pub(super) fn streams_wanted(wanted: Wanted) -> task::Wanted {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    task::Wanted { stdin, stdout, stderr: stderr && !tty }
}

fn exited(exit: Exit) -> Result<Exited, BackendError> {
    match exit {
        Exit::Code(code) => Ok(Exited::Code(code)),
        Exit::Signal(signal) => Ok(Exited::Code(128 + signal)),
        Exit::Unknown => Err(BackendError("nobody saw how the process ended".to_owned())),
    }
}

/// The streams as the protocols move them.
pub(super) fn session(
    ends: Streams,
    resize: Option<mpsc::Sender<Size>>,
    exit: std::pin::Pin<Box<dyn Future<Output = Result<Exited, BackendError>> + Send>>,
) -> Result<Session, StreamingError> {
    let failed = |source| StreamingError::Io { action: "watching a process's streams", source };
    let read = |fd: OwnedFd| -> Result<Box<dyn tokio::io::AsyncRead + Send + Unpin>, StreamingError> {
        Ok(Box::new(Reader::new(fd).map_err(failed)?))
    };
    let write = |fd: OwnedFd| -> Result<Box<dyn tokio::io::AsyncWrite + Send + Unpin>, StreamingError> {
        Ok(Box::new(Writer::new(fd).map_err(failed)?))
    };
    let Streams { stdin, stdout, stderr } = ends;
    Ok(Session {
        stdin: stdin.map(write).transpose()?,
        stdout: stdout.map(read).transpose()?,
        stderr: stderr.map(read).transpose()?,
        resize,
        exit,
    })
}

/// Passes sizes on, until the session is dropped.
pub(super) fn sizes<F, R>(resize: F) -> mpsc::Sender<Size>
where
    F: Fn(task::Size) -> R + Send + 'static,
    R: Future<Output = Result<(), RuntimeError>> + Send,
{
    let (sender, mut sizes) = mpsc::channel::<Size>(SIZES);
    tokio::spawn(async move {
        while let Some(Size { columns, rows }) = sizes.recv().await {
            // A process that has ended has no terminal; one that is too slow has the next size soon.
            if let Err(error) = resize(task::Size { columns, rows }).await {
                tracing::debug!(%error, columns, rows, "resizing a terminal failed");
            }
        }
    });
    sender
}
