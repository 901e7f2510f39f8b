//! Exec: a command in a running container, on a stream of messages each way.
//!
//! ```text
//!  client ── start, stdin, resize … ──▶ Input  ──▶ stdin, terminal ─┐
//!                                                                  process, made as for kubelet's exec
//!  client ◀── stdout, stderr … code ── Output ◀── stdout, stderr ──┘
//! ```
//! The client's end is the command's: it is killed with all its descendants.

use std::sync::Arc;
use std::time::Duration;

use sandboxd_api::console as api;
use sandboxd_api::console::exec_request::Message as Asked;
use sandboxd_api::console::exec_response::Message as Said;
use sandboxd_streaming::{Exited, Session, Size, Wanted};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::access::Caller;
use crate::container::model::ContainerId;
use crate::cri::CriError;
use crate::runtime::task::{self, Process};
use crate::streaming::{Targets, start_exec};

/// For the first message to come.
const FIRST: Duration = Duration::from_secs(10);
/// Bytes of a message.
const PIECE: usize = 32 << 10;
/// Messages on their way to the client.
pub(super) const IN_FLIGHT: usize = 8;
/// Between a command's end and its client's: a child that keeps the pipes open, and says nothing for so long, is not
/// waited for.
const SILENCE: Duration = Duration::from_millis(200);
/// What such a child may still say: a full pipe.
const LAST_WORDS: usize = 1 << 20;
/// A command in an audit line.
const COMMAND: usize = 256;

pub(super) type Out = mpsc::Sender<Result<api::ExecResponse, Status>>;

/// The first message.
///
/// # Errors
/// When it is something else, does not come, or names nothing to execute.
pub(super) async fn first(asked: &mut Streaming<api::ExecRequest>) -> Result<api::ExecStart, Status> {
    let first = tokio::time::timeout(FIRST, asked.message()).await;
    let first = first.map_err(|_| {
        Status::deadline_exceeded(format!("no ExecStart in {} s: send it first", FIRST.as_secs()))
    })??;
    match first.and_then(|request| request.message) {
        Some(Asked::Start(start)) if start.command.is_empty() => Err(Status::invalid_argument(
            "start.command is empty: name a program of the container, such as /bin/sh",
        )),
        Some(Asked::Start(start)) => Ok(start),
        _ => Err(Status::invalid_argument("the first message of Exec is no ExecStart: send it first")),
    }
}

/// A command that runs for a client.
pub(super) struct Running {
    process: Arc<dyn Process>,
    session: Session,
}

/// Executes a command in a container.
///
/// # Errors
/// When the container does not run, or has no such program.
pub(super) async fn start(
    targets: &dyn Targets,
    container: &ContainerId,
    start: &api::ExecStart,
) -> Result<Running, Status> {
    let wanted = Wanted { stdin: true, stdout: true, stderr: !start.tty, tty: start.tty };
    let started = start_exec(targets, container.as_str(), &start.command, wanted).await;
    let (process, session) = started.map_err(CriError::Streaming)?;
    if let Some(size) = start.size.filter(|_| start.tty) {
        let Size { columns, rows } = cells(size);
        if let Err(error) = process.resize(task::Size { columns, rows }).await {
            tracing::debug!(%error, "a terminal keeps its first size");
        }
    }
    Ok(Running { process, session })
}

/// As an audit line has it.
pub(super) fn command_line(start: &api::ExecStart) -> String {
    start.command.join(" ").chars().take(COMMAND).collect()
}

impl Running {
    /// Carries messages both ways until the command has ended, its client is gone, or the daemon ends.
    pub(super) async fn serve(
        self,
        asked: Streaming<api::ExecRequest>,
        caller: Caller,
        object: String,
        closing: CancellationToken,
        out: Out,
    ) {
        let Self { process, session } = self;
        let Session { stdin, stdout, stderr, resize, exit } = session;
        let input = Input { stdin, resize };
        let ended = CancellationToken::new();
        let said = async {
            let exit = async {
                let exited = exit.await;
                ended.cancel();
                exited
            };
            let stdout = output(stdout, Said::Stdout, &ended, &out);
            let stderr = output(stderr, Said::Stderr, &ended, &out);
            let (exited, (), ()) = tokio::join!(exit, stdout, stderr);
            match exited {
                Ok(Exited::Code(code)) => Ok(code),
                Ok(Exited::Ended | Exited::Detached) => Ok(0),
                Err(error) => Err(Status::internal(error.0)),
            }
        };
        let outcome = tokio::select! {
            exited = said => exited,
            () = input.serve(asked) => Err(Status::cancelled("the client went away")),
            () = out.closed() => Err(Status::cancelled("the client went away")),
            () = closing.cancelled() => Err(Status::unavailable("sandboxd is shutting down: the command was ended")),
        };
        if outcome.is_err()
            && let Err(error) = process.kill().await
        {
            tracing::warn!(%error, pid = process.pid(), object, "ending the command of a client that went failed");
        }
        caller.audit("Exec ended", &object, &outcome);
        let last = outcome.map(|code| api::ExecResponse { message: Some(Said::ExitCode(code)) });
        // A client that went does not hear it.
        let _ = out.send(last).await;
    }
}

/// Sends what comes, until the end; after the command's own only what is there already.
async fn output(
    from: Option<Box<dyn AsyncRead + Send + Unpin>>,
    message: fn(Vec<u8>) -> Said,
    ended: &CancellationToken,
    out: &Out,
) {
    let Some(mut from) = from else { return };
    let (mut piece, mut left) = (vec![0u8; PIECE], LAST_WORDS);
    loop {
        let read = if ended.is_cancelled() {
            tokio::time::timeout(SILENCE, from.read(&mut piece)).await.unwrap_or(Ok(0))
        } else {
            tokio::select! {
                read = from.read(&mut piece) => read,
                () = ended.cancelled() => continue,
            }
        };
        // An error is an end, too: of a terminal that nobody has open.
        let Some(bytes) = read.ok().filter(|count| *count > 0).and_then(|count| piece.get(..count)) else {
            return;
        };
        if ended.is_cancelled() {
            match left.checked_sub(bytes.len()) {
                Some(rest) => left = rest,
                None => return,
            }
        }
        let message = api::ExecResponse { message: Some(message(bytes.to_vec())) };
        if out.send(Ok(message)).await.is_err() {
            return;
        }
    }
}

/// What the client sends.
struct Input {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    resize: Option<mpsc::Sender<Size>>,
}

impl Input {
    /// Ends when the client is gone. One that has nothing more to send is not: it may be reading.
    async fn serve(mut self, mut asked: Streaming<api::ExecRequest>) {
        loop {
            match asked.message().await {
                Ok(Some(request)) => self.take(request.message).await,
                Ok(None) => {
                    self.close().await;
                    std::future::pending::<()>().await;
                }
                Err(_) => return,
            }
        }
    }

    async fn take(&mut self, message: Option<Asked>) {
        match message {
            Some(Asked::Stdin(bytes)) => {
                // A command that reads no more has all it wants.
                if let Some(stdin) = &mut self.stdin
                    && stdin.write_all(&bytes).await.is_err()
                {
                    self.stdin = None;
                }
            }
            Some(Asked::StdinClosed(true)) => self.close().await,
            Some(Asked::Resize(size)) => {
                if let Some(resize) = &self.resize {
                    // Without a listener the terminal is gone.
                    let _ = resize.send(cells(size)).await;
                }
            }
            Some(Asked::Start(_) | Asked::StdinClosed(false)) | None => {}
        }
    }

    async fn close(&mut self) {
        if let Some(mut stdin) = self.stdin.take() {
            // A command that is gone has its end of input.
            let _ = stdin.shutdown().await;
        }
    }
}

fn cells(size: api::TerminalSize) -> Size {
    let bounded = |cells: u32| u16::try_from(cells).unwrap_or(u16::MAX);
    Size { columns: bounded(size.columns), rows: bounded(size.rows) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_keeps_the_output_open_is_not_waited_for() {
        let (out, mut said) = mpsc::channel(IN_FLIGHT);
        let (mut child, from) = tokio::io::duplex(1024);
        child.write_all(b"last words").await.unwrap();
        let ended = CancellationToken::new();
        ended.cancel();
        output(Some(Box::new(from)), Said::Stdout, &ended, &out).await;
        drop(out);
        let first = said.recv().await.unwrap().unwrap();
        assert_eq!(first.message, Some(Said::Stdout(b"last words".to_vec())));
        assert!(said.recv().await.is_none());
        drop(child);
    }

    #[test]
    fn sizes_are_bounded_and_commands_in_the_audit_too() {
        let size = cells(api::TerminalSize { columns: 80, rows: 1 << 20 });
        assert_eq!((size.columns, size.rows), (80, u16::MAX));
        let start = api::ExecStart { command: vec!["a".into(), "b".repeat(999)], ..Default::default() };
        assert_eq!(command_line(&start).len(), COMMAND);
    }
}
