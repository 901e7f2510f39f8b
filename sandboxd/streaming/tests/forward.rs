//! Port-forward in every form.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use std::time::Duration;

use common::serve;
use sandboxd_streaming::client::{Channels, ClientError, Forward, Forwarded};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers with all that it was sent, once its client has ended.
async fn echo_server() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.unwrap();
                socket.write_all(&all).await.unwrap();
            });
        }
    });
    port
}

/// A port where nobody listens.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn round_trip(mut forwarded: Forwarded, bytes: &[u8]) {
    forwarded.writer.write_all(bytes).await.unwrap();
    forwarded.writer.shutdown().await.unwrap();
    let mut answer = Vec::new();
    forwarded.reader.read_to_end(&mut answer).await.unwrap();
    assert!(answer == bytes, "{} of {} bytes came back", answer.len(), bytes.len());
    answer.clear();
    forwarded.error.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"");
}

#[tokio::test]
async fn both_ends_are_closed_by_halves() {
    let server = serve().await;
    let port = echo_server().await.to_string();
    let mut forward = Forward::open(&server.forward(&[])).await.unwrap();
    for with_id in [true, false] {
        let forwarded = forward.connect(&port, with_id).await.unwrap();
        round_trip(forwarded, b"there and back").await;
    }
}

#[tokio::test]
async fn a_server_may_speak_first_and_end_first() {
    let server = serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut forward = Forward::open(&server.forward(&[])).await.unwrap();
    let mut forwarded = forward.connect(&port, true).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    socket.write_all(b"hello").await.unwrap();
    socket.shutdown().await.unwrap();
    let mut all = String::new();
    forwarded.reader.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "hello");
    forwarded.writer.write_all(b"still").await.unwrap();
    forwarded.writer.shutdown().await.unwrap();
    all.clear();
    socket.read_to_string(&mut all).await.unwrap();
    assert_eq!(all, "still");
}

#[tokio::test]
async fn a_hundred_at_once() {
    let server = serve().await;
    let port = echo_server().await.to_string();
    let mut forward = Forward::open(&server.forward(&[])).await.unwrap();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..100u32 {
        let forwarded = forward.connect(&port, true).await.unwrap();
        let bytes = n.to_be_bytes().repeat(1000);
        running.spawn(async move { round_trip(forwarded, &bytes).await });
    }
    while let Some(done) = running.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn through_a_websocket_tunnel() {
    let server = serve().await;
    let port = echo_server().await.to_string();
    let mut forward = Forward::tunnel(&server.forward(&[])).await.unwrap();
    for n in 0..5 {
        let forwarded = forward.connect(&port, true).await.unwrap();
        round_trip(forwarded, &vec![n; 300_000]).await;
    }
}

#[tokio::test]
async fn what_cannot_be_connected_to_is_said_on_the_error_stream() {
    let server = serve().await;
    let port = closed_port().await;
    let mut forward = Forward::open(&server.forward(&[])).await.unwrap();
    let mut forwarded = forward.connect(&port.to_string(), true).await.unwrap();
    let mut text = String::new();
    forwarded.error.read_to_string(&mut text).await.unwrap();
    let expected = format!("error forwarding port {port} to pod p: IPv4: Connection refused");
    assert!(text.starts_with(&expected), "{text}");
    // The connection goes on.
    let port = echo_server().await.to_string();
    round_trip(forward.connect(&port, true).await.unwrap(), b"ok").await;
}

#[tokio::test]
async fn streams_without_a_port_are_refused() {
    let server = serve().await;
    let mut forward = Forward::open(&server.forward(&[81])).await.unwrap();
    for port in ["", "0", "70000", "http", "80"] {
        let refused = forward.connect(port, true).await.unwrap_err();
        assert!(matches!(refused, ClientError::Stream), "{port}: {refused}");
    }
}

#[tokio::test]
async fn two_channels_a_port_over_websocket() {
    let server = serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = closed_port().await;
    for name in ["v4.channel.k8s.io", "v4.base64.channel.k8s.io"] {
        let mut channels = Channels::open(&server.forward(&[port, closed]), &[name]).await.unwrap();
        channels.send(0, b"ping").await.unwrap();
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut word = [0; 4];
        socket.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"ping");
        socket.write_all(b"pong").await.unwrap();
        drop(socket);
        let outcome = tokio::time::timeout(Duration::from_secs(10), channels.outcome());
        let all = outcome.await.unwrap().unwrap();
        assert_eq!(all[0], [&port.to_le_bytes()[..], b"pong"].concat());
        assert_eq!(all[1], port.to_le_bytes());
        assert_eq!(all[2], closed.to_le_bytes());
        assert_eq!(all[3][..2], closed.to_le_bytes());
        assert!(String::from_utf8_lossy(&all[3][2..]).contains("refused"));
        assert!(channels.closed);
    }
}

#[tokio::test]
async fn a_client_that_goes_closes_the_pods_connections() {
    let server = serve().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let mut forward = Forward::open(&server.forward(&[])).await.unwrap();
    let _forwarded = forward.connect(&port, true).await.unwrap();
    let (mut socket, _) = listener.accept().await.unwrap();
    drop((forward, _forwarded));
    let mut all = Vec::new();
    // An end or a reset: the connection is gone.
    let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut all)).await.unwrap();
    assert_eq!(all, b"");
}
