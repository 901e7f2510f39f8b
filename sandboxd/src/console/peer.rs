//! Who is at the other end of a connection: what the kernel says of a unix socket's peer, or what a client's
//! certificate says. Read once, when the connection is accepted.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::daemon::Connection;

/// The other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A process of this machine, as it was when it connected (SO_PEERCRED, SO_PEERGROUPS).
    Process {
        uid: u32,
        gid: u32,
        groups: Vec<u32>,
    },
    /// A client whose certificate was verified: its subject.
    Certificate {
        common_name: String,
        organizations: Vec<String>,
    },
    Unknown,
}

/// A connection of a console.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    peer: Peer,
    /// One of the places for connections from the network.
    _place: Option<OwnedSemaphorePermit>,
}

#[derive(Debug)]
enum Stream {
    Unix(Connection),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Link {
    #[must_use]
    pub fn unix(stream: Connection) -> Self {
        Self { peer: process(stream.socket()), stream: Stream::Unix(stream), _place: None }
    }

    /// A connection whose handshake is done.
    #[must_use]
    pub(super) fn tls(stream: TlsStream<TcpStream>, place: OwnedSemaphorePermit) -> Self {
        Self { peer: certificate(&stream), stream: Stream::Tls(Box::new(stream)), _place: Some(place) }
    }
}

impl Connected for Link {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

fn process(stream: &UnixStream) -> Peer {
    let Ok(credentials) = stream.peer_cred() else { return Peer::Unknown };
    let groups = peer_groups(stream).unwrap_or_else(|error| {
        tracing::warn!(%error, uid = credentials.uid(), "the groups of a console's process are not known");
        Vec::new()
    });
    Peer::Process { uid: credentials.uid(), gid: credentials.gid(), groups }
}

/// More groups than a process can have (NGROUPS_MAX).
const GROUPS_MAX: usize = 65_536;

/// The supplementary groups of the process that connected, as it connected.
fn peer_groups(socket: impl AsFd) -> io::Result<Vec<u32>> {
    let fd = socket.as_fd();
    let mut groups = vec![0u32; 64];
    loop {
        let mut bytes = libc::socklen_t::try_from(size_of_val(groups.as_slice())).unwrap_or(0);
        // SAFETY: `groups` is writable for `bytes` bytes, both outlive the call, and any bytes make valid u32s.
        let asked = unsafe {
            libc::getsockopt(
                fd.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut bytes,
            )
        };
        let needed = bytes as usize / size_of::<u32>();
        if asked == 0 {
            groups.truncate(needed);
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        // Too small: `bytes` is what it takes.
        if error.raw_os_error() != Some(libc::ERANGE) || needed <= groups.len() || needed > GROUPS_MAX {
            return Err(error);
        }
        groups.resize(needed, 0);
    }
}

fn certificate(stream: &TlsStream<TcpStream>) -> Peer {
    let (_, session) = stream.get_ref();
    // Verified by the handshake: here it is only read.
    let Some(own) = session.peer_certificates().and_then(<[_]>::first) else { return Peer::Unknown };
    subject(own)
}

/// What a certificate says of its owner. A name that is no text says nothing.
fn subject(der: &[u8]) -> Peer {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Peer::Unknown };
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().find_map(|name| name.as_str().ok()).unwrap_or_default();
    let organizations = subject.iter_organization().filter_map(|name| name.as_str().ok());
    Peer::Certificate {
        common_name: common_name.to_owned(),
        organizations: organizations.map(str::to_owned).collect(),
    }
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Unix(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_of_this_machine_is_known_by_its_ids() {
        let (one, _other) = UnixStream::pair().unwrap();
        let own = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        match Link::unix(Connection::new(one)).connect_info() {
            Peer::Process { uid, gid, groups } => {
                assert_eq!((uid, gid), own);
                let mine = nix::unistd::getgroups().unwrap();
                assert_eq!(groups, mine.iter().map(|gid| gid.as_raw()).collect::<Vec<_>>());
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_no_certificate_is_nobody() {
        assert_eq!(subject(b"nonsense"), Peer::Unknown);
    }
}
