//! A process that holds a systemd scope's place until a container's first process is in it: systemd makes no
//! scope without one, and takes an empty one away.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork};

/// Ends when it is dropped, and with the daemon.
#[derive(Debug)]
pub(super) struct Holder {
    pid: Pid,
    /// Its end tells the process to go, also when the daemon was killed.
    _alive: OwnedFd,
}

impl Holder {
    pub(super) fn start() -> io::Result<Self> {
        let (ending, alive) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
        let keep = ending.as_raw_fd();
        // SAFETY: the child of a process with threads may only make async-signal-safe calls until it ends:
        // it makes system calls and nothing else, and allocates nothing.
        match unsafe { fork() }? {
            ForkResult::Parent { child } => Ok(Self { pid: child, _alive: alive }),
            ForkResult::Child => wait_for_end(keep),
        }
    }

    pub(super) fn pid(&self) -> i32 {
        self.pid.as_raw()
    }
}

/// Reads until the other end of the pipe is closed.
fn wait_for_end(keep: i32) -> ! {
    let mut byte = 0u8;
    let keep = keep.cast_unsigned();
    // SAFETY: plain system calls on the child's own descriptors, which nothing in it uses afterwards: closing
    // them keeps no socket or lock of the daemon's alive. `byte` is valid for one byte.
    unsafe {
        if keep > 0 {
            libc::syscall(libc::SYS_close_range, 0, keep - 1, 0);
        }
        libc::syscall(libc::SYS_close_range, keep + 1, u32::MAX, 0);
        while libc::read(keep.cast_signed(), (&raw mut byte).cast(), 1) < 0 {}
        libc::_exit(0)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // A child that was not reaped: its pid is nobody else's.
        let _ = kill(self.pid, Signal::SIGKILL);
        let _ = waitpid(self.pid, None);
    }
}
