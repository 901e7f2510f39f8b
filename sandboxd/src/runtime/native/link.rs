//! The daemon's end of a shim's socket: one request, one reply, each within a deadline.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandboxd_shim::proto::{self, Exit, MAX_MESSAGE, ProtoError, Refusal, Reply, Request, SOCKET_NAME};
use sandboxd_shim::wire;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, Ready};
use tokio::sync::Mutex;

use crate::runtime::RuntimeError;

/// A connection to a shim.
#[derive(Debug)]
pub struct Link {
    socket: AsyncFd<OwnedFd>,
    /// Answers still to come to calls that were cut short (cancelled, or too late). They are read and dropped
    /// before the next request, so that every answer belongs to its own.
    unread: Mutex<usize>,
    /// How the infra container ended, once any answer has told. Set before the next call has its turn: the
    /// shim that has answered Kill answers nothing more.
    exit: OnceLock<Exit>,
}

/// A reply and the descriptors that came with it.
#[derive(Debug)]
pub struct Answer {
    pub reply: Reply,
    pub fds: Vec<OwnedFd>,
}

impl Link {
    /// Our end of a pair, and the end that becomes the shim's standard input.
    pub fn pair() -> Result<(Self, OwnedFd), RuntimeError> {
        let action = || "making a socket pair for the shim".to_owned();
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|errno| failed(action(), errno))?;
        rustix::io::ioctl_fionbio(&ours, true).map_err(|errno| failed(action(), errno))?;
        Ok((Self::new(ours).map_err(|source| RuntimeError::Io { action: action(), source })?, theirs))
    }

    /// Connects to the shim that listens in a pod's directory; gives its pidfd and pid too. The kernel tells
    /// who listens: only a process of our own user is a shim of ours.
    pub fn connect(dir: &Path) -> Result<(Self, OwnedFd, i32), RuntimeError> {
        let path = dir.join(SOCKET_NAME);
        let action = || format!("connecting to the shim on {}", path.display());
        // By way of a descriptor: a socket address is shorter than a path may be.
        let connect = || {
            let dir =
                rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
            let raw = std::os::fd::AsRawFd::as_raw_fd(&dir);
            let address = SocketAddrUnix::new(format!("/proc/self/fd/{raw}/{SOCKET_NAME}"))?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
            rustix::net::connect(&socket, &address)?;
            let peer = socket_peercred(&socket)?;
            Ok((socket, peer))
        };
        let (socket, peer) = connect().map_err(|errno: Errno| match errno {
            Errno::NOENT | Errno::CONNREFUSED => gone(),
            errno => failed(action(), errno),
        })?;
        if peer.uid != rustix::process::geteuid() {
            return Err(RuntimeError::Shim {
                problem: format!(
                    "on {} runs as user {}, not as the daemon: it is none of ours",
                    path.display(),
                    peer.uid.as_raw()
                ),
            });
        }
        // The pid could be another's by now; the reply that follows proves it is not, for only a living
        // process answers.
        let pidfd = pidfd_open(peer.pid, PidfdFlags::empty()).map_err(|_| gone())?;
        let link = Self::new(socket).map_err(|source| RuntimeError::Io { action: action(), source })?;
        Ok((link, pidfd, Pid::as_raw(Some(peer.pid))))
    }

    fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self {
            socket: watch(socket, Interest::READABLE | Interest::WRITABLE)?,
            unread: Mutex::new(0),
            exit: OnceLock::new(),
        })
    }

    /// Asks, and waits for the answer. Cancel safe.
    ///
    /// # Errors
    /// [`RuntimeError::Shim`] where it is gone, late, or speaks another protocol.
    pub async fn call(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, RuntimeError> {
        let answer = self.ask(request, fds, deadline).await?;
        match answer.reply {
            Reply::Refused(refusal) => Err(refused(refusal)),
            _ => Ok(answer),
        }
    }

    /// As [`Link::call`]; a refusal is an answer.
    pub async fn ask(
        &self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, RuntimeError> {
        let mut bytes = proto::encode_any(request).map_err(too_large)?;
        let far;
        let mut with_far;
        let mut fds = fds;
        if bytes.len() > MAX_MESSAGE {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            far = wire::seal(&bytes).map_err(|errno| failed("sealing a long request".into(), errno))?;
            bytes = proto::encode(&Request::Far { length }).map_err(too_large)?;
            with_far = vec![far.as_fd()];
            with_far.extend(fds);
            fds = &with_far;
        }
        let mut unread = self.unread.lock().await;
        let exchange = async {
            while *unread > 0 {
                self.ready(Interest::READABLE, wire::receive).await?;
                *unread -= 1;
            }
            let send = |socket: BorrowedFd<'_>| {
                wire::send(socket, &bytes, fds)?;
                *unread += 1;
                Ok(())
            };
            self.ready(Interest::WRITABLE, send).await?;
            let received = self.ready(Interest::READABLE, wire::receive).await?;
            *unread -= 1;
            Ok(received)
        };
        let received = match tokio::time::timeout(deadline, exchange).await {
            Err(_) => return Err(problem(format!("did not answer within {deadline:?}"))),
            Ok(Err(Errno::PIPE | Errno::CONNRESET) | Ok(None)) => return Err(gone()),
            Ok(Err(errno)) => return Err(failed("talking to the pod's shim".into(), errno)),
            Ok(Ok(Some(received))) => received,
        };
        match proto::decode(&received.bytes) {
            Ok(reply @ (Reply::Killed { exit } | Reply::State { exit: Some(exit), .. })) => {
                let _ = self.exit.set(exit);
                Ok(Answer { reply, fds: received.fds })
            }
            Ok(reply) => Ok(Answer { reply, fds: received.fds }),
            Err(error @ (ProtoError::Version(_) | ProtoError::TooLong(_) | ProtoError::Malformed)) => {
                Err(problem(format!("sent what is no answer: {error}")))
            }
        }
    }

    /// How the infra container ended, as far as an answer has told.
    pub fn exit(&self) -> Option<Exit> {
        self.exit.get().copied()
    }

    async fn ready<T>(
        &self,
        interest: Interest,
        mut attempt: impl FnMut(BorrowedFd<'_>) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let waited_for = if interest.is_readable() { Ready::READABLE } else { Ready::WRITABLE };
        loop {
            let guard = self.socket.ready(interest).await;
            let mut guard = guard.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            match attempt(self.socket.get_ref().as_fd()) {
                Err(Errno::AGAIN) => guard.clear_ready_matching(waited_for),
                other => return other,
            }
        }
    }
}

/// Registers a descriptor with the runtime's reactor.
pub fn watch(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd stays the same open descriptor for as long as the AsyncFd owns it; nothing here takes
    // it out or closes it before.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}

fn too_large(error: ProtoError) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("the pod's request to its shim is too large: {error}") }
}

pub fn refused(refusal: Refusal) -> RuntimeError {
    problem(match refusal {
        Refusal::NotCreated => "has made no infra container yet".into(),
        Refusal::AlreadyCreated => "has made its infra container already".into(),
        Refusal::AlreadyStarted => "has started it already".into(),
        Refusal::Ended => "has seen it end".into(),
        Refusal::Version(ours) => format!("does not speak protocol version {ours}: it is of another release"),
        Refusal::Malformed => {
            "did not understand the daemon: one of an earlier release takes no environment that is not UTF-8; make \
             the pod anew"
                .into()
        }
        Refusal::Unknown => "knows no such container or process".into(),
        Refusal::Exists => "has such a container already".into(),
        Refusal::NotStarted => "has not started the container yet".into(),
        Refusal::NoStream => "has no such stream".into(),
    })
}

/// The shim is not there any more.
pub fn gone() -> RuntimeError {
    problem("is gone".into())
}

pub fn problem(problem: String) -> RuntimeError {
    RuntimeError::Shim { problem }
}

pub fn failed(action: String, errno: Errno) -> RuntimeError {
    RuntimeError::Io { action, source: errno.into() }
}
