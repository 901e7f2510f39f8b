//! Port-forward into network namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use sandboxd_streaming::client::{Endpoint, Forward};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fake::room;
use crate::network::loopback_up;
use crate::pod::model::{Pod, PodState, test_pod};
use crate::pod::spec::NetworkMode;
use crate::streaming::StreamingError;
use crate::streaming::connect::connect;

/// A thread in a network namespace of its own, with an echo server there.
struct Echo {
    netns: PathBuf,
    port: u16,
    thread: Option<JoinHandle<()>>,
    /// Dropped, the thread ends.
    end: Option<mpsc::Sender<()>>,
}

impl Echo {
    /// `None`, with a word, where no namespace can be made.
    fn start(ip: &str) -> Option<Self> {
        let ip: IpAddr = ip.parse().unwrap();
        let (ready, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let thread = std::thread::spawn(move || {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            let netns: PathBuf = format!("/proc/self/task/{}/ns/net", nix::unistd::gettid()).into();
            loopback_up(std::fs::File::open(&netns).unwrap().as_fd()).unwrap();
            let listener = TcpListener::bind(SocketAddr::new(ip, 0)).unwrap();
            ready.send((netns, listener.local_addr().unwrap().port())).unwrap();
            listener.set_nonblocking(true).unwrap();
            while ended.try_recv() == Err(mpsc::TryRecvError::Empty) {
                let Ok((mut socket, _)) = listener.accept() else {
                    std::thread::sleep(std::time::Duration::from_millis(5));
                    continue;
                };
                socket.set_nonblocking(false).unwrap();
                let mut all = Vec::new();
                socket.read_to_end(&mut all).unwrap();
                socket.write_all(&all).unwrap();
            }
        });
        let Ok((netns, port)) = told.recv() else {
            println!("SKIPPED: no network namespace can be made");
            return None;
        };
        Some(Self { netns, port, thread: Some(thread), end: Some(end) })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

fn pod(echo: &Echo) -> Pod {
    Pod { state: PodState::Ready, netns_path: Some(echo.netns.clone()), ..test_pod("p") }
}

#[tokio::test]
async fn ipv4_then_ipv6_within_the_pod() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(echo) = Echo::start(ip) else { return };
        let mut stream = connect(&pod(&echo), echo.port).await.unwrap();
        stream.write_all(b"there and back").await.unwrap();
        stream.shutdown().await.unwrap();
        let mut all = String::new();
        stream.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "there and back", "{ip}");
    }
}

#[tokio::test]
async fn the_pods_own_address_is_tried_last() {
    let Some(echo) = Echo::start("127.0.0.9") else { return };
    let pod = Pod { ips: vec!["127.0.0.9".parse().unwrap()], ..pod(&echo) };
    connect(&pod, echo.port).await.unwrap();
}

#[tokio::test]
async fn where_nobody_listens_every_address_is_named() {
    let Some(echo) = Echo::start("127.0.0.1") else { return };
    let error = connect(&pod(&echo), if echo.port == 1 { 2 } else { 1 }).await.unwrap_err().to_string();
    let expected = "connecting to port 1 in the pod: 127.0.0.1: Connection refused (os error 111); ::1: ";
    assert!(error.starts_with(expected), "{error}");
}

#[tokio::test]
async fn a_pod_that_is_not_ready_is_not_connected_to() {
    for pod in [
        test_pod("creating"),
        Pod { state: PodState::NotReady, netns_path: Some("/x".into()), ..test_pod("stopped") },
        Pod { state: PodState::Ready, ..test_pod("without") },
    ] {
        assert!(matches!(connect(&pod, 80).await, Err(StreamingError::PodNotReady { .. })));
    }
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_is_reached_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut pod = Pod { state: PodState::Ready, ..test_pod("host") };
    pod.spec.namespaces.network = NetworkMode::Node;
    connect(&pod, listener.local_addr().unwrap().port()).await.unwrap();
}

#[tokio::test]
async fn through_the_server() {
    let Some(echo) = Echo::start("127.0.0.1") else { return };
    let room = room(false, false).await;
    let pod = pod(&echo);
    let url = {
        let mut place = room.node.pod.lock().unwrap();
        *place = Arc::new(pod);
        let id = place.id.to_string();
        drop(place);
        room.streaming.port_forward(&id, vec![]).unwrap()
    };
    let mut forward = Forward::open(&Endpoint::new(&url).unwrap()).await.unwrap();
    let mut forwarded = forward.connect(&echo.port.to_string(), true).await.unwrap();
    forwarded.writer.write_all(b"word").await.unwrap();
    forwarded.writer.shutdown().await.unwrap();
    let mut all = Vec::new();
    forwarded.reader.read_to_end(&mut all).await.unwrap();
    assert_eq!(all, b"word");
}
