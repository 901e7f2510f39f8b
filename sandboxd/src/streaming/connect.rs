//! A connection to a port of a pod.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream as StdStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::oneshot;

use super::StreamingError;
use crate::pod::model::{Pod, PodState};
use crate::pod::spec::NetworkMode;

/// For one address: on the same machine an answer comes at once, unless a listener is stuck.
const CONNECT: Duration = Duration::from_secs(5);

/// Connects within the pod's network namespace: to its loopback, IPv4 then IPv6, then to the pod's own addresses,
/// for those who listen there alone.
///
/// # Errors
/// When the pod is not ready, or nobody listens.
pub(super) async fn connect(pod: &Pod, port: u16) -> Result<TcpStream, StreamingError> {
    let netns = namespace(pod)?;
    let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
    // On the host's network its addresses are not the pod's.
    let own: &[IpAddr] = if netns.is_some() { &pod.ips } else { &[] };
    let addresses: Vec<IpAddr> = loopback.iter().chain(own).copied().collect();
    let sockets = sockets(netns, addresses.clone()).await?;
    let mut tried = Vec::new();
    for (ip, socket) in addresses.into_iter().zip(sockets) {
        match one(socket, SocketAddr::new(ip, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => tried.push(format!("{ip}: {error}")),
        }
    }
    Err(StreamingError::Refused { port, tried: tried.join("; ") })
}

/// Where the pod's network namespace is pinned; `None`: it is on the host's network.
///
/// # Errors
/// When the pod is not ready.
pub(super) fn namespace(pod: &Pod) -> Result<Option<PathBuf>, StreamingError> {
    let not_ready = || StreamingError::PodNotReady { pod: pod.id.clone() };
    if pod.state != PodState::Ready {
        return Err(not_ready());
    }
    match pod.spec.namespaces.network {
        NetworkMode::Node => Ok(None),
        NetworkMode::Pod => pod.netns_path.clone().map(Some).ok_or_else(not_ready),
    }
}

async fn one(socket: io::Result<OwnedFd>, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::from_std_stream(StdStream::from(socket?));
    let connected = tokio::time::timeout(CONNECT, socket.connect(address)).await;
    let stream = connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A socket for each address: it belongs to the namespace in which it is made, whoever connects it.
async fn sockets(
    netns: Option<PathBuf>,
    addresses: Vec<IpAddr>,
) -> Result<Vec<io::Result<OwnedFd>>, StreamingError> {
    let Some(path) = netns else { return Ok(make(&addresses)) };
    let (made, answer) = oneshot::channel();
    let entered = move || {
        let netns = File::open(&path)?;
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(make(&addresses))
    };
    // setns(2) changes the calling thread alone: a thread of its own, which ends with the call.
    let thread = std::thread::Builder::new().name("pod-sockets".into()).spawn(move || {
        // A client that went meanwhile wants nothing.
        let _ = made.send(entered());
    });
    let failed = |source| StreamingError::Io { action: "making a socket in the pod's network", source };
    thread.map_err(failed)?;
    answer.await.map_err(|_| failed(io::Error::other("its thread ended")))?.map_err(failed)
}

fn make(addresses: &[IpAddr]) -> Vec<io::Result<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    addresses
        .iter()
        .map(|ip| {
            let family = if ip.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
            Ok(socket_with(family, SocketType::STREAM, flags, None)?)
        })
        .collect()
}
