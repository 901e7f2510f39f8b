//! What goes in and out of containers and execs: standard streams, terminals, logs, clients that are attached.
//!
//! ```text
//!  container ──stdout──▶ pipe ──▶ ┌─────────────┐ ──▶ log, in CRI's format
//!            ──stderr──▶ pipe ──▶ │ ContainerIo │ ──▶ each attached client, by a pipe of its own: a slow one
//!            ◀─stdin─── pipe ◀── └─────────────┘      loses output in the end, and nobody waits for it
//!                  (or a terminal)      ▲───────────── standard input of each attached client
//! ```
//!
//! One thread serves all containers of a pod: nothing here blocks, and no call moves more than a bounded amount.
//! The caller polls what [`ContainerIo::interests`] lists and calls [`ContainerIo::ready`] with each slot that
//! is; memory is one set of [`Buffers`] for all containers, and a started line at most for each stream.

mod attach;
mod buffers;
mod exec;
mod format;
mod log;
mod source;
mod stdin;
#[cfg(test)]
mod tests;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::termios::{Winsize, tcsetwinsize};

use attach::Attachers;
pub use attach::{Streams, Wanted};
pub use buffers::Buffers;
pub use exec::ExecIo;
use log::Log;
pub use log::LogState;
use source::Source;
use stdin::Stdin;

/// Capacity of a container's pipes, where the kernel allows it: fewer turns for one that writes much.
const PIPE_BYTES: usize = 256 * 1024;
/// Reads of one stream in a turn, each of at most [`buffers::READ`] bytes. Then another container has its turn.
const READS_A_TURN: usize = 4;

/// How a container's streams are to be.
#[derive(Debug, Default)]
pub struct Settings {
    pub stdin: bool,
    /// Standard input ends when the first client that attached it ends it, or goes.
    pub stdin_once: bool,
    pub tty: bool,
    /// Open for appending.
    pub log: Option<OwnedFd>,
}

/// The child's ends, to be dropped in the shim once the child has its copies. `None`: /dev/null; with a
/// terminal all are, and the child makes the terminal.
#[derive(Debug, Default)]
pub struct ChildFds {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// A descriptor to poll.
#[derive(Debug)]
pub struct Interest<'a> {
    pub slot: Slot,
    pub fd: BorrowedFd<'a>,
    /// May be empty: the kernel reports errors and hangups anyway, and those are waited for.
    pub events: PollFlags,
}

/// What a descriptor is to its [`ContainerIo`] or [`ExecIo`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    Stdin,
    Output(Output),
    /// Of the attached client with this number.
    ClientStdin(u32),
    ClientOutput(u32, Output),
}

/// An output stream. A terminal has stdout only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    Stdout,
    Stderr,
}

impl Output {
    const BOTH: [Self; 2] = [Self::Stdout, Self::Stderr];
}

/// The streams of a container.
#[derive(Debug)]
pub struct ContainerIo {
    tty: bool,
    stdin: Stdin,
    stdout: Source,
    stderr: Source,
    log: Option<Log>,
    clients: Attachers,
}

impl ContainerIo {
    /// Makes the pipes.
    ///
    /// # Errors
    /// Those of pipe2(2).
    pub fn new(settings: Settings) -> Result<(Self, ChildFds), Errno> {
        let mut child = ChildFds::default();
        let mut stdin = Stdin::none();
        let (mut stdout, mut stderr) = (Source::awaited(), Source::ended());
        if settings.tty {
            if settings.stdin {
                stdin = Stdin::awaited(settings.stdin_once);
            }
        } else {
            for (source, end) in [(&mut stdout, &mut child.stdout), (&mut stderr, &mut child.stderr)] {
                let (read, write) = container_pipe()?;
                *source = Source::open(read)?;
                *end = Some(write);
            }
            if settings.stdin {
                let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
                stdin = Stdin::open(write, settings.stdin_once)?;
                child.stdin = Some(read);
            }
        }
        let log = settings.log.map(Log::new);
        let clients = Attachers::default();
        Ok((Self { tty: settings.tty, stdin, stdout, stderr, log, clients }, child))
    }

    /// The master of the terminal that the child made.
    ///
    /// # Errors
    /// Those of fcntl(2) and dup(2).
    pub fn set_terminal(&mut self, master: OwnedFd) -> Result<(), Errno> {
        if self.stdin.is_awaited() {
            self.stdin.connect(rustix::io::fcntl_dupfd_cloexec(&master, 3)?)?;
        }
        self.stdout = Source::terminal(master)?;
        Ok(())
    }

    /// To be called before [`ContainerIo::interests`]: how long poll(2) may wait at most.
    pub fn timeout(&mut self) -> Option<Duration> {
        self.clients.reckon()
    }

    /// What to poll now. A descriptor may occur twice, for different events.
    pub fn interests<'a>(&'a self, add: &mut impl FnMut(Interest<'a>)) {
        if let Some(fd) = self.stdin.waits_for_room() {
            add(Interest { slot: Slot::Stdin, fd, events: PollFlags::OUT });
        }
        for output in Output::BOTH {
            if let Some(fd) = self.source(output).fd().filter(|_| !self.clients.holds(output)) {
                add(Interest { slot: Slot::Output(output), fd, events: PollFlags::IN });
            }
        }
        self.clients.interests(self.stdin.takes_more(), add);
    }

    /// Does what can be done for a slot that poll(2) reported, whatever the events.
    pub fn ready(&mut self, slot: Slot, buffers: &mut Buffers) {
        match slot {
            Slot::Stdin => self.stdin.flush(),
            Slot::Output(output) => {
                let most = READS_A_TURN * buffers::READ;
                self.pump(output, buffers, most, false);
            }
            Slot::ClientStdin(client) => self.clients.pump_stdin(client, &mut self.stdin, buffers),
            Slot::ClientOutput(client, output) => self.clients.pump_output(client, output),
        }
        if self.stdin.is_ended() {
            self.clients.end_stdin();
        }
    }

    /// The container has ended: takes what it left in its pipes, ends the log's last line and all streams.
    /// Whoever still holds the other ends is not waited for.
    pub fn drain(&mut self, buffers: &mut Buffers) {
        for output in Output::BOTH {
            if let Some(most) = self.source(output).capacity() {
                self.pump(output, buffers, most, true);
                self.end(output, buffers);
            }
        }
        self.stdin = Stdin::none();
        self.clients.end_stdin();
        if let Some(log) = &mut self.log {
            log.close();
        }
    }

    /// Goes on in another file. What was read before is in the old one, a line that was begun will be in the
    /// new one.
    pub fn reopen(&mut self, log: OwnedFd) {
        match &mut self.log {
            Some(open) => open.reopen(log),
            None => self.log = Some(Log::new(log)),
        }
    }

    /// What the log could not take.
    pub fn log_state(&self) -> LogState {
        self.log.as_ref().map(Log::state).unwrap_or_default()
    }

    /// Attaches a client: its ends of the streams that there are, of those wanted. A stream that has ended is
    /// at its end for the client too.
    ///
    /// # Errors
    /// Those of pipe2(2).
    pub fn attach(&mut self, wanted: Wanted) -> Result<Streams, Errno> {
        let wanted = Wanted {
            stdin: wanted.stdin && !self.stdin.is_ended(),
            stdout: wanted.stdout,
            stderr: wanted.stderr && !self.tty,
        };
        self.clients.attach(wanted, !self.stdout.is_ended(), !self.stderr.is_ended())
    }

    /// Bytes that were lost to attached clients, which were too slow for them.
    pub fn missed_by_clients(&self) -> u64 {
        self.clients.missed()
    }

    /// Sets the terminal's size, which tells its foreground processes.
    ///
    /// # Errors
    /// ENOTTY without a terminal; those of TIOCSWINSZ.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), Errno> {
        let master = self.stdout.fd().filter(|_| self.tty).ok_or(Errno::NOTTY)?;
        resize(master, columns, rows)
    }

    fn source(&self, output: Output) -> &Source {
        match output {
            Output::Stdout => &self.stdout,
            Output::Stderr => &self.stderr,
        }
    }

    /// Moves what there is, up to `most` bytes, or, unless they are the `last`, until a client is full.
    fn pump(&mut self, output: Output, buffers: &mut Buffers, most: usize, last: bool) {
        let source = match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        let mut moved = 0;
        while moved < most {
            match source.read(buffers) {
                Some(0) => return self.end(output, buffers),
                Some(count) => {
                    let full = self.clients.tee(output, buffers.fresh(count), last);
                    if let Some(log) = &mut self.log {
                        source.log(output, count, buffers, log);
                    }
                    moved += count;
                    // Less than there was room for: the pipe is empty, most likely.
                    if (count < buffers::READ && source.is_pipe()) || (full && !last) {
                        return;
                    }
                }
                None => return,
            }
        }
    }

    /// The stream is at its end.
    fn end(&mut self, output: Output, buffers: &mut Buffers) {
        let source = match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        if let Some(log) = &mut self.log {
            source.finish(output, buffers, log);
        }
        *source = Source::ended();
        self.clients.end_output(output);
    }
}

/// A pipe for output, with room.
fn container_pipe() -> Result<(OwnedFd, OwnedFd), Errno> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // Refused beyond a user's share: the usual size does as well.
    let _ = rustix::pipe::fcntl_setpipe_size(&read, PIPE_BYTES);
    Ok((read, write))
}

fn resize(terminal: BorrowedFd<'_>, columns: u16, rows: u16) -> Result<(), Errno> {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })
}

/// Reads and writes give EAGAIN instead of waiting.
fn non_blocking(fd: &OwnedFd) -> Result<(), Errno> {
    rustix::io::ioctl_fionbio(fd, true)
}
