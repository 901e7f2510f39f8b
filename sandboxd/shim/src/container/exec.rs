//! Processes executed in a running container.
//!
//! Each joins every namespace of the container through the pidfd of its first process. The daemon holds the
//! ends of their streams ([`crate::io::ExecIo`]).

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, unlinkat};
use rustix::io::Errno;
use sandboxd_shim::plan::container::{Command, ExecPlan};
use sandboxd_shim::proto::Failure;

use super::child::Child;
use super::launch::{Launch, launch};
use super::{Container, Ends, Surroundings, kill, launch as words, process, rootfs};
use crate::io::{ExecIo, Streams, Wanted};
use crate::kernel::{Guest, Kernel, Linux, here};
use crate::step::{Step, StepError};

/// For the cgroups of execs to get empty, when all their processes have ended.
const LAST_SWEEP: Duration = Duration::from_millis(100);

/// A cgroup in which each exec has one of its own.
#[derive(Debug)]
pub struct Cgroups {
    dir: OwnedFd,
    instead_of: usize,
    next: Cell<u32>,
    /// Names of those that are there.
    left: RefCell<Vec<String>>,
}

/// The cgroup of one exec.
#[derive(Debug)]
pub struct Cgroup {
    /// Below the container's.
    pub name: String,
    dir: OwnedFd,
    procs: OwnedFd,
}

/// A process that was executed.
#[derive(Debug)]
pub struct Exec {
    pub id: u64,
    pub container: String,
    pub child: Child,
    /// The connection that asked for it.
    pub client: u64,
    pub io: ExecIo,
    /// Nobody will ask for it again.
    pub released: bool,
    cgroup: Option<Cgroup>,
}

/// A process that was executed, and the daemon's ends of its streams.
#[derive(Debug)]
pub struct Executed {
    pub exec: Exec,
    pub streams: Streams,
    pub warnings: Vec<String>,
}

/// Executes a process in a container. On an error nothing is left of it.
pub fn execute(
    pod: &Surroundings,
    container: &Container,
    plan: ExecPlan,
    id: u64,
    client: u64,
) -> Result<Executed, Failure> {
    let outside = |error: StepError| error.failure(None);
    let streams = || "make the process's streams".to_owned();
    let mut command = plan.command;
    command.process.no_new_privs |= container.no_new_privs;
    let wanted = Wanted { stdin: plan.stdin, stdout: plan.stdout, stderr: plan.stderr };
    let (mut io, theirs, mut ours) = ExecIo::new(wanted, command.terminal).step(streams).map_err(outside)?;
    let ends = Ends::new(theirs, pod, &command).step(streams).map_err(outside)?;
    let cgroup = container.exec_cgroups.as_ref().and_then(Cgroups::make);
    let mut cgroups: Vec<BorrowedFd<'_>> = container.cgroups.iter().map(AsFd::as_fd).collect();
    if let (Some(own), Some(all)) = (&cgroup, &container.exec_cgroups)
        && let Some(place) = cgroups.get_mut(all.instead_of)
    {
        *place = own.procs.as_fd();
    }
    let mut join = libc::CLONE_NEWNS
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWCGROUP;
    // The one that cannot be joined by who is in it already.
    if container.user {
        join |= libc::CLONE_NEWUSER;
    }
    let born = cgroup.as_ref().zip(container.exec_cgroups.as_ref());
    let how = Launch {
        cgroups,
        born: born.map(|(own, all)| (own.dir.as_fd(), all.instead_of)),
        oom_score_adj: command.process.oom_score_adj,
        limits: &command.process.rlimits,
        join: vec![(container.child.pidfd.as_fd(), join)],
        new: 0,
    };
    let seccomp = container.seccomp.as_deref();
    // The shim's own: what the container has on /proc may be anything.
    let proc = Linux.open(here(), "/proc", false).step(|| "open /proc".into()).map_err(outside)?;
    let started = launch(&how, |link, warnings| {
        let with = With { user: container.user, seccomp, streams: ends.streams(), proc: proc.as_fd(), link };
        match inside(&Linux, command.clone(), &with, warnings) {
            Err(Some(failed)) => failed,
            Err(None) => StepError { step: String::new(), errno: Errno::SRCH },
        }
    })
    .and_then(|mut launched| {
        let go = launched.link.go(launched.child.pid).and_then(|()| match launched.terminal.take() {
            Some(master) => io.set_terminal(master).map(Some).step(streams).map_err(outside),
            None => Ok(None),
        });
        match go {
            Ok(terminal) => Ok((launched, terminal)),
            Err(failure) => {
                launched.child.kill();
                Err(failure)
            }
        }
    });
    match started {
        Ok((launched, terminal)) => {
            ours = terminal.unwrap_or(ours);
            let (child, container) = (launched.child, plan.container);
            let exec = Exec { id, container, child, client, io, released: false, cgroup };
            Ok(Executed { exec, streams: ours, warnings: launched.warnings })
        }
        Err(failure) => {
            drop(cgroup);
            container.sweep();
            Err(failure)
        }
    }
}

/// What the new process gets from the shim.
struct With<'a> {
    user: bool,
    seccomp: Option<&'a [u8]>,
    streams: [BorrowedFd<'a>; 3],
    /// The shim's /proc.
    proc: BorrowedFd<'a>,
    link: BorrowedFd<'a>,
}

/// The new process, as in [`super::inside`].
fn inside<K: Guest>(
    kernel: &K,
    mut command: Command,
    with: &With<'_>,
    mut warnings: Vec<String>,
) -> Result<Infallible, Option<StepError>> {
    let With { user, seccomp, streams, proc, link } = *with;
    process::settle(kernel, user)?;
    warnings.extend(process::clamp(kernel, &mut command)?);
    // Never closed by a destructor: `keep` closes them, or gives their numbers to others.
    let root = ManuallyDrop::new(rootfs::here_root(kernel)?);
    let terminal =
        if command.terminal { Some(rootfs::terminal(kernel, root.as_fd(), &command)?) } else { None };
    let terminal = ManuallyDrop::new(terminal);
    let label = command.label.as_ref().map(|_| kernel.open(proc, "self/attr/exec", true)).transpose();
    let label = label.step(|| "open /proc/self/attr/exec for the label".into())?;
    let label = ManuallyDrop::new(label);
    let streams = terminal.as_ref().map_or(streams, |(_, slave)| [slave.as_fd(); 3]);
    let master = terminal.as_ref().map(|(master, _)| master.as_fd());
    let label = label.as_ref().map(AsFd::as_fd);
    process::keep(kernel, &process::Keep { streams, link, label, master })?;
    // SAFETY: `keep` put them there.
    let (link, master) = unsafe {
        (
            BorrowedFd::borrow_raw(process::REPORT_FD),
            master.map(|_| BorrowedFd::borrow_raw(process::MASTER_FD)),
        )
    };
    if !words::ready(link, warnings, master) {
        return Err(None);
    }
    process::enter(kernel, &command, seccomp).map_err(Some)
}

impl Exec {
    /// One that a runtime made; without a cgroup of its own it is in the container's.
    pub fn of_runtime(
        id: u64,
        container: String,
        child: Child,
        client: u64,
        io: ExecIo,
        cgroup: Option<Cgroup>,
    ) -> Self {
        Self { id, container, child, client, io, released: false, cgroup }
    }

    /// Nobody will ask for it again; with `unread`, nobody reads what it writes.
    pub fn release(&mut self, unread: bool) {
        self.released = true;
        if unread {
            self.io.orphaned();
        } else {
            self.io.let_go();
        }
    }

    /// Kills it and all its descendants: by its cgroup, and, where it has none, down its tree, which misses
    /// those that have left it.
    pub fn kill(&mut self) {
        if let Some(cgroup) = &self.cgroup {
            // All at once where the kernel can; then they are waited for, and those that v1 has are killed.
            let _ = kernel_kills(cgroup);
            kill::kill_all(|| kill::members(cgroup.procs.as_fd()).unwrap_or_default());
        } else if self.child.reap().is_none() {
            let root = self.child.pid;
            kill::kill_all(|| kill::tree(root));
        }
        self.child.kill();
    }
}

/// `cgroup.kill` of cgroup v2.
fn kernel_kills(cgroup: &Cgroup) -> Result<(), Errno> {
    Linux.write(cgroup.dir.as_fd(), "cgroup.kill", b"1")
}

impl Cgroups {
    pub fn new(dir: OwnedFd, instead_of: usize) -> Self {
        Self { dir, instead_of, next: Cell::new(0), left: RefCell::default() }
    }

    /// `None` where none can be made: the exec goes without.
    pub fn make(&self) -> Option<Cgroup> {
        let name = format!("exec-{}", self.next.get());
        self.next.set(self.next.get().wrapping_add(1));
        let make = || {
            Linux.make_dir(self.dir.as_fd(), &name)?;
            let dir = Linux.open(self.dir.as_fd(), &name, false)?;
            // v1's `tasks` takes a process of one thread without a grace period of the kernel's.
            let tasks = Linux.open(dir.as_fd(), "tasks", true);
            let procs = tasks.or_else(|_| Linux.open(dir.as_fd(), "cgroup.procs", true))?;
            Ok::<_, Errno>(Cgroup { name: name.clone(), dir, procs })
        };
        let made = make().ok();
        self.left.borrow_mut().push(name);
        if made.is_none() {
            self.sweep();
        }
        made
    }

    /// Removes those that are empty by now.
    pub fn sweep(&self) {
        self.left.borrow_mut().retain(|name| {
            matches!(unlinkat(&self.dir, name, AtFlags::REMOVEDIR), Err(errno) if errno != Errno::NOENT)
        });
    }

    /// [`Self::sweep`] at the container's end: the kernel may let a process out of its cgroup a moment after it
    /// has told of its end.
    pub fn sweep_last(&self) {
        let deadline = Instant::now() + LAST_SWEEP;
        self.sweep();
        while !self.left.borrow().is_empty() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
            self.sweep();
        }
    }

    /// The processes in all of them.
    pub fn members(&self) -> Vec<i32> {
        let read = |name: &String| {
            let procs = Linux.open(self.dir.as_fd(), &format!("{name}/cgroup.procs"), false).ok()?;
            kill::members(procs.as_fd())
        };
        self.left.borrow().iter().filter_map(read).flatten().collect()
    }
}
