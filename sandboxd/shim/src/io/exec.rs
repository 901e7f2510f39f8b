//! The streams of a process that is executed in a container: the daemon has their other ends.
//!
//! The shim keeps a copy of the ends that are read, and reads nothing while the daemon is there. When the daemon
//! has gone, what the process writes is dropped, so that it neither waits nor is killed by SIGPIPE. Its standard
//! input then is at its end, of which no copy is kept.

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::PollFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::pipe::{PipeFlags, pipe_with};

use super::{
    Buffers, ChildFds, Interest, Output, Slot, Streams, Wanted, container_pipe, non_blocking, resize,
};

/// The shim's side of an exec's streams.
#[derive(Debug)]
pub struct ExecIo {
    tty: bool,
    stdin: bool,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    orphaned: bool,
}

impl ExecIo {
    /// Makes the pipes: the child's ends and the daemon's. With a terminal there are none yet. A stream that is
    /// not wanted is /dev/null.
    ///
    /// # Errors
    /// Those of pipe2(2) and dup(2).
    pub fn new(wanted: Wanted, tty: bool) -> Result<(Self, ChildFds, Streams), Errno> {
        let mut io = Self { tty, stdin: wanted.stdin, stdout: None, stderr: None, orphaned: false };
        let mut child = ChildFds::default();
        let mut streams = Streams::default();
        if tty {
            return Ok((io, child, streams));
        }
        if wanted.stdin {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            non_blocking(&write)?;
            (child.stdin, streams.stdin) = (Some(read), Some(write));
        }
        for (wanted, kept, end, stream) in [
            (wanted.stdout, &mut io.stdout, &mut child.stdout, &mut streams.stdout),
            (wanted.stderr, &mut io.stderr, &mut child.stderr, &mut streams.stderr),
        ] {
            if wanted {
                let (read, write) = container_pipe()?;
                non_blocking(&read)?;
                *kept = Some(fcntl_dupfd_cloexec(&read, 3)?);
                (*end, *stream) = (Some(write), Some(read));
            }
        }
        Ok((io, child, streams))
    }

    /// The master of the terminal that the child made: the daemon's ends.
    ///
    /// # Errors
    /// Those of fcntl(2) and dup(2).
    pub fn set_terminal(&mut self, master: OwnedFd) -> Result<Streams, Errno> {
        non_blocking(&master)?;
        let stdin = if self.stdin { Some(fcntl_dupfd_cloexec(&master, 3)?) } else { None };
        let stdout = Some(fcntl_dupfd_cloexec(&master, 3)?);
        self.stdout = Some(master);
        Ok(Streams { stdin, stdout, stderr: None })
    }

    /// Whoever reads its output now does so alone: when he stops, the process is told (SIGPIPE, or SIGHUP of
    /// its terminal).
    pub fn let_go(&mut self) {
        if !self.orphaned {
            self.stdout = None;
            self.stderr = None;
        }
    }

    /// Nobody reads its output any more.
    pub fn orphaned(&mut self) {
        self.orphaned = true;
    }

    pub fn interests<'a>(&'a self, add: &mut impl FnMut(Interest<'a>)) {
        if self.orphaned {
            for (output, fd) in [(Output::Stdout, &self.stdout), (Output::Stderr, &self.stderr)] {
                if let Some(fd) = fd {
                    add(Interest { slot: Slot::Output(output), fd: fd.as_fd(), events: PollFlags::IN });
                }
            }
        }
    }

    /// Drops what an orphan wrote.
    pub fn ready(&mut self, slot: Slot, buffers: &mut Buffers) {
        let (Slot::Output(output), true) = (slot, self.orphaned) else { return };
        let end = match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        };
        if let Some(fd) = end {
            match rustix::io::read(&*fd, buffers.input()) {
                Ok(0) => *end = None,
                Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => *end = None,
            }
        }
    }

    /// As [`ContainerIo::resize`](super::ContainerIo::resize).
    ///
    /// # Errors
    /// ENOTTY without a terminal; those of TIOCSWINSZ.
    pub fn resize(&self, columns: u16, rows: u16) -> Result<(), Errno> {
        let master = self.stdout.as_ref().filter(|_| self.tty).ok_or(Errno::NOTTY)?;
        resize(master.as_fd(), columns, rows)
    }
}

#[cfg(test)]
impl ExecIo {
    pub fn stdout_is_open(&self) -> bool {
        self.stdout.is_some()
    }
}
