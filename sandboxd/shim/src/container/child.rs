//! A child of the shim's, by its pidfd: how it ended, and when.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::time::{ClockId, Timespec, clock_gettime};
use sandboxd_shim::proto::{Ended, Exit};

/// How long a killed process may take to end before it is left to end by itself.
pub const KILL: Duration = Duration::from_secs(2);

/// A child, until it was waited for.
#[derive(Debug)]
pub struct Child {
    pub pid: i32,
    pub pidfd: OwnedFd,
    pub ended: Option<Ended>,
}

impl Child {
    pub fn new(pid: i32, pidfd: OwnedFd) -> Self {
        Self { pid, pidfd, ended: None }
    }

    /// Takes the exit status if it has ended.
    pub fn reap(&mut self) -> Option<Ended> {
        while self.ended.is_none() {
            let exit = match waitid(
                WaitId::PidFd(self.pidfd.as_fd()),
                WaitIdOptions::EXITED | WaitIdOptions::NOHANG,
            ) {
                Err(Errno::INTR) => continue,
                Ok(None) => break,
                Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                    (Some(code), _) => Exit::Code(code),
                    (None, Some(signal)) => Exit::Signal(signal),
                    (None, None) => Exit::Unknown,
                },
                Err(_) => Exit::Unknown,
            };
            self.ended = Some(Ended { exit, at_ns: now() });
        }
        self.ended
    }

    /// Sends a signal; none once it has ended.
    pub fn signal(&mut self, signal: i32) -> Result<(), Errno> {
        if self.reap().is_some() {
            return Ok(());
        }
        match raw_signal(self.pidfd.as_fd(), signal) {
            Err(Errno::SRCH) => Ok(()),
            other => other,
        }
    }

    /// Kills it and waits for the end, which a process that hangs in the kernel may put off.
    pub fn kill(&mut self) -> Option<Ended> {
        if self.reap().is_none() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
            let _ = readable(self.pidfd.as_fd(), Instant::now() + KILL);
        }
        self.reap()
    }
}

/// Any signal number, real-time ones too.
pub fn raw_signal(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), Errno> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
    // SAFETY: takes no pointers but the null one.
    let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0, 0) };
    if sent == 0 { Ok(()) } else { Err(crate::kernel::last_errno()) }
}

/// Waits until there is something to read, or the deadline.
pub fn readable(fd: BorrowedFd<'_>, deadline: Instant) -> Result<bool, Errno> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).map_err(|_| Errno::INVAL)?;
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&left)) {
            Err(Errno::INTR) => {}
            other => return other.map(|ready| ready > 0),
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub fn now() -> i64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}
