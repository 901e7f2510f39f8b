//! Requests for containers and for what is executed in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::PollFlags;
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use sandboxd_shim::plan::container::{ContainerPlan, ExecPlan, PidNs};
use sandboxd_shim::plan::oci::{OciExecPlan, OciPlan};
use sandboxd_shim::proto::{
    ContainerState, ExecVerb, Failure, Refusal, Reply, Request, Verb, Wanted as WantedStreams,
};

use super::{Event, trim};
use crate::container::child::Child;
use crate::container::exec::{self, Exec, Executed};
use crate::container::{self, Container, Surroundings, oci};
use crate::io::{Buffers, Streams, Wanted};

/// Containers of a pod, and processes executed at a time: far beyond what a pod has, and an end to what a
/// confused daemon can pile up.
const MAX_CONTAINERS: usize = 1024;
const MAX_EXECS: usize = 4096;

/// The pod as it is.
#[derive(Debug)]
pub struct Pod<'a> {
    /// `None`: a shim that has no pod.
    pub infra: Option<BorrowedFd<'a>>,
    /// Started, and not ended.
    pub alive: bool,
}

/// A reply and its descriptors.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub fds: Vec<OwnedFd>,
}

/// All containers of the pod.
#[derive(Debug)]
pub struct Containers {
    pod: Surroundings,
    all: Vec<Container>,
    execs: Vec<Exec>,
    next_exec: u64,
}

impl Containers {
    pub fn new(pod: Surroundings) -> Self {
        Self { pod, all: Vec::new(), execs: Vec::new(), next_exec: 1 }
    }

    /// How long to wait at most: asked before [`Containers::interests`].
    pub fn timeout(&mut self) -> Option<Duration> {
        self.all.iter_mut().filter_map(|container| container.io.timeout()).min()
    }

    /// What to poll.
    pub fn interests<'a>(&'a self, add: &mut impl FnMut(Event, BorrowedFd<'a>, PollFlags)) {
        for (index, container) in self.all.iter().enumerate() {
            if container.child.ended.is_none() {
                add(Event::End, container.child.pidfd.as_fd(), PollFlags::IN);
            }
            container.io.interests(&mut |interest| {
                add(Event::Container(index, interest.slot), interest.fd, interest.events);
            });
        }
        for (index, exec) in self.execs.iter().enumerate() {
            if exec.child.ended.is_none() {
                add(Event::End, exec.child.pidfd.as_fd(), PollFlags::IN);
            }
            exec.io.interests(&mut |interest| {
                add(Event::Exec(index, interest.slot), interest.fd, interest.events);
            });
        }
    }

    /// Moves what a stream has.
    pub fn pump(&mut self, event: Event, buffers: &mut Buffers) {
        match event {
            Event::Container(index, slot) => {
                if let Some(container) = self.all.get_mut(index) {
                    container.io.ready(slot, buffers);
                }
            }
            Event::Exec(index, slot) => {
                if let Some(exec) = self.execs.get_mut(index) {
                    exec.io.ready(slot, buffers);
                }
            }
            Event::Client(_) | Event::Listener | Event::End => {}
        }
    }

    /// Takes the exits that there are.
    pub fn reap(&mut self, buffers: &mut Buffers) {
        for container in &mut self.all {
            container.reap(buffers);
        }
        for exec in &mut self.execs {
            if exec.child.ended.is_none()
                && exec.child.reap().is_some()
                && let Some(container) = self.all.iter().find(|container| container.id == exec.container)
            {
                container.sweep();
            }
        }
        self.forget();
    }

    /// The daemon at this connection is gone.
    pub fn client_left(&mut self, client: u64) {
        for exec in self.execs.iter_mut().filter(|exec| exec.client == client) {
            exec.release(true);
        }
        self.forget();
    }

    /// Execs that have ended and that nobody will ask for.
    fn forget(&mut self) {
        self.execs.retain(|exec| !(exec.released && exec.child.ended.is_some()));
    }

    /// Kills all.
    pub fn kill(&mut self, buffers: &mut Buffers) {
        // All at once, so that they end at the same time.
        for container in &mut self.all {
            let _ = container.child.signal(libc::SIGKILL);
        }
        // Before the containers: the first process of a pid namespace waits for those in it.
        for mut exec in self.execs.drain(..) {
            exec.kill();
        }
        for mut container in self.all.drain(..) {
            container.kill(buffers);
        }
    }

    pub fn handle(
        &mut self,
        pod: &Pod<'_>,
        client: u64,
        request: Request,
        fds: Vec<OwnedFd>,
        buffers: &mut Buffers,
    ) -> Answer {
        let answer = match request {
            Request::CreateContainer(plan) => {
                let created = self.create(pod, *plan, fds);
                trim();
                created
            }
            Request::Exec(plan) => {
                let executed = self.execute(Asked::Shim(*plan), client);
                trim();
                executed
            }
            Request::ExecOci(plan) => self.execute(Asked::Oci(*plan), client),
            Request::Container { id, verb } => self.verb(&id, &verb, fds, buffers),
            Request::Process { exec, verb } => self.exec_verb(exec, &verb),
            Request::Create(_)
            | Request::Start
            | Request::State
            | Request::Kill
            | Request::SelfTest
            | Request::Shm
            | Request::CreateOci(_)
            | Request::CreateOciMapped(..)
            | Request::Far { .. } => Err(Not::Refused(Refusal::Malformed)),
        };
        match answer {
            Ok(answer) => answer,
            Err(Not::Refused(refusal)) => only(Reply::Refused(refusal)),
            Err(Not::Done(failure)) => only(Reply::NotDone(failure)),
        }
    }

    /// The one container of a shim that has no pod.
    pub fn create_oci(
        &mut self,
        plan: OciPlan,
        root: Option<(u32, u32)>,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let container = oci::create(plan, root, fds)?;
        let pid = container.child.pid;
        let pidfd = fcntl_dupfd_cloexec(&container.child.pidfd, 3);
        self.all.push(container);
        let reply = Reply::ContainerCreated { pid, warnings: Vec::new() };
        Ok(Answer { reply, fds: pidfd.into_iter().collect() })
    }

    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether a pid is one that is waited for here.
    pub fn has(&self, pid: i32) -> bool {
        let waited_for = |child: &Child| child.pid == pid && child.ended.is_none();
        self.all.iter().any(|container| waited_for(&container.child))
            || self.execs.iter().any(|exec| waited_for(&exec.child))
    }

    fn create(&mut self, pod: &Pod<'_>, plan: ContainerPlan, fds: Vec<OwnedFd>) -> Result<Answer, Not> {
        let infra = pod.infra.filter(|_| pod.alive).ok_or(Not::Refused(Refusal::Ended))?;
        if self.all.iter().any(|known| known.id == plan.id) || self.all.len() == MAX_CONTAINERS {
            return Err(Not::Refused(Refusal::Exists));
        }
        let target = match &plan.pid {
            PidNs::Target(id) => {
                let target = self.all.iter().find(|known| known.id == *id);
                let target = target.filter(|target| target.child.ended.is_none());
                Some(target.ok_or(Not::Refused(Refusal::Unknown))?.child.pidfd.as_fd())
            }
            PidNs::Pod | PidNs::New | PidNs::Node => None,
        };
        let (container, warnings) = container::create(&self.pod, infra, target, plan, fds)?;
        let pid = container.child.pid;
        let pidfd = fcntl_dupfd_cloexec(&container.child.pidfd, 3);
        self.all.push(container);
        Ok(Answer { reply: Reply::ContainerCreated { pid, warnings }, fds: pidfd.into_iter().collect() })
    }

    fn verb(
        &mut self,
        id: &str,
        verb: &Verb,
        fds: Vec<OwnedFd>,
        buffers: &mut Buffers,
    ) -> Result<Answer, Not> {
        let position = self.all.iter().position(|known| known.id == id);
        if let (Verb::Remove, None) = (verb, position) {
            return Ok(only(Reply::Removed { exit: None }));
        }
        let position = position.ok_or(Not::Refused(Refusal::Unknown))?;
        let container = self.all.get_mut(position).ok_or(Not::Refused(Refusal::Unknown))?;
        container.reap(buffers);
        let not_done = |action: &str, errno: Errno| {
            Not::Done(Failure { step: action.to_owned(), errno: errno.raw_os_error(), pid: None })
        };
        match *verb {
            Verb::Start => {
                let refusal = if container.child.ended.is_some() {
                    Some(Refusal::Ended)
                } else {
                    container.started().then_some(Refusal::AlreadyStarted)
                };
                if let Some(refusal) = refusal {
                    return Err(Not::Refused(refusal));
                }
                let started = container.start();
                container.reap(buffers);
                started?;
            }
            Verb::State => {
                let log = container.io.log_state();
                let state = ContainerState {
                    pid: container.child.pid,
                    started: container.started(),
                    exit: container.child.ended,
                    lost_bytes: log.lost_bytes,
                    log_errno: log.error,
                    missed_bytes: container.io.missed_by_clients(),
                };
                let pidfd = fcntl_dupfd_cloexec(&container.child.pidfd, 3);
                return Ok(Answer { reply: Reply::ContainerState(state), fds: pidfd.into_iter().collect() });
            }
            Verb::Signal { signal, all } => {
                container.signal(signal, all).map_err(|errno| not_done("signal the container", errno))?;
            }
            Verb::ReopenLog => {
                let log = fds.into_iter().next().ok_or(Not::Refused(Refusal::Malformed))?;
                container.io.reopen(log);
            }
            Verb::Attach(WantedStreams { stdin, stdout, stderr }) => {
                let streams = container.io.attach(Wanted { stdin, stdout, stderr });
                let streams = streams.map_err(|errno| not_done("attach to the container", errno))?;
                let (which, fds) = listed(streams);
                return Ok(Answer { reply: Reply::Attached(which), fds });
            }
            Verb::Resize { columns, rows } => {
                let resized = container.io.resize(columns, rows);
                resized.map_err(|errno| not_done("resize the container's terminal", errno))?;
            }
            Verb::Remove => {
                let _ = container.child.signal(libc::SIGKILL);
                // Its end may be waiting for theirs.
                for mut exec in self.execs.extract_if(.., |exec| exec.container == container.id) {
                    exec.kill();
                }
                container.kill(buffers);
                let gone = self.all.remove(position);
                trim();
                return Ok(only(Reply::Removed { exit: gone.child.ended }));
            }
        }
        Ok(only(Reply::Done))
    }

    fn execute(&mut self, asked: Asked, client: u64) -> Result<Answer, Not> {
        let name = match &asked {
            Asked::Shim(plan) => &plan.container,
            Asked::Oci(plan) => &plan.container,
        };
        let container = self.all.iter().find(|known| known.id == *name);
        let container = container.ok_or(Not::Refused(Refusal::Unknown))?;
        if !container.started() {
            return Err(Not::Refused(Refusal::NotStarted));
        }
        if container.child.ended.is_some() || self.execs.len() == MAX_EXECS {
            return Err(Not::Refused(Refusal::Ended));
        }
        let id = self.next_exec;
        self.next_exec += 1;
        let Executed { exec, streams, warnings } = match asked {
            Asked::Shim(plan) => exec::execute(&self.pod, container, plan, id, client)?,
            Asked::Oci(plan) => oci::execute(container, plan, id, client)?,
        };
        let (which, streams) = listed(streams);
        let pid = exec.child.pid;
        let mut fds = Vec::from_iter(fcntl_dupfd_cloexec(&exec.child.pidfd, 3));
        fds.extend(streams);
        self.execs.push(exec);
        Ok(Answer { reply: Reply::Executed { exec: id, pid, streams: which, warnings }, fds })
    }

    fn exec_verb(&mut self, id: u64, verb: &ExecVerb) -> Result<Answer, Not> {
        let known = self.execs.iter_mut().find(|exec| exec.id == id);
        let exec = match (known, verb) {
            (Some(exec), _) => exec,
            (None, ExecVerb::Kill | ExecVerb::Release { .. }) => return Ok(only(Reply::Done)),
            (None, _) => return Err(Not::Refused(Refusal::Unknown)),
        };
        match *verb {
            ExecVerb::State => return Ok(only(Reply::ExecState { exit: exec.child.reap() })),
            ExecVerb::Resize { columns, rows } => {
                exec.io.resize(columns, rows).map_err(|errno| {
                    let step = "resize the process's terminal".to_owned();
                    Not::Done(Failure { step, errno: errno.raw_os_error(), pid: Some(exec.child.pid) })
                })?;
            }
            ExecVerb::Kill => exec.kill(),
            ExecVerb::Release { drop } => {
                exec.release(drop);
                exec.child.reap();
                self.forget();
            }
        }
        Ok(only(Reply::Done))
    }
}

/// What to execute, by whom.
#[expect(clippy::large_enum_variant, reason = "made for one request, moved once")]
enum Asked {
    Shim(ExecPlan),
    Oci(OciExecPlan),
}

/// Why there is no answer.
enum Not {
    Refused(Refusal),
    Done(Failure),
}

impl From<Failure> for Not {
    fn from(failure: Failure) -> Self {
        Self::Done(failure)
    }
}

fn only(reply: Reply) -> Answer {
    Answer { reply, fds: Vec::new() }
}

fn listed(streams: Streams) -> (WantedStreams, Vec<OwnedFd>) {
    let which = WantedStreams {
        stdin: streams.stdin.is_some(),
        stdout: streams.stdout.is_some(),
        stderr: streams.stderr.is_some(),
    };
    (which, [streams.stdin, streams.stdout, streams.stderr].into_iter().flatten().collect())
}
