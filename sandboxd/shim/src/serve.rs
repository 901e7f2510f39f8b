//! The shim's loop: requests of the daemon, new daemons on the socket, the end of the infra container.
//!
//! ```text
//! Idle ── Create ok ──▶ Made ── infra ends ──▶ Ended     Made and Ended outlive the daemon
//!   │                     │                      │
//!   └─ Create failed, ────┴── Kill, Start failed ┴──▶ the shim ends
//!      daemon gone
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sandboxd_shim::plan::{Attrs, Plan, Source, SysfsKind};
use sandboxd_shim::proto::{Exit, ProtoError, Refusal, Reply, Request, SOCKET_NAME, decode, encode};
use sandboxd_shim::wire::{self, Received};

use crate::infra::{self, Infra};
use crate::kernel::{Kernel, Linux, here};
use crate::root;
use crate::selftest;
use crate::step::{Step, StepError};

/// Connections at a time: a daemon, and the next one while the first still lingers.
const MAX_CLIENTS: usize = 4;

/// A made pod.
struct Made {
    pod: String,
    sysfs: SysfsKind,
    infra: Infra,
    listener: OwnedFd,
}

/// The shim.
pub struct Shim {
    made: Option<Made>,
    clients: Vec<OwnedFd>,
}

/// The shim ends, for a reason that its last reply has told.
struct End;

impl Shim {
    /// With the connection of the daemon that started it.
    pub fn new(daemon: OwnedFd) -> Self {
        Self { made: None, clients: vec![daemon] }
    }

    /// Serves until there is nothing left to serve.
    pub fn run(mut self) {
        while let Ok(()) = self.turn() {}
    }

    fn turn(&mut self) -> Result<(), End> {
        let ready = self.wait();
        if let Some(made) = &mut self.made {
            made.infra.reap();
        }
        // From the back: answering a client may drop it.
        for index in (0..ready.clients.len()).rev() {
            if ready.clients.get(index) == Some(&true) {
                self.serve(index)?;
            }
        }
        if ready.listener {
            self.accept();
        }
        if self.made.is_none() && self.clients.is_empty() { Err(End) } else { Ok(()) }
    }

    fn wait(&self) -> Ready {
        let mut fds: Vec<PollFd<'_>> = self.clients.iter().map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
        if let Some(made) = &self.made {
            fds.push(PollFd::new(&made.listener, PollFlags::IN));
            if made.infra.exit.is_none() {
                fds.push(PollFd::new(&made.infra.pidfd, PollFlags::IN));
            }
        }
        while let Err(Errno::INTR) = poll(&mut fds, None) {}
        let ready = |fd: &PollFd<'_>| !fd.revents().is_empty();
        Ready {
            clients: fds.iter().take(self.clients.len()).map(ready).collect(),
            listener: fds.get(self.clients.len()).is_some_and(ready),
        }
    }

    /// A restarted daemon. Only the user the shim itself runs as is listened to.
    fn accept(&mut self) {
        let Some(made) = &self.made else { return };
        let Ok(client) = rustix::net::accept_with(&made.listener, SocketFlags::CLOEXEC) else { return };
        let own = rustix::process::geteuid();
        if !rustix::net::sockopt::socket_peercred(&client).is_ok_and(|peer| peer.uid == own) {
            return;
        }
        if self.clients.len() == MAX_CLIENTS {
            self.clients.remove(0);
        }
        self.clients.push(client);
    }

    fn serve(&mut self, index: usize) -> Result<(), End> {
        let Some(client) = self.clients.get(index) else { return Ok(()) };
        let received = match wire::receive(client.as_fd()) {
            Ok(Some(received)) => received,
            Err(Errno::MSGSIZE) => return self.reply(index, &Reply::Refused(Refusal::Malformed), None),
            Ok(None) | Err(_) => {
                self.clients.remove(index);
                return Ok(());
            }
        };
        let Received { bytes, fds } = received;
        match decode::<Request>(&bytes) {
            Err(ProtoError::Version(theirs)) => {
                self.reply(index, &Reply::Refused(Refusal::Version(theirs)), None)
            }
            Err(_) => self.reply(index, &Reply::Refused(Refusal::Malformed), None),
            Ok(request) => {
                drop(bytes);
                self.handle(index, request, &fds)
            }
        }
    }

    fn handle(&mut self, index: usize, request: Request, fds: &[OwnedFd]) -> Result<(), End> {
        match (request, &mut self.made) {
            (Request::Create(plan), None) => {
                let reply = self.create(&plan, fds);
                drop(plan);
                trim();
                self.reply(index, &reply, self.pidfd())?;
                if self.made.is_some() { Ok(()) } else { Err(End) }
            }
            (Request::SelfTest, None) => {
                self.reply(index, &Reply::SelfTest(selftest::run()), None)?;
                Err(End)
            }
            (Request::Create(_) | Request::SelfTest, Some(_)) => {
                self.reply(index, &Reply::Refused(Refusal::AlreadyCreated), None)
            }
            (Request::Kill, None) => {
                self.reply(index, &Reply::Killed { exit: Exit::Unknown }, None)?;
                Err(End)
            }
            (Request::Start | Request::State, None) => {
                self.reply(index, &Reply::Refused(Refusal::NotCreated), None)
            }
            (Request::Start, Some(made)) => {
                let refusal = if made.infra.exit.is_some() {
                    Some(Refusal::Ended)
                } else {
                    made.infra.started().then_some(Refusal::AlreadyStarted)
                };
                if let Some(refusal) = refusal {
                    return self.reply(index, &Reply::Refused(refusal), None);
                }
                match made.infra.start() {
                    Ok(()) => self.reply(index, &Reply::Started, None),
                    Err(failure) => {
                        self.reply(index, &Reply::Failed(failure), None)?;
                        Err(End)
                    }
                }
            }
            (Request::State, Some(made)) => {
                let state = Reply::State {
                    pod: made.pod.clone(),
                    pid: made.infra.pid,
                    sysfs: made.sysfs,
                    started: made.infra.started(),
                    exit: made.infra.exit,
                };
                self.reply(index, &state, self.pidfd())
            }
            (Request::Kill, Some(made)) => {
                let exit = made.infra.kill();
                self.reply(index, &Reply::Killed { exit }, None)?;
                Err(End)
            }
        }
    }

    fn pidfd(&self) -> Option<BorrowedFd<'_>> {
        self.made.as_ref().map(|made| made.infra.pidfd.as_fd())
    }

    /// A client that cannot be answered has gone: the shim and its pod stay.
    fn reply(&self, index: usize, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> Result<(), End> {
        if let (Some(client), Ok(bytes)) = (self.clients.get(index), encode(reply)) {
            let _ = wire::send(client.as_fd(), &bytes, fd.as_slice());
        }
        Ok(())
    }

    fn create(&mut self, plan: &Plan, fds: &[OwnedFd]) -> Reply {
        let made = prepare(plan, fds).map_err(|error| error.failure(None)).and_then(|listener| {
            let (mut infra, warnings) = infra::create(plan, fds)?;
            let host = plan.mounts.iter().filter(|mount| matches!(mount.source, Source::Host(_))).count();
            if let Err(error) = root::drop_host(&Linux, host) {
                infra.kill();
                return Err(error.failure(None));
            }
            Ok((infra, listener, warnings))
        });
        match made {
            Ok((infra, listener, warnings)) => {
                let pid = infra.pid;
                self.made = Some(Made { pod: plan.pod.clone(), sysfs: plan.sysfs, infra, listener });
                Reply::Created { pid, warnings }
            }
            Err(failure) => Reply::Failed(failure),
        }
    }
}

struct Ready {
    clients: Vec<bool>,
    listener: bool,
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
    let null = Linux.open(here(), "/dev/null", true).step(|| "open /dev/null".into())?;
    for stream in 0..=2 {
        // SAFETY: takes no pointers; 0 was taken over as the daemon's connection and moved away by `main`.
        if unsafe { libc::dup2(std::os::fd::AsRawFd::as_raw_fd(&null), stream) } < 0 {
            return Err(Errno::BADF).step(|| "put /dev/null on the standard streams".into());
        }
    }
    Ok(listener)
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

/// Gives the heap that the plan needed back to the kernel.
fn trim() {
    #[cfg(target_env = "gnu")]
    // SAFETY: frees only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}
