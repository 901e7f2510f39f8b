//! Processes executed in a running container.
//!
//! The daemon holds the ends of their streams. The shim keeps a copy of those that are read: when the daemon is
//! gone it reads them itself, and drops what it reads, so that a process in flight is not stopped by a broken
//! pipe.

use std::cell::Cell;
use std::convert::Infallible;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use sandboxd_shim::plan::container::{Command, ExecPlan};
use sandboxd_shim::proto::{Failure, Wanted};

use super::child::Child;
use super::launch::{Launch, launch};
use super::{Container, Surroundings, kill, launch as words, process, resolve, rootfs};
use crate::kernel::{Guest, Kernel, Last, Linux, here};
use crate::step::{Step, StepError};

/// A cgroup in which each exec has one of its own.
#[derive(Debug)]
pub struct Cgroups {
    dir: OwnedFd,
    instead_of: usize,
    next: Cell<u32>,
}

/// The cgroup of one exec.
#[derive(Debug)]
struct Cgroup {
    dir: OwnedFd,
    name: String,
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
    /// What it writes to, held open for reading until it has ended.
    pub ends: Vec<OwnedFd>,
    pub master: Option<OwnedFd>,
    /// Nobody will ask for it again.
    pub released: bool,
    cgroup: Option<Cgroup>,
}

/// A process that was executed, and the daemon's ends of its streams.
#[derive(Debug)]
pub struct Executed {
    pub exec: Exec,
    pub streams: Vec<OwnedFd>,
    pub which: Wanted,
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
    let mut command = plan.command;
    command.process.no_new_privs |= container.no_new_privs;
    let wanted = Wanted { stdin: plan.stdin, stdout: plan.stdout, stderr: plan.stderr && !command.terminal };
    let owner = pod.host_ids(command.process.uid, command.process.gid).map(|(uid, _)| uid);
    let mut pipes = Pipes::new(wanted, command.terminal, owner)
        .step(|| "make the process's streams".into())
        .map_err(outside)?;
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
    let how = Launch {
        cgroups,
        oom_score_adj: command.process.oom_score_adj,
        limits: &command.process.rlimits,
        join: vec![(container.child.pidfd.as_fd(), join)],
        new: 0,
    };
    let theirs = pipes.theirs();
    let seccomp = container.seccomp.as_deref();
    let launched = launch(&how, |link, warnings| {
        match inside(&Linux, container.user, command.clone(), seccomp, theirs, link, warnings) {
            Err(Some(failed)) => failed,
            Err(None) => StepError { step: String::new(), errno: Errno::SRCH },
        }
    });
    let launched = match launched.and_then(|mut launched| {
        launched.link.go(launched.child.pid).inspect_err(|_| drop(launched.child.kill()))?;
        Ok(launched)
    }) {
        Ok(launched) => launched,
        Err(failure) => {
            if let Some(cgroup) = cgroup {
                cgroup.remove();
            }
            return Err(failure);
        }
    };
    let (streams, ends, which) =
        pipes.ours(launched.terminal.as_ref(), wanted).step(|| "copy the process's streams".into()).map_err(
            |error| {
                // It runs, and nobody would hear of it.
                error.failure(None)
            },
        )?;
    let exec = Exec {
        id,
        container: plan.container,
        child: launched.child,
        client,
        ends,
        master: launched.terminal,
        released: false,
        cgroup,
    };
    Ok(Executed { exec, streams, which, warnings: launched.warnings })
}

/// The new process, as in [`super::inside`].
fn inside<K: Guest>(
    kernel: &K,
    user: bool,
    mut command: Command,
    seccomp: Option<&[u8]>,
    streams: [BorrowedFd<'_>; 3],
    link: BorrowedFd<'_>,
    mut warnings: Vec<String>,
) -> Result<Infallible, Option<StepError>> {
    process::settle(kernel, user)?;
    warnings.extend(process::clamp(kernel, &mut command)?);
    let root = rootfs::here_root(kernel)?;
    let terminal = if command.terminal { Some(rootfs::terminal(kernel, root.as_fd(), &command)?) } else { None };
    let label = match &command.label {
        // The container's own /proc: what else lies there does not take a label, and that is an error.
        Some(_) => {
            let label = kernel.resolve(root.as_fd(), resolve::relative("/proc"), Last::Follow);
            let label = label.and_then(|proc| kernel.open(proc.as_fd(), "thread-self/attr/exec", true));
            Some(label.step(|| "open /proc/thread-self/attr/exec for the label".into())?)
        }
        None => None,
    };
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
    /// Kills it and all its descendants: by its cgroup, and, where it has none, down its tree, which misses
    /// those that have left it.
    pub fn kill(&mut self) {
        match &self.cgroup {
            Some(cgroup) => {
                if kernel_kills(cgroup).is_err() {
                    kill::kill_members(std::iter::once(cgroup.procs.as_fd()));
                }
            }
            None if self.child.reap().is_none() => {
                let root = self.child.pid;
                kill::kill_all(|| kill::tree(root));
            }
            None => {}
        }
        self.child.kill();
    }

    /// It has ended: what it wrote is the daemon's to read, and its cgroup goes if it is empty.
    pub fn ended(&mut self) {
        self.ends.clear();
        if let Some(cgroup) = &self.cgroup {
            cgroup.remove();
        }
    }
}

/// `cgroup.kill` of cgroup v2.
fn kernel_kills(cgroup: &Cgroup) -> Result<(), Errno> {
    Linux.write(cgroup.dir.as_fd(), "cgroup.kill", b"1")
}

impl Cgroups {
    pub fn new(dir: OwnedFd, instead_of: usize) -> Self {
        Self { dir, instead_of, next: Cell::new(0) }
    }

    /// `None` where none can be made: the exec goes without.
    fn make(&self) -> Option<Cgroup> {
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        let name = format!("exec-{number}");
        let make = || {
            Linux.make_dir(self.dir.as_fd(), &name)?;
            let dir = Linux.open(self.dir.as_fd(), &name, false)?;
            let procs = Linux.open(dir.as_fd(), "cgroup.procs", true)?;
            Ok::<_, Errno>((dir, procs))
        };
        match make() {
            Ok((dir, procs)) => Some(Cgroup { dir, name, procs }),
            Err(_) => {
                self.remove(&name);
                None
            }
        }
    }

    fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.dir, name, AtFlags::REMOVEDIR);
    }

    /// Removes those that are left and empty.
    pub fn clear(&self) {
        for number in 0..self.next.get() {
            self.remove(&format!("exec-{number}"));
        }
    }
}

impl Cgroup {
    fn remove(&self) {
        let _ = rustix::fs::unlinkat(&self.dir, format!("../{}", self.name), AtFlags::REMOVEDIR);
    }
}

/// Pipes, or what stands for those that nobody wants.
struct Pipes {
    null: OwnedFd,
    /// Of stdin, stdout, stderr: (the process's end, ours).
    ends: [Option<(OwnedFd, OwnedFd)>; 3],
}

impl Pipes {
    fn new(wanted: Wanted, terminal: bool, owner: Option<u32>) -> Result<Self, Errno> {
        let null = Linux.open(here(), "/dev/null", true)?;
        let make = |wanted: bool, input: bool| {
            if !wanted || terminal {
                return Ok(None);
            }
            let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
            let (theirs, ours) = if input { (read, write) } else { (write, read) };
            // So that it may open /dev/stdout.
            if let Some(uid) = owner {
                Linux.own(theirs.as_fd(), "", uid, None)?;
            }
            rustix::io::ioctl_fionbio(&ours, true)?;
            Ok(Some((theirs, ours)))
        };
        let ends = [make(wanted.stdin, true)?, make(wanted.stdout, false)?, make(wanted.stderr, false)?];
        Ok(Self { null, ends })
    }

    fn theirs(&self) -> [BorrowedFd<'_>; 3] {
        let [stdin, stdout, stderr] = &self.ends;
        [stdin, stdout, stderr].map(|end| end.as_ref().map_or(self.null.as_fd(), |(theirs, _)| theirs.as_fd()))
    }

    /// The daemon's ends, copies of those that are read, and which there are.
    fn ours(
        &mut self,
        master: Option<&OwnedFd>,
        wanted: Wanted,
    ) -> Result<(Vec<OwnedFd>, Vec<OwnedFd>, Wanted), Errno> {
        let (mut streams, mut copies) = (Vec::new(), Vec::new());
        if let Some(master) = master {
            for _ in [wanted.stdin, wanted.stdout].iter().filter(|wanted| **wanted) {
                streams.push(rustix::io::fcntl_dupfd_cloexec(master, 3)?);
            }
            return Ok((streams, copies, wanted));
        }
        for (input, end) in [true, false, false].into_iter().zip(&mut self.ends) {
            let Some((_, ours)) = end.take() else { continue };
            if !input {
                copies.push(rustix::io::fcntl_dupfd_cloexec(&ours, 3)?);
            }
            streams.push(ours);
        }
        Ok((streams, copies, wanted))
    }
}
