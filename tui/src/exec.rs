//! A command in a container on this terminal: what is typed goes there, what it writes comes here, byte for byte.
//!
//! ```text
//!  terminal (raw) ── bytes ──▶ ExecRequest.stdin ──▶ daemon
//!     ▲     └─ SIGWINCH ─────▶ ExecRequest.resize
//!     └────────── ExecResponse.stdout, stderr ◀──────┘    exit_code ends it
//! ```
//!
//! The way out when the command answers no more: Ctrl-] three times in a row.

use std::io::{self, PipeReader, PipeWriter, Write, stdout};
use std::os::fd::{AsFd, OwnedFd};

use sandboxd_api::console::console_client::ConsoleClient;
use sandboxd_api::console::{ExecRequest, ExecStart, TerminalSize, exec_request, exec_response};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

use crate::input::{self, Ready};

/// Ctrl-].
const ESCAPE: u8 = 0x1d;

/// What to run where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    pub container_id: String,
    pub command: Vec<String>,
    /// What the container is called: "shop/web, main".
    pub object: String,
}

impl Exec {
    fn words(&self) -> String {
        format!("{} in {}", self.command.join(" "), self.object)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error("not connected to the daemon")]
    NotConnected,
    #[error("{0}")]
    Refused(String),
    #[error("the connection ended before the command did")]
    Closed,
    #[error("cannot use the terminal: {0}")]
    Terminal(#[from] io::Error),
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    Exit(i32),
    /// By Ctrl-] three times.
    Left,
}

/// What came of it, in words.
pub fn outcome(exec: &Exec, ended: &Result<Ended, ExecError>) -> String {
    match ended {
        Ok(Ended::Exit(code)) => format!("{} ended with exit code {code}", exec.words()),
        Ok(Ended::Left) => format!("left {}", exec.words()),
        Err(error) => format!("{} {}: {error}", crate::theme::WRONG, exec.words()),
    }
}

/// Words of a command line: blanks part them, quotes hold them together.
pub fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Reads the terminal until it is dropped.
struct Typed {
    bytes: mpsc::Receiver<Vec<u8>>,
    _wake: PipeWriter,
}

impl Typed {
    fn start() -> io::Result<Self> {
        let terminal = input::terminal()?;
        let (woken, wake) = io::pipe()?;
        let (bytes_in, bytes) = mpsc::channel(16);
        std::thread::spawn(move || read(&terminal, &woken, &bytes_in));
        Ok(Self { bytes, _wake: wake })
    }
}

/// Ends when the other end of `woken` is closed, before it takes a byte that is no longer meant for the command.
fn read(terminal: &OwnedFd, woken: &PipeReader, bytes: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while matches!(input::wait(terminal.as_fd(), woken.as_fd()), Ok(Ready::Input)) {
        match rustix::io::read(terminal, &mut buffer) {
            Err(rustix::io::Errno::INTR) => {}
            Ok(0) | Err(_) => return,
            Ok(read) => {
                if bytes.blocking_send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        }
    }
}

fn size() -> TerminalSize {
    let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
    TerminalSize { columns: columns.into(), rows: rows.into() }
}

fn request(message: exec_request::Message) -> ExecRequest {
    ExecRequest { message: Some(message) }
}

/// Counts Ctrl-] in a row.
#[derive(Debug, Default)]
struct Escape(u8);

impl Escape {
    fn takes(&mut self, bytes: &[u8]) -> bool {
        bytes.iter().any(|byte| {
            self.0 = if *byte == ESCAPE { self.0 + 1 } else { 0 };
            self.0 == 3
        })
    }
}

/// Runs it to its end on the terminal, which must be in raw mode and read by nobody else.
pub async fn run(exec: &Exec, channel: Option<Channel>) -> Result<Ended, ExecError> {
    let channel = channel.ok_or(ExecError::NotConnected)?;
    let mut resized = signal(SignalKind::window_change())?;
    let (to_daemon, requests) = mpsc::channel(16);
    let start = ExecStart {
        container_id: exec.container_id.clone(),
        command: exec.command.clone(),
        tty: true,
        size: Some(size()),
    };
    let send = async |message| to_daemon.send(request(message)).await.map_err(|_| ExecError::Closed);
    send(exec_request::Message::Start(start)).await?;
    let refused = |status: tonic::Status| {
        let words = match status.message() {
            "" => status.code().to_string(),
            words => words.to_owned(),
        };
        ExecError::Refused(crate::text::clean(&words))
    };
    let mut client = ConsoleClient::new(channel);
    let mut answers = client.exec(ReceiverStream::new(requests)).await.map_err(refused)?.into_inner();
    let mut typed = Typed::start()?;
    let mut escape = Escape::default();
    let mut reading = true;
    print(format!("{}; Ctrl-] three times leaves it\r\n", exec.words()).as_bytes())?;
    loop {
        tokio::select! {
            answer = answers.message() => match answer.map_err(refused)?.map(|answer| answer.message) {
                Some(Some(exec_response::Message::Stdout(bytes) | exec_response::Message::Stderr(bytes))) => {
                    print(&bytes)?;
                }
                Some(Some(exec_response::Message::ExitCode(code))) => return Ok(Ended::Exit(code)),
                Some(None) => {}
                None => return Err(ExecError::Closed),
            },
            bytes = typed.bytes.recv(), if reading => match bytes {
                Some(bytes) if escape.takes(&bytes) => return Ok(Ended::Left),
                Some(bytes) => send(exec_request::Message::Stdin(bytes)).await?,
                None => {
                    reading = false;
                    send(exec_request::Message::StdinClosed(true)).await?;
                }
            },
            _ = resized.recv() => send(exec_request::Message::Resize(size())).await?,
        }
    }
}

fn print(bytes: &[u8]) -> io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(bytes)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_lines_are_parted_at_blanks_outside_quotes() {
        assert_eq!(words("/bin/sh"), ["/bin/sh"]);
        assert_eq!(words("  sh -c 'echo \"a  b\"' \"\" x'y z' "), ["sh", "-c", "echo \"a  b\"", "", "xy z"]);
        assert!(words("  ").is_empty());
    }

    #[test]
    fn only_three_in_a_row_leave() {
        let mut escape = Escape::default();
        assert!(!escape.takes(&[ESCAPE, ESCAPE, b'a', ESCAPE]));
        assert!(!escape.takes(&[ESCAPE]));
        assert!(escape.takes(&[ESCAPE]));
    }
}
