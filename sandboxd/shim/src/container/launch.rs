//! From the shim into a container's namespaces.
//!
//! ```text
//! shim                      go-between                         the process
//! clone3 ─────────────────▶ cgroups, oom score, limits
//!                           joins by pidfd, the userns first
//!                           clone3(CLONE_PARENT) ────────────▶ a child of the shim
//!      ◀─ Born{pid} + pidfd ─ ends
//!      ◀─────────────────────────── Ready or Failed ────────── at work
//! ```
//!
//! A pid namespace is entered by being born there, and a process that has joined a user namespace does not come
//! back: hence the process between. All that takes the host's privileges it does before it joins.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use sandboxd_shim::plan::Rlimit;
use sandboxd_shim::proto::{Failure, decode, encode};
use sandboxd_shim::wire::{self, Received};
use serde::{Deserialize, Serialize};

use super::child::Child;
use crate::kernel::{Forked, Guest, Kernel, Linux, here};
use crate::step::{Step, StepError};

/// How long a container may take to be made, or to be executed: milliseconds, on a machine that swaps seconds.
/// So long the shim serves nobody else.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Words between the shim, the go-between and the process.
#[derive(Debug, Serialize, Deserialize)]
pub enum Word {
    /// With the pidfd.
    Born {
        pid: i32,
    },
    /// With the master of the terminal, if there is one.
    Ready {
        warnings: Vec<String>,
    },
    Go,
    Failed {
        step: String,
        errno: i32,
    },
}

/// What the go-between does.
#[derive(Debug)]
pub struct Launch<'a> {
    /// `cgroup.procs` of v2, `tasks` of v1, to be joined in this order.
    pub cgroups: Vec<BorrowedFd<'a>>,
    /// The directory of one of them, and which it is. In one of v2 the process is born: to move there, as with
    /// `cgroup.procs` of v1, waits for a grace period of the kernel's, some 7 ms.
    pub born: Option<(BorrowedFd<'a>, usize)>,
    pub oom_score_adj: Option<i32>,
    pub limits: &'a [Rlimit],
    /// A pidfd, and which of its namespaces to join; in this order.
    pub join: Vec<(BorrowedFd<'a>, i32)>,
    /// New namespaces of the process.
    pub new: i32,
}

/// The process, as the shim has it before it is told to go on.
#[derive(Debug)]
pub struct Launched {
    pub child: Child,
    pub link: Link,
    pub warnings: Vec<String>,
    pub terminal: Option<OwnedFd>,
}

/// The shim's end of the conversation.
#[derive(Debug)]
pub struct Link {
    socket: OwnedFd,
}

/// Makes the process, which runs `inside` and never returns from it. `inside` may answer with Ready or simply
/// exec: then the link ends, and that is an answer too. On an error nothing is left.
pub fn launch(
    launch: &Launch<'_>,
    inside: impl FnOnce(BorrowedFd<'_>, Vec<String>) -> StepError,
) -> Result<Launched, Failure> {
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .step(|| "make a socket pair for the container".into())
        .map_err(|error| error.failure(None))?;
    let (forked, born) = fork(launch).step(|| "fork".into()).map_err(|error| error.failure(None))?;
    let Forked::Parent { pid, pidfd } = forked else {
        drop(ours);
        go_between(launch, born, &theirs, inside)
    };
    drop(theirs);
    let mut between = Child::new(pid, pidfd);
    let link = Link { socket: ours };
    let launched = link.first_words();
    // It has nothing left to do, or is stuck.
    between.kill();
    launched
}

/// Says which of the cgroups the child is in already.
fn fork(launch: &Launch<'_>) -> Result<(Forked, Option<usize>), Errno> {
    if let Some((dir, position)) = launch.born
        && let Ok(forked) = Linux::fork_into(dir)
    {
        return Ok((forked, Some(position)));
    }
    Ok((Linux.clone3(0)?, None))
}

fn go_between(
    launch: &Launch<'_>,
    born: Option<usize>,
    link: &OwnedFd,
    inside: impl FnOnce(BorrowedFd<'_>, Vec<String>) -> StepError,
) -> ! {
    match enter(&Linux, launch, born) {
        Ok((Forked::Child, warnings)) => {
            let failed = inside(link.as_fd(), warnings);
            report(link.as_fd(), failed);
        }
        Ok((Forked::Parent { pid, pidfd }, _)) => {
            if let Ok(bytes) = encode(&Word::Born { pid }) {
                let _ = wire::send(link.as_fd(), &bytes, &[pidfd.as_fd()]);
            }
        }
        Err(error) => report(link.as_fd(), error),
    }
    // SAFETY: ends this process; no destructor of the shim's copy may run in it.
    unsafe { libc::_exit(127) }
}

/// The go-between's work. Returns in both processes, in the new one with the warnings.
pub fn enter<K: Guest>(
    kernel: &K,
    launch: &Launch<'_>,
    born: Option<usize>,
) -> Result<(Forked, Vec<String>), StepError> {
    let mut warnings = Vec::new();
    let cgroups = launch.cgroups.iter().enumerate().filter(|(position, _)| Some(*position) != born);
    for (_, procs) in cgroups {
        kernel.put(*procs, b"0").step(|| "join the container's cgroup".into())?;
    }
    if let Some(score) = launch.oom_score_adj {
        match kernel.write(here(), "/proc/self/oom_score_adj", score.to_string().as_bytes()) {
            Err(Errno::ACCESS | Errno::PERM) => warnings.push(format!(
                "oom_score_adj: asked for {score}, kept at the shim's own (CAP_SYS_RESOURCE is missing)"
            )),
            other => other.step(|| format!("set oom_score_adj to {score}"))?,
        }
    }
    for limit in launch.limits {
        // Only the initial user namespace's CAP_SYS_RESOURCE raises limits. Where it is missing the process
        // clamps and warns.
        let hard = kernel.hard_limit(limit.resource);
        let hard = hard.step(|| format!("read resource limit {}", limit.resource))?;
        if limit.hard > hard {
            let _ = kernel.limit(limit.resource, limit.hard, limit.hard);
        }
    }
    for (pidfd, namespaces) in &launch.join {
        kernel.join(*pidfd, *namespaces).step(|| format!("join the namespaces {}", names(*namespaces)))?;
    }
    let flags = u64::from((libc::CLONE_PARENT | launch.new).unsigned_abs());
    let forked = kernel.clone3(flags).step(|| "make the container's process (clone3)".into())?;
    Ok((forked, warnings))
}

fn names(flags: i32) -> String {
    let names = [
        (libc::CLONE_NEWUSER, "user"),
        (libc::CLONE_NEWNET, "net"),
        (libc::CLONE_NEWIPC, "ipc"),
        (libc::CLONE_NEWUTS, "uts"),
        (libc::CLONE_NEWPID, "pid"),
        (libc::CLONE_NEWNS, "mnt"),
        (libc::CLONE_NEWCGROUP, "cgroup"),
    ];
    let names: Vec<&str> =
        names.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| *name).collect();
    names.join(", ")
}

/// Tells the shim what failed, wherever the link is by now: `process::enter` moves it.
fn report(link: BorrowedFd<'_>, failed: StepError) {
    let word = Word::Failed { step: failed.step, errno: failed.errno.raw_os_error() };
    if let Ok(bytes) = encode(&word) {
        // The one that is no socket fails with ENOTSOCK or EBADF.
        // SAFETY: a number to try; nothing is read from or closed.
        let moved = unsafe { BorrowedFd::borrow_raw(super::process::REPORT_FD) };
        // Until it is moved, that number is the daemon's connection.
        if wire::send(link, &bytes, &[]).is_err() {
            let _ = wire::send(moved, &bytes, &[]);
        }
    }
}

impl Link {
    /// Born, and Ready or the end, in whatever order they come.
    fn first_words(self) -> Result<Launched, Failure> {
        let deadline = Instant::now() + DEADLINE;
        let mut born: Option<Child> = None;
        let mut ready = None;
        let failed = loop {
            match self.hear(deadline) {
                Ok(None) => match (born.take(), ready.take()) {
                    // It has executed its command, or ended: its exit will tell.
                    (Some(child), None) => {
                        return Ok(Launched { child, link: self, warnings: Vec::new(), terminal: None });
                    }
                    (unready, _) => {
                        born = unready;
                        break lost("make the container's process: it ended early", libc::ESRCH);
                    }
                },
                Ok(Some((Word::Born { pid }, mut fds))) => match fds.pop() {
                    Some(pidfd) => born = Some(Child::new(pid, pidfd)),
                    None => break lost("take the pidfd of the container's process", libc::EBADF),
                },
                Ok(Some((Word::Ready { warnings }, mut fds))) => ready = Some((warnings, fds.pop())),
                Ok(Some((Word::Failed { step, errno }, _))) => {
                    let pid = born.as_ref().map(|child| child.pid);
                    break Failure { step, errno, pid };
                }
                Ok(Some((Word::Go, _))) => {}
                Err(errno) => {
                    break lost("hear from the container's process", errno.raw_os_error());
                }
            }
            if born.is_some()
                && let Some((warnings, terminal)) = ready.take()
                && let Some(child) = born.take()
            {
                return Ok(Launched { child, link: self, warnings, terminal });
            }
        };
        // Whoever failed, the other may have spoken after it.
        while born.is_none()
            && let Ok(Some((word, mut fds))) = self.hear(deadline)
        {
            if let (Word::Born { pid }, Some(pidfd)) = (word, fds.pop()) {
                born = Some(Child::new(pid, pidfd));
            }
        }
        if let Some(mut child) = born {
            child.kill();
        }
        Err(failed)
    }

    /// Lets the process go on to its exec.
    pub fn go(&self, pid: i32) -> Result<(), Failure> {
        let deadline = Instant::now() + DEADLINE;
        let gone = |errno: i32| Failure {
            step: "start the container: its process is gone".into(),
            errno,
            pid: Some(pid),
        };
        let bytes = encode(&Word::Go).map_err(|_| gone(libc::EINVAL))?;
        wire::send(self.socket.as_fd(), &bytes, &[]).map_err(|errno| gone(errno.raw_os_error()))?;
        match self.hear(deadline) {
            Ok(None) => Ok(()),
            Ok(Some((Word::Failed { step, errno }, _))) => Err(Failure { step, errno, pid: Some(pid) }),
            Ok(Some(_)) => Err(gone(libc::EPROTO)),
            Err(errno) => Err(gone(errno.raw_os_error())),
        }
    }

    /// The next word; `None`: all that held the other end have executed or ended.
    fn hear(&self, deadline: Instant) -> Result<Option<(Word, Vec<OwnedFd>)>, Errno> {
        if !super::child::readable(self.socket.as_fd(), deadline)? {
            return Err(Errno::TIMEDOUT);
        }
        match wire::receive(self.socket.as_fd()) {
            Ok(None) | Err(Errno::CONNRESET) => Ok(None),
            Ok(Some(Received { bytes, fds })) => {
                decode(&bytes).map(|word| Some((word, fds))).map_err(|_| Errno::PROTO)
            }
            Err(errno) => Err(errno),
        }
    }
}

fn lost(step: &str, errno: i32) -> Failure {
    Failure { step: step.into(), errno, pid: None }
}

/// In the process: says Ready, waits to be told to go on. `false`: the shim is gone.
pub fn ready(link: BorrowedFd<'_>, warnings: Vec<String>, terminal: Option<BorrowedFd<'_>>) -> bool {
    let Ok(bytes) = encode(&Word::Ready { warnings }) else { return false };
    if wire::send(link, &bytes, terminal.as_slice()).is_err() {
        return false;
    }
    let Ok(Some(received)) = wire::receive(link) else { return false };
    matches!(decode(&received.bytes), Ok(Word::Go))
}
