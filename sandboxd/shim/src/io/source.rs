//! Where a container's output comes from.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use rustix::pty::OpenptFlags;

use super::buffers::Buffers;
use super::format::{Stamp, format};
use super::log::Log;
use super::{Output, non_blocking};

/// What a terminal may hold: its flip buffers (64 KiB) and its line discipline's buffer (4 KiB).
const TERMINAL_BYTES: usize = 128 * 1024;

/// An output stream and the line that was begun in it.
#[derive(Debug)]
pub struct Source {
    from: From,
    /// Without a newline yet, [`MAX_LINE`](super::format::MAX_LINE) bytes at most.
    begun: Vec<u8>,
}

#[derive(Debug)]
enum From {
    /// A terminal that the child is about to make.
    Awaited,
    Pipe(OwnedFd),
    Terminal {
        master: OwnedFd,
        /// Held, so that the terminal is not at its end while no process of the container happens to have it
        /// open (init systems close and reopen their console).
        _slave: Option<OwnedFd>,
    },
    Ended,
}

impl Source {
    fn new(from: From) -> Self {
        Self { from, begun: Vec::new() }
    }

    pub fn awaited() -> Self {
        Self::new(From::Awaited)
    }

    pub fn ended() -> Self {
        Self::new(From::Ended)
    }

    pub fn open(pipe: OwnedFd) -> Result<Self, Errno> {
        non_blocking(&pipe)?;
        Ok(Self::new(From::Pipe(pipe)))
    }

    pub fn terminal(master: OwnedFd) -> Result<Self, Errno> {
        non_blocking(&master)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags).ok();
        Ok(Self::new(From::Terminal { master, _slave: slave }))
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.from, From::Ended)
    }

    pub fn is_pipe(&self) -> bool {
        matches!(self.from, From::Pipe(_))
    }

    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.from {
            From::Pipe(fd) | From::Terminal { master: fd, .. } => Some(fd.as_fd()),
            From::Awaited | From::Ended => None,
        }
    }

    /// The most that can be in it; `None`: there is nothing to read from.
    pub fn capacity(&self) -> Option<usize> {
        match &self.from {
            From::Pipe(pipe) => Some(rustix::pipe::fcntl_getpipe_size(pipe).unwrap_or(TERMINAL_BYTES)),
            From::Terminal { .. } => Some(TERMINAL_BYTES),
            From::Awaited | From::Ended => None,
        }
    }

    /// Reads once. 0: the end. `None`: nothing there.
    pub fn read(&self, buffers: &mut Buffers) -> Option<usize> {
        let fd = self.fd()?;
        loop {
            match rustix::io::read(fd, buffers.input()) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return None,
                // EIO: no process has the terminal open.
                Err(_) => return Some(0),
                Ok(count) => return Some(count),
            }
        }
    }

    /// Writes the lines that the `count` bytes just read complete.
    pub fn log(&mut self, output: Output, count: usize, buffers: &mut Buffers, log: &mut Log) {
        let (bytes, room) = buffers.joined(&self.begun, count);
        let stamp = Stamp::now(output);
        let rest = format(bytes, self.begun.len(), &stamp, room, |batch| log.write(output, batch));
        if rest.is_empty() {
            // Most streams end their lines: they need no memory of their own between reads.
            self.begun = Vec::new();
        } else {
            self.begun.clear();
            self.begun.extend_from_slice(rest);
        }
    }

    /// Writes the line that was begun and never ended.
    pub fn finish(&mut self, output: Output, buffers: &mut Buffers, log: &mut Log) {
        let begun = std::mem::take(&mut self.begun);
        if !begun.is_empty() {
            let (bytes, room) = buffers.joined(&begun, 0);
            if let Some(record) = Stamp::now(output).partial(bytes, room) {
                log.write(output, record);
            }
        }
    }
}
