//! The infra container of the pod.
//!
//! ```text
//! shim                                   infra container
//! fork ──────── clone3 ────────────────▶ waits for its maps
//! configure: maps, oom score
//!      ── Mapped ──────────────────────▶ settle, limits, rootfs
//!      ◀─────────── Ready{warnings} ──── waits for start
//!      ── Go ──────────────────────────▶ cgroup namespace, ids, capabilities, seccomp
//!      ◀─────────── end of file ──────── exec
//! ```
//!
//! Any failure of the container comes as `Failed` instead of the awaited answer, and the process ends.

mod fork;
mod process;
mod rootfs;
#[cfg(test)]
mod tests;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use sandboxd_shim::plan::Plan;
use sandboxd_shim::proto::{Exit, Failure, decode, encode};
use sandboxd_shim::wire;
use serde::{Deserialize, Serialize};

use crate::container::child::{self, readable};
use crate::kernel::{Forked, Linux};
use crate::step::{Step, StepError};

pub use fork::write_maps;

/// How long each of its steps may take: milliseconds, on a machine that swaps seconds. The daemon waits longer.
const DEADLINE: Duration = Duration::from_secs(50);

/// Words between the shim and the process it forked.
#[derive(Debug, Serialize, Deserialize)]
enum Word {
    Mapped,
    /// With a copy of the pod's shared memory, where it has any.
    Ready {
        warnings: Vec<String>,
    },
    Go,
    Failed {
        step: String,
        errno: i32,
    },
}

/// A made infra container.
#[derive(Debug)]
pub struct Infra {
    pub pid: i32,
    pub pidfd: OwnedFd,
    /// Until it is started.
    link: Option<OwnedFd>,
    pub exit: Option<Exit>,
}

/// Makes it, up to the point before exec. On an error nothing is left of it.
pub fn create(plan: &Plan, fds: &[OwnedFd]) -> Result<(Infra, Option<OwnedFd>, Vec<String>), Failure> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .step(|| "make a socket pair for the container".into())
        .map_err(|error| error.failure(None))?;
    match fork::fork(&Linux, plan, fds).map_err(|error| error.failure(None))? {
        Forked::Child => {
            drop(ours);
            child(plan, theirs.as_fd())
        }
        Forked::Parent { pid, pidfd } => {
            drop(theirs);
            let mut infra = Infra { pid, pidfd, link: Some(ours), exit: None };
            let made = infra.finish_create(plan);
            made.map(|(shm, warnings)| (infra, shm, warnings))
        }
    }
}

impl Infra {
    fn finish_create(&mut self, plan: &Plan) -> Result<(Option<OwnedFd>, Vec<String>), Failure> {
        let made = (|| {
            let mut warnings =
                fork::configure(&Linux, plan, self.pid).map_err(|error| error.failure(None))?;
            self.say(&Word::Mapped)?;
            match self.hear()? {
                Some((Word::Ready { warnings: more }, shm)) => {
                    warnings.extend(more);
                    Ok((shm, warnings))
                }
                _ => Err(self.lost("make the container")),
            }
        })();
        if made.is_err() {
            self.kill();
        }
        made
    }

    pub fn started(&self) -> bool {
        self.link.is_none()
    }

    /// Lets it exec the pause. On an error nothing is left of it.
    pub fn start(&mut self) -> Result<(), Failure> {
        let started = match self.say(&Word::Go).and_then(|()| self.hear()) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(self.lost("start the container")),
            Err(failure) => Err(failure),
        };
        self.link = None;
        if started.is_err() {
            self.kill();
        }
        started
    }

    fn say(&self, word: &Word) -> Result<(), Failure> {
        let bytes = encode(word).map_err(|_| self.lost("write to the container"))?;
        let link = self.link.as_ref().ok_or_else(|| self.lost("write to the container"))?;
        wire::send(link.as_fd(), &bytes, &[]).map_err(|_| self.lost("write to the container"))
    }

    /// The container's next word; `None`: it has closed the socket, by exec or by its end.
    fn hear(&self) -> Result<Option<(Word, Option<OwnedFd>)>, Failure> {
        let link = self.link.as_ref().ok_or_else(|| self.lost("hear from the container"))?;
        match readable(link.as_fd(), Instant::now() + DEADLINE) {
            Ok(true) => {}
            _ => {
                let step = format!("hear from the container within {DEADLINE:?}");
                return Err(Failure { step, errno: libc::ETIMEDOUT, pid: Some(self.pid) });
            }
        }
        let received = wire::receive(link.as_fd()).map_err(|_| self.lost("hear from the container"))?;
        let Some(mut message) = received else { return Ok(None) };
        match decode(&message.bytes) {
            Ok(Word::Failed { step, errno }) => Err(Failure { step, errno, pid: Some(self.pid) }),
            Ok(word) => Ok(Some((word, message.fds.pop()))),
            Err(_) => Err(self.lost("hear from the container")),
        }
    }

    /// It went away without a word: killed from outside, or out of memory.
    fn lost(&self, action: &str) -> Failure {
        Failure { step: format!("{action}: it ended early"), errno: libc::ESRCH, pid: Some(self.pid) }
    }

    /// Takes the exit status if it has ended.
    pub fn reap(&mut self) {
        self.wait(WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
    }

    /// Kills it and, in a pid namespace of its own, everything in there, and waits for the end.
    pub fn kill(&mut self) -> Exit {
        if self.exit.is_none() {
            let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        }
        // It ends after all others in its pid namespace, and some of those are ours to wait for.
        while self.exit.is_none() {
            child::await_end(self.pidfd.as_fd(), None);
            self.reap();
        }
        self.exit.unwrap_or(Exit::Unknown)
    }

    fn wait(&mut self, options: WaitIdOptions) {
        if self.exit.is_some() {
            return;
        }
        loop {
            match waitid(WaitId::PidFd(self.pidfd.as_fd()), options) {
                Err(Errno::INTR) => {}
                Ok(None) => return,
                Ok(Some(status)) => {
                    self.exit = Some(match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => Exit::Code(code),
                        (None, Some(signal)) => Exit::Signal(signal),
                        (None, None) => Exit::Unknown,
                    });
                    return;
                }
                Err(_) => {
                    self.exit = Some(Exit::Unknown);
                    return;
                }
            }
        }
    }
}

/// The new process; never returns into the shim.
fn child(plan: &Plan, link: BorrowedFd<'_>) -> ! {
    let failed = match prepare(plan, link) {
        Ok(()) => {
            let Err(error) = process::enter(&Linux, plan, link);
            error
        }
        Err(Some(error)) => error,
        // The shim is gone.
        Err(None) => exit(),
    };
    let word = Word::Failed { step: failed.step, errno: failed.errno.raw_os_error() };
    if let Ok(bytes) = encode(&word) {
        // Where it was, or where `enter` has put it: the one that is no socket fails with ENOTSOCK or EBADF.
        // SAFETY: a number to try; nothing is read from or closed.
        let moved = unsafe { BorrowedFd::borrow_raw(process::REPORT_FD) };
        if wire::send(link, &bytes, &[]).is_err() {
            let _ = wire::send(moved, &bytes, &[]);
        }
    }
    exit()
}

fn prepare(plan: &Plan, link: BorrowedFd<'_>) -> Result<(), Option<StepError>> {
    await_word(link, |word| matches!(word, Word::Mapped))?;
    process::settle(&Linux, plan)?;
    let warnings = process::limits(&Linux, plan)?;
    let shm = rootfs::build(&Linux, plan)?;
    let bytes = encode(&Word::Ready { warnings }).map_err(|_| None)?;
    wire::send(link, &bytes, shm.as_ref().map(AsFd::as_fd).as_slice()).map_err(|_| None)?;
    drop(shm);
    await_word(link, |word| matches!(word, Word::Go))
}

fn await_word(link: BorrowedFd<'_>, expected: fn(&Word) -> bool) -> Result<(), Option<StepError>> {
    let received = wire::receive(link).ok().flatten().ok_or(None)?;
    match decode(&received.bytes) {
        Ok(word) if expected(&word) => Ok(()),
        _ => Err(None),
    }
}

fn exit() -> ! {
    // SAFETY: ends this process; no destructor of the shim's copy may run in it.
    unsafe { libc::_exit(127) }
}
