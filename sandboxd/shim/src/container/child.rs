//! Children of the shim's, by pidfd: how each ended, and when.

use std::cell::RefCell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
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

thread_local! {
    /// Children that were given up before they had ended. They have to be waited for all the same: the first
    /// process of a pid namespace does not end before all others in it are, also those whose parent is the shim.
    static STRAYS: RefCell<Vec<Rc<OwnedFd>>> = const { RefCell::new(Vec::new()) };
}

/// Descriptors that are readable when there is something for [`reap_strays`].
pub fn strays() -> Vec<Rc<OwnedFd>> {
    STRAYS.with_borrow(Clone::clone)
}

/// Waits for the strays that have ended.
pub fn reap_strays() {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    let runs = |pidfd: &Rc<OwnedFd>| matches!(waitid(WaitId::PidFd(pidfd.as_fd()), options), Ok(None));
    STRAYS.with_borrow_mut(|all| all.retain(runs));
}

/// Waits until a process has ended, and meanwhile for strays, which it may be waiting for itself. `false`: it has
/// not by the deadline.
pub fn await_end(pidfd: BorrowedFd<'_>, deadline: Option<Instant>) -> bool {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = left.and_then(|left| Timespec::try_from(left).ok());
        let strays = strays();
        let mut fds = vec![PollFd::new(&pidfd, PollFlags::IN)];
        fds.extend(strays.iter().map(|stray| PollFd::new(&**stray, PollFlags::IN)));
        let polled = poll(&mut fds, timeout.as_ref());
        if fds.first().is_some_and(|fd| !fd.revents().is_empty()) {
            return true;
        }
        reap_strays();
        if polled == Ok(0) || left.is_some_and(|left| left.is_zero()) {
            return false;
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.reap().is_none()
            && let Ok(pidfd) = fcntl_dupfd_cloexec(&self.pidfd, 3)
        {
            STRAYS.with_borrow_mut(|all| all.push(Rc::new(pidfd)));
        }
    }
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
            await_end(self.pidfd.as_fd(), Some(Instant::now() + KILL));
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
