//! The shim's loop: requests of the daemon, new daemons on the socket, the ends of processes, their streams.
//!
//! ```text
//! Idle ── Create ok ──▶ Made ── infra ends ──▶ Ended     Made and Ended outlive the daemon
//!   │                     │                      │
//!   └─ Create failed, ────┴── Kill, Start failed ┴──▶ the shim ends
//!      daemon gone
//! ```

mod containers;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sandboxd_shim::plan::oci::OciPlan;
use sandboxd_shim::plan::{Attrs, Plan, Source, SysfsKind};
use sandboxd_shim::proto::{
    Exit, Failure, ProtoError, Refusal, Reply, Request, SOCKET_NAME, decode, decode_any, encode,
};
use sandboxd_shim::wire::{self, Received};

use crate::container::{Surroundings, child, oci, stage};
use crate::infra::{self, Infra};
use crate::io::{Buffers, Slot};
use crate::kernel::{Kernel, Linux, here};
use crate::root;
use crate::selftest;
use crate::step::{Step, StepError};

use containers::{Answer, Containers};

/// Connections at a time: a daemon, and the next one while the first still lingers.
const MAX_CLIENTS: usize = 4;

/// A made pod, or a container that an OCI runtime carries out.
struct Made {
    /// Of the pod.
    pod: String,
    sysfs: SysfsKind,
    /// `None`: there is no pod here, only the container.
    infra: Option<Infra>,
    /// Where there is no pod: readable when a child has ended, also one that nobody asked for.
    ended: Option<OwnedFd>,
    listener: OwnedFd,
    containers: Containers,
}

/// A connection.
struct Client {
    number: u64,
    socket: OwnedFd,
}

/// What poll(2) reported.
#[derive(Debug, Clone, Copy)]
enum Event {
    Client(u64),
    Listener,
    /// A process has ended; all are asked.
    End,
    Container(usize, Slot),
    Exec(usize, Slot),
}

/// The shim.
pub struct Shim {
    made: Option<Made>,
    clients: Vec<Client>,
    next_client: u64,
    buffers: Buffers,
}

/// The shim ends, for a reason that its last reply has told.
struct End;

impl Shim {
    /// With the connection of the daemon that started it.
    pub fn new(daemon: OwnedFd) -> Self {
        let first = Client { number: 0, socket: daemon };
        Self { made: None, clients: vec![first], next_client: 1, buffers: Buffers::new() }
    }

    /// Serves until there is nothing left to serve.
    pub fn run(mut self) {
        while let Ok(()) = self.turn() {}
    }

    fn turn(&mut self) -> Result<(), End> {
        let events = self.wait();
        if let Some(made) = &mut self.made {
            // Streams first: what is here by index moves when an end is taken.
            for event in &events {
                made.containers.pump(*event, &mut self.buffers);
            }
            if events.iter().any(|event| matches!(event, Event::End)) {
                if let Some(infra) = &mut made.infra {
                    infra.reap();
                }
                made.containers.reap(&mut self.buffers);
                child::reap_strays();
            }
            if let Some(ended) = &made.ended {
                // Before they are looked at: who ends after that is told of again.
                let _ = rustix::io::read(ended, &mut [0u8; 8]);
                let containers = &made.containers;
                if oci::reap_strangers(|pid| containers.has(pid)) {
                    let _ = rustix::io::write(ended, &1u64.to_ne_bytes());
                }
            }
        }
        for event in events {
            match event {
                Event::Client(number) => self.serve(number)?,
                Event::Listener => self.accept(),
                Event::End | Event::Container(..) | Event::Exec(..) => {}
            }
        }
        if self.made.is_none() && self.clients.is_empty() { Err(End) } else { Ok(()) }
    }

    fn wait(&mut self) -> Vec<Event> {
        let timeout = self.made.as_mut().and_then(|made| made.containers.timeout());
        let timeout = timeout.and_then(|most| Timespec::try_from(most).ok());
        let strays = child::strays();
        let mut fds = Vec::new();
        let mut events = Vec::new();
        let mut add = |event, fd, flags| {
            events.push(event);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        };
        for client in &self.clients {
            add(Event::Client(client.number), client.socket.as_fd(), PollFlags::IN);
        }
        for stray in &strays {
            add(Event::End, stray.as_fd(), PollFlags::IN);
        }
        if let Some(made) = &self.made {
            add(Event::Listener, made.listener.as_fd(), PollFlags::IN);
            if let Some(ended) = &made.ended {
                add(Event::End, ended.as_fd(), PollFlags::IN);
            }
            if let Some(infra) = made.infra.as_ref().filter(|infra| infra.exit.is_none()) {
                add(Event::End, infra.pidfd.as_fd(), PollFlags::IN);
            }
            made.containers.interests(&mut add);
        }
        while let Err(Errno::INTR) = poll(&mut fds, timeout.as_ref()) {}
        let ready = events.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        ready.map(|(event, _)| *event).collect()
    }

    /// A restarted daemon. Only the user the shim itself runs as is listened to.
    fn accept(&mut self) {
        let Some(made) = &self.made else { return };
        let Ok(socket) = rustix::net::accept_with(&made.listener, SocketFlags::CLOEXEC) else { return };
        let own = rustix::process::geteuid();
        if !rustix::net::sockopt::socket_peercred(&socket).is_ok_and(|peer| peer.uid == own) {
            return;
        }
        if self.clients.len() == MAX_CLIENTS
            && let Some(oldest) = self.clients.first().map(|client| client.number)
        {
            self.leave(oldest);
        }
        self.clients.push(Client { number: self.next_client, socket });
        self.next_client += 1;
    }

    /// A connection has ended: what was executed for it has nobody who reads.
    fn leave(&mut self, number: u64) {
        self.clients.retain(|client| client.number != number);
        if let Some(made) = &mut self.made {
            made.containers.client_left(number);
        }
    }

    fn serve(&mut self, number: u64) -> Result<(), End> {
        let Some(client) = self.clients.iter().find(|client| client.number == number) else { return Ok(()) };
        let received = match wire::receive(client.socket.as_fd()) {
            Ok(Some(received)) => received,
            Err(Errno::MSGSIZE) => return self.reply(number, &Reply::Refused(Refusal::Malformed), &[]),
            Ok(None) | Err(_) => {
                self.leave(number);
                return Ok(());
            }
        };
        let Received { bytes, mut fds } = received;
        let mut request = decode::<Request>(&bytes);
        drop(bytes);
        if let Ok(Request::Far { length }) = request {
            request = far(&mut fds, length);
        }
        match request {
            Err(ProtoError::Version(theirs)) => {
                self.reply(number, &Reply::Refused(Refusal::Version(theirs)), &[])
            }
            Err(_) => self.reply(number, &Reply::Refused(Refusal::Malformed), &[]),
            Ok(request) => self.handle(number, request, fds),
        }
    }

    fn handle(&mut self, index: u64, request: Request, fds: Vec<OwnedFd>) -> Result<(), End> {
        match (request, &mut self.made) {
            (Request::Create(plan), None) => {
                let reply = self.create(&plan, &fds);
                drop(plan);
                trim();
                self.reply_with_pidfd(index, &reply)?;
                if self.made.is_some() { Ok(()) } else { Err(End) }
            }
            (Request::CreateOci(plan), None) => self.answer_oci(index, *plan, None, fds),
            (Request::CreateOciMapped(plan, root), None) => self.answer_oci(index, *plan, Some(root), fds),
            (Request::SelfTest, None) => {
                self.reply(index, &Reply::SelfTest(selftest::run()), &[])?;
                Err(End)
            }
            (
                Request::Create(_) | Request::CreateOci(_) | Request::CreateOciMapped(..) | Request::SelfTest,
                Some(_),
            ) => self.reply(index, &Reply::Refused(Refusal::AlreadyCreated), &[]),
            (Request::Kill, None) => {
                self.reply(index, &Reply::Killed { exit: Exit::Unknown }, &[])?;
                Err(End)
            }
            (Request::Far { .. }, _) => self.reply(index, &Reply::Refused(Refusal::Malformed), &[]),
            (_, None) => self.reply(index, &Reply::Refused(Refusal::NotCreated), &[]),
            (request, Some(made)) => match &mut made.infra {
                None => self.handle_oci(index, request, fds),
                Some(_) => self.handle_pod(index, request, fds),
            },
        }
    }

    /// A request to the shim of a pod.
    fn handle_pod(&mut self, index: u64, request: Request, fds: Vec<OwnedFd>) -> Result<(), End> {
        let Some(made) = &mut self.made else { return Ok(()) };
        let Some(infra) = &mut made.infra else { return Ok(()) };
        match request {
            Request::Start => {
                let refusal = if infra.exit.is_some() {
                    Some(Refusal::Ended)
                } else {
                    infra.started().then_some(Refusal::AlreadyStarted)
                };
                if let Some(refusal) = refusal {
                    return self.reply(index, &Reply::Refused(refusal), &[]);
                }
                match infra.start() {
                    Ok(()) => self.reply(index, &Reply::Started, &[]),
                    Err(failure) => {
                        self.reply(index, &Reply::Failed(failure), &[])?;
                        Err(End)
                    }
                }
            }
            Request::State => {
                let state = Reply::State {
                    pod: made.pod.clone(),
                    pid: infra.pid,
                    sysfs: made.sysfs,
                    started: infra.started(),
                    exit: infra.exit,
                };
                self.reply_with_pidfd(index, &state)
            }
            Request::Shm => {
                let answer = match Linux.copy_mount(here(), stage::SHM, true) {
                    Ok(copy) => Answer { reply: Reply::Done, fds: vec![copy] },
                    Err(errno) => {
                        let error = StepError { step: "copy the pod's shared memory".into(), errno };
                        Answer { reply: Reply::NotDone(error.failure(None)), fds: Vec::new() }
                    }
                };
                self.answer(index, &answer)
            }
            Request::Kill => {
                made.containers.kill(&mut self.buffers);
                let exit = infra.kill();
                self.reply(index, &Reply::Killed { exit }, &[])?;
                Err(End)
            }
            request => {
                let pod = containers::Pod {
                    infra: Some(infra.pidfd.as_fd()),
                    alive: infra.started() && infra.exit.is_none(),
                };
                let answer = made.containers.handle(&pod, index, request, fds, &mut self.buffers);
                self.answer(index, &answer)
            }
        }
    }

    /// A request to the shim of a container.
    fn handle_oci(&mut self, index: u64, request: Request, fds: Vec<OwnedFd>) -> Result<(), End> {
        let Some(made) = &mut self.made else { return Ok(()) };
        let pod = containers::Pod { infra: None, alive: false };
        let answer = made.containers.handle(&pod, index, request, fds, &mut self.buffers);
        let over = made.containers.is_empty();
        self.answer(index, &answer)?;
        if over { Err(End) } else { Ok(()) }
    }

    fn answer(&self, client: u64, answer: &Answer) -> Result<(), End> {
        let fds: Vec<BorrowedFd<'_>> = answer.fds.iter().map(AsFd::as_fd).collect();
        self.reply(client, &answer.reply, &fds)
    }

    fn answer_oci(
        &mut self,
        index: u64,
        plan: OciPlan,
        root: Option<(u32, u32)>,
        fds: Vec<OwnedFd>,
    ) -> Result<(), End> {
        let answer = match self.create_oci(plan, root, fds) {
            Ok(answer) => answer,
            Err(failure) => Answer { reply: Reply::NotDone(failure), fds: Vec::new() },
        };
        self.answer(index, &answer)?;
        if self.made.is_some() { Ok(()) } else { Err(End) }
    }

    fn create_oci(
        &mut self,
        plan: OciPlan,
        root: Option<(u32, u32)>,
        fds: Vec<OwnedFd>,
    ) -> Result<Answer, Failure> {
        let settled = null_streams().and_then(|()| oci::settle());
        let ended = settled.map_err(|error| error.failure(None))?;
        let words = || format!("listen on {}/{SOCKET_NAME}", plan.dir);
        let listener = listen(&plan.dir).and_then(|listener| Linux.change_dir("/").map(|()| listener));
        let listener = listener.step(words).map_err(|error| error.failure(None))?;
        let mut containers = Containers::new(Surroundings::default());
        let answer = containers.create_oci(plan, root, fds)?;
        let (pod, sysfs) = (String::new(), SysfsKind::None);
        self.made = Some(Made { pod, sysfs, infra: None, ended: Some(ended), listener, containers });
        Ok(answer)
    }

    fn reply_with_pidfd(&self, client: u64, reply: &Reply) -> Result<(), End> {
        let pidfd = self.made.as_ref().and_then(|made| made.infra.as_ref()).map(|infra| infra.pidfd.as_fd());
        self.reply(client, reply, pidfd.as_slice())
    }

    /// A client that cannot be answered has gone: the shim and its pod stay.
    fn reply(&self, client: u64, reply: &Reply, fds: &[BorrowedFd<'_>]) -> Result<(), End> {
        let client = self.clients.iter().find(|known| known.number == client);
        if let (Some(client), Ok(bytes)) = (client, encode(reply)) {
            let _ = wire::send(client.socket.as_fd(), &bytes, fds);
        }
        Ok(())
    }

    fn create(&mut self, plan: &Plan, fds: &[OwnedFd]) -> Reply {
        let made = prepare(plan, fds).map_err(|error| error.failure(None)).and_then(|listener| {
            let (mut infra, shm, warnings) = infra::create(plan, fds)?;
            let host = plan.mounts.iter().filter(|mount| matches!(mount.source, Source::Host(_))).count();
            let settled =
                root::drop_host(&Linux, host).and_then(|()| stage::for_good(&Linux, plan, shm.as_ref()));
            if let Err(error) = settled {
                infra.kill();
                return Err(error.failure(None));
            }
            Ok((infra, listener, warnings))
        });
        match made {
            Ok((infra, listener, warnings)) => {
                let pid = infra.pid;
                let containers = Containers::new(Surroundings::of(plan));
                let (pod, sysfs) = (plan.pod.clone(), plan.sysfs);
                self.made = Some(Made { pod, sysfs, infra: Some(infra), ended: None, listener, containers });
                Reply::Created { pid, warnings }
            }
            Err(failure) => Reply::Failed(failure),
        }
    }
}

/// The request in a memory file.
fn far(fds: &mut Vec<OwnedFd>, length: u32) -> Result<Request, ProtoError> {
    if fds.is_empty() {
        return Err(ProtoError::Malformed);
    }
    let file = fds.remove(0);
    let length = usize::try_from(length).map_err(|_| ProtoError::Malformed)?;
    let bytes = wire::unseal(file.as_fd(), length).map_err(|_| ProtoError::Malformed)?;
    decode_any(&bytes)
}

/// The mounts from the host, with the attributes that the plan wants on them.
fn host_mounts<'a>(plan: &Plan, fds: &'a [OwnedFd]) -> Result<Vec<(BorrowedFd<'a>, Attrs)>, StepError> {
    let mut mounts = Vec::new();
    for mount in &plan.mounts {
        let Source::Host(index) = mount.source else { continue };
        // In order and without gaps: /host/N is the plan's number N.
        let fd = fds.get(usize::from(index)).filter(|_| usize::from(index) == mounts.len());
        let fd = fd.ok_or(Errno::BADF).step(|| format!("find the host's mount for {}", mount.destination))?;
        mounts.push((fd.as_fd(), mount.attrs));
    }
    Ok(mounts)
}

/// The shim's own place: mount namespace, socket, root, standard streams.
fn prepare(plan: &Plan, fds: &[OwnedFd]) -> Result<OwnedFd, StepError> {
    root::leave_host(&Linux)?;
    let listener = listen(&plan.dir).step(|| format!("listen on {}/{SOCKET_NAME}", plan.dir))?;
    root::enter(&Linux, &plan.devices, &host_mounts(plan, fds)?)?;
    null_streams()?;
    Ok(listener)
}

/// /dev/null on the standard streams.
fn null_streams() -> Result<(), StepError> {
    let null = Linux.open(here(), "/dev/null", true).step(|| "open /dev/null".into())?;
    for stream in 0..=2 {
        // SAFETY: takes no pointers; 0 was taken over as the daemon's connection and moved away by `main`.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), stream) } < 0 {
            return Err(Errno::BADF).step(|| "put /dev/null on the standard streams".into());
        }
    }
    Ok(())
}

/// Binds in the shim's copy of the host's mounts, so that the socket keeps no mount of the host busy, and by a
/// relative name, so that the directory may be deeper than a socket address is long.
fn listen(dir: &str) -> Result<OwnedFd, Errno> {
    Linux.change_dir(dir)?;
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match rustix::fs::unlink(SOCKET_NAME) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(errno) => return Err(errno),
    }
    Linux.umask(0o177);
    let bound = rustix::net::bind(&socket, &SocketAddrUnix::new(SOCKET_NAME)?);
    Linux.umask(0o022);
    bound?;
    rustix::net::listen(&socket, 4)?;
    Ok(socket)
}

/// Gives the heap that a plan needed back to the kernel.
pub fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: frees only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
