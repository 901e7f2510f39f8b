//! A container's standard input.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use super::non_blocking;

/// Where input goes, and what it has not taken yet.
#[derive(Debug)]
pub struct Stdin {
    to: To,
    /// What one read of a client gave, at most: while there is some, no client is read.
    backlog: Vec<u8>,
    once: bool,
    /// It ends when the backlog is written.
    ending: bool,
}

#[derive(Debug)]
enum To {
    /// A terminal that the child is about to make.
    Awaited,
    Open(OwnedFd),
    /// There is none, it was ended, or the container has closed it.
    Ended,
}

impl Stdin {
    fn new(to: To, once: bool) -> Self {
        Self { to, backlog: Vec::new(), once, ending: false }
    }

    pub fn none() -> Self {
        Self::new(To::Ended, false)
    }

    pub fn awaited(once: bool) -> Self {
        Self::new(To::Awaited, once)
    }

    pub fn open(fd: OwnedFd, once: bool) -> Result<Self, Errno> {
        non_blocking(&fd)?;
        Ok(Self::new(To::Open(fd), once))
    }

    /// The terminal that was awaited.
    pub fn connect(&mut self, fd: OwnedFd) -> Result<(), Errno> {
        non_blocking(&fd)?;
        // A terminal has no end of file but the one that a key makes.
        self.once = false;
        self.to = To::Open(fd);
        Ok(())
    }

    pub fn is_awaited(&self) -> bool {
        matches!(self.to, To::Awaited)
    }

    pub fn is_ended(&self) -> bool {
        matches!(self.to, To::Ended)
    }

    /// Whether clients may be read.
    pub fn takes_more(&self) -> bool {
        matches!(self.to, To::Open(_)) && self.backlog.is_empty() && !self.ending
    }

    /// What to poll for room.
    pub fn waits_for_room(&self) -> Option<BorrowedFd<'_>> {
        match &self.to {
            To::Open(fd) if !self.backlog.is_empty() => Some(fd.as_fd()),
            _ => None,
        }
    }

    /// Takes what a client wrote.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.backlog.is_empty() {
            let written = self.write(bytes);
            self.backlog.extend_from_slice(bytes.get(written..).unwrap_or_default());
        } else {
            self.backlog.extend_from_slice(bytes);
            self.flush();
        }
        self.settle();
    }

    /// Writes what there is room for.
    pub fn flush(&mut self) {
        let backlog = std::mem::take(&mut self.backlog);
        let written = self.write(&backlog);
        self.backlog = backlog;
        self.backlog.drain(..written);
        self.settle();
    }

    /// A client has ended its input.
    pub fn client_ended(&mut self) {
        self.ending |= self.once;
        self.settle();
    }

    fn write(&mut self, bytes: &[u8]) -> usize {
        let mut written = 0;
        while let (To::Open(fd), Some(rest)) =
            (&self.to, bytes.get(written..).filter(|rest| !rest.is_empty()))
        {
            match rustix::io::write(fd, rest) {
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Ok(count) => written += count,
                // The container has closed it.
                Err(_) => self.to = To::Ended,
            }
        }
        written
    }

    fn settle(&mut self) {
        if self.ending && self.backlog.is_empty() {
            self.to = To::Ended;
        }
        if self.is_ended() || self.backlog.is_empty() {
            self.backlog = Vec::new();
        }
    }
}
