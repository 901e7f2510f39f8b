//! The application containers of the pod.
//!
//! ```text
//! created ── Start ──▶ running ── its first process ends ──▶ ended
//!    └───────────────────┴──────────── Remove ────────────────┴──▶ nothing
//! ```
//!
//! How each is made: [`launch`]; what it sees: [`rootfs`]; what it may do: [`process`]; what is executed in it:
//! [`exec`].

pub mod child;
pub mod exec;
pub mod kill;
pub mod launch;
mod lookup;
pub mod oci;
mod process;
mod resolve;
mod rootfs;
pub mod stage;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::{Errno, fcntl_dupfd_cloexec};
use sandboxd_shim::plan::container::{Command, ContainerPlan, PidNs};
use sandboxd_shim::plan::{IdMaps, Net, Plan};
use sandboxd_shim::proto::Failure;

use crate::io::{Buffers, ChildFds, ContainerIo, Settings};
use crate::kernel::{Guest, Kernel, Linux, here};
use crate::step::{Step, StepError};
use child::Child;
use launch::{Launch, Link, launch};
use rootfs::{View, descriptor};

/// What containers share with the pod.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// Namespaces of the infra container to join (`CLONE_NEW…`).
    join: i32,
    maps: Option<IdMaps>,
}

impl Surroundings {
    pub fn of(plan: &Plan) -> Self {
        let own = &plan.namespaces;
        let join = [
            (own.user.is_some(), libc::CLONE_NEWUSER),
            (own.net != Net::Host, libc::CLONE_NEWNET),
            (own.ipc, libc::CLONE_NEWIPC),
            (own.uts, libc::CLONE_NEWUTS),
            (own.pid, libc::CLONE_NEWPID),
        ];
        let join = join.into_iter().filter(|(own, _)| *own).fold(0, |bits, (_, flag)| bits | flag);
        Self { join, maps: own.user.clone() }
    }

    fn has(&self, namespace: i32) -> bool {
        self.join & namespace != 0
    }

    /// The host's ids for ids of the pod's.
    fn host_ids(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        let Some(maps) = &self.maps else { return Some((uid, gid)) };
        let map = |lines: &[(u32, u32, u32)], id: u32| {
            lines.iter().find_map(|(inside, outside, length)| {
                let offset = id.checked_sub(*inside).filter(|offset| offset < length)?;
                outside.checked_add(offset)
            })
        };
        map(&maps.uids, uid).zip(map(&maps.gids, gid))
    }
}

/// A container.
#[derive(Debug)]
pub struct Container {
    pub id: String,
    pub child: Child,
    /// Until it is started.
    gate: Option<Gate>,
    /// `cgroup.procs` of v2 and `tasks` of v1 of its cgroups.
    cgroups: Vec<OwnedFd>,
    exec_cgroups: Option<exec::Cgroups>,
    seccomp: Option<Vec<u8>>,
    no_new_privs: bool,
    user: bool,
    pub io: ContainerIo,
    /// What carries it out, where the shim itself does not.
    oci: Option<oci::Carrier>,
}

/// How often it is looked for orphans that the end of a container waits for.
const STRANGERS: Duration = Duration::from_millis(5);

/// What a container that is not started waits at.
#[derive(Debug)]
enum Gate {
    Link(Link),
    /// `start` of the OCI runtime.
    Oci,
}

/// The process's ends of its streams.
#[derive(Debug)]
struct Ends {
    null: OwnedFd,
    child: ChildFds,
}

impl Ends {
    /// The user owns the pipes, so that it may open /dev/stdout.
    fn new(child: ChildFds, pod: &Surroundings, command: &Command) -> Result<Self, Errno> {
        let null = Linux.open(here(), "/dev/null", true)?;
        if let Some((uid, _)) = pod.host_ids(command.process.uid, command.process.gid) {
            for end in [&child.stdin, &child.stdout, &child.stderr].into_iter().flatten() {
                Linux.own(end.as_fd(), "", uid, None)?;
            }
        }
        Ok(Self { null, child })
    }

    fn streams(&self) -> [BorrowedFd<'_>; 3] {
        [&self.child.stdin, &self.child.stdout, &self.child.stderr]
            .map(|end| end.as_ref().unwrap_or(&self.null).as_fd())
    }
}

/// Makes a container, up to the point before exec. On an error nothing is left of it.
pub fn create(
    pod: &Surroundings,
    infra: BorrowedFd<'_>,
    target: Option<BorrowedFd<'_>>,
    plan: ContainerPlan,
    fds: Vec<OwnedFd>,
) -> Result<(Container, Vec<String>), Failure> {
    let host_ids = |uid, gid| pod.host_ids(uid, gid);
    let host_ids: Option<&stage::HostIds<'_>> = if pod.maps.is_some() { Some(&host_ids) } else { None };
    let outside = |error: StepError| error.failure(None);
    let cgroups = plan.cgroup.iter().map(|index| descriptor(&fds, *index)).collect::<Result<Vec<_>, _>>();
    let cgroups = cgroups.step(|| "find the container's cgroup".into()).map_err(outside)?;
    let (join, new) = namespaces(pod, infra, target, &plan.pid);
    let born = plan
        .exec_cgroups
        .as_ref()
        .map(|place| descriptor(&fds, place.dir).map(|dir| (dir, usize::from(place.instead_of))));
    let how = Launch {
        cgroups,
        born: born.transpose().step(|| "find the container's cgroup".into()).map_err(outside)?,
        oom_score_adj: plan.command.process.oom_score_adj,
        limits: &plan.command.process.rlimits,
        join,
        new: new | libc::CLONE_NEWNS,
    };
    let view = View {
        plan: &plan,
        fds: &fds,
        user: pod.maps.is_some(),
        net: pod.has(libc::CLONE_NEWNET),
        pid: pod.has(libc::CLONE_NEWPID),
        ipc: pod.has(libc::CLONE_NEWIPC),
    };
    let log = plan.log.map(|index| descriptor(&fds, index).and_then(|log| fcntl_dupfd_cloexec(log, 3)));
    let log = log.transpose().step(|| "take the log".into()).map_err(outside)?;
    let settings =
        Settings { stdin: plan.stdin, stdin_once: plan.stdin_once, tty: plan.command.terminal, log };
    let streams = || "make the container's streams".to_owned();
    let (mut io, theirs) = ContainerIo::new(settings).step(streams).map_err(outside)?;
    let ends = Ends::new(theirs, pod, &plan.command).step(streams).map_err(outside)?;
    let staged = stage::stage(&Linux, &plan, &fds, host_ids).map_err(outside)?;
    let launched =
        launch(&how, |link, warnings| match inside(&Linux, view, ends.streams(), link, warnings) {
            Err(Some(failed)) => failed,
            // The shim is gone.
            Err(None) => StepError { step: String::new(), errno: Errno::SRCH },
        });
    staged.clear(&Linux);
    let mut launched = launched?;
    if let Some(master) = launched.terminal.take()
        && let Err(error) = io.set_terminal(master).step(streams)
    {
        launched.child.kill();
        return Err(outside(error));
    }
    let command = plan.command;
    let mut fds: Vec<Option<OwnedFd>> = fds.into_iter().map(Some).collect();
    let mut take = |index: u8| fds.get_mut(usize::from(index)).and_then(Option::take);
    let container = Container {
        id: plan.id,
        child: launched.child,
        gate: Some(Gate::Link(launched.link)),
        exec_cgroups: plan
            .exec_cgroups
            .and_then(|where_| Some(exec::Cgroups::new(take(where_.dir)?, usize::from(where_.instead_of)))),
        cgroups: plan.cgroup.into_iter().filter_map(&mut take).collect(),
        seccomp: command.process.seccomp,
        no_new_privs: command.process.no_new_privs,
        user: pod.maps.is_some(),
        io,
        oci: None,
    };
    Ok((container, launched.warnings))
}

/// What to join, in order, and what to make.
fn namespaces<'a>(
    pod: &Surroundings,
    infra: BorrowedFd<'a>,
    target: Option<BorrowedFd<'a>>,
    pid: &PidNs,
) -> (Vec<(BorrowedFd<'a>, i32)>, i32) {
    let without_pid = pod.join & !libc::CLONE_NEWPID;
    let (first, of_infra, new) = match pid {
        PidNs::Pod => (None, pod.join, 0),
        // Beside the pod's: only a process that is in a pid namespace makes one beneath it (EINVAL).
        PidNs::New => (None, without_pid, libc::CLONE_NEWPID),
        PidNs::Node => (None, without_pid, 0),
        // Before the user namespace, for it need not be the target's pid namespace's owner.
        PidNs::Target(_) => (target.map(|target| (target, libc::CLONE_NEWPID)), without_pid, 0),
    };
    let infra = Some((infra, of_infra)).filter(|(_, namespaces)| *namespaces != 0);
    (first.into_iter().chain(infra).collect(), new)
}

/// The new process; comes back only with what failed, `None` where there is nobody to tell.
fn inside<K: Guest>(
    kernel: &K,
    view: View<'_>,
    streams: [BorrowedFd<'_>; 3],
    link: BorrowedFd<'_>,
    mut warnings: Vec<String>,
) -> Result<Infallible, Option<StepError>> {
    process::settle(kernel, view.user)?;
    if view.plan.cgroup_namespace {
        kernel.unshare(libc::CLONE_NEWCGROUP).step(|| "make the cgroup namespace".into())?;
    }
    // Never closed by a destructor: `keep` closes them, or gives their numbers to others.
    let built = ManuallyDrop::new(rootfs::build(kernel, view)?);
    let mut command = view.plan.command.clone();
    warnings.extend(process::clamp(kernel, &mut command)?);
    let streams = built.terminal.as_ref().map_or(streams, |(_, slave)| [slave.as_fd(); 3]);
    let master = built.terminal.as_ref().map(|(master, _)| master.as_fd());
    let label = built.label.as_ref().map(AsFd::as_fd);
    process::keep(kernel, &process::Keep { streams, link, label, master })?;
    // SAFETY: `keep` put them there.
    let (link, master) = unsafe {
        (
            BorrowedFd::borrow_raw(process::REPORT_FD),
            master.map(|_| BorrowedFd::borrow_raw(process::MASTER_FD)),
        )
    };
    if !launch::ready(link, warnings, master) {
        return Err(None);
    }
    process::enter(kernel, &command, command.process.seccomp.as_deref()).map_err(Some)
}

impl Container {
    pub fn started(&self) -> bool {
        self.gate.is_none()
    }

    /// Lets it exec its command. An error leaves it ended.
    pub fn start(&mut self) -> Result<(), Failure> {
        let started = match (self.gate.take(), &self.oci) {
            (None, _) => return Ok(()),
            (Some(Gate::Link(link)), _) => link.go(self.child.pid),
            (Some(Gate::Oci), carrier) => carrier.as_ref().map_or(Ok(()), |carrier| carrier.start(&self.id)),
        };
        if started.is_err() {
            self.child.kill();
        }
        started
    }

    /// Takes the exit status if it has ended, and what it left in its streams. What it leaves behind in a pid
    /// namespace that it shares goes with it.
    pub fn reap(&mut self, buffers: &mut Buffers) {
        if self.child.ended.is_none() && self.child.reap().is_some() {
            kill::kill_all(|| self.members());
            self.sweep();
            self.io.drain(buffers);
        }
    }

    /// To the first process, or to every process of the container.
    pub fn signal(&mut self, signal: i32, all: bool) -> Result<(), Errno> {
        if all && signal == libc::SIGKILL {
            kill::kill_all(|| self.members());
        } else if all {
            let first = self.child.pid;
            kill::signal_all(|| self.members().into_iter().filter(|pid| *pid != first).collect(), signal);
        }
        self.child.signal(signal)
    }

    /// Kills all of it, as far as it can be found.
    pub fn kill(&mut self, buffers: &mut Buffers) {
        self.child.signal(libc::SIGKILL).ok();
        let deadline = Instant::now() + child::KILL;
        let ended = |until| child::readable(self.child.pidfd.as_fd(), until) == Ok(true);
        while self.oci.is_some() && Instant::now() < deadline && !ended(Instant::now() + STRANGERS) {
            oci::reap_strangers(|pid| pid == self.child.pid);
        }
        child::await_end(self.child.pidfd.as_fd(), Some(deadline));
        self.reap(buffers);
        if let Some(cgroups) = &self.exec_cgroups {
            cgroups.sweep_last();
        }
        if let Some(carrier) = &self.oci {
            carrier.delete(&self.id);
        }
    }

    /// Removes the cgroups of execs that have ended.
    pub fn sweep(&self) {
        if let Some(cgroups) = &self.exec_cgroups {
            cgroups.sweep();
        }
    }

    /// The processes in its cgroup: all of them, where it has one.
    fn members(&self) -> Vec<i32> {
        // v2, which lists processes, is the last.
        let lists = self.cgroups.iter().rev();
        let mut found = lists.map(AsFd::as_fd).find_map(kill::members).unwrap_or_default();
        if let Some(cgroups) = &self.exec_cgroups {
            found.extend(cgroups.members());
        }
        found
    }
}
