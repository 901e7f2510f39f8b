//! Exec and attach over WebSocket, in every subprotocol.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use std::time::Duration;

use common::{ALL, OUTPUT, TERMINAL, serve};
use sandboxd_streaming::client::{Channels, ClientError};

const V5: &str = "v5.channel.k8s.io";
const V4: &str = "v4.channel.k8s.io";
const SUBPROTOCOLS: [&str; 5] =
    [V5, V4, "v4.base64.channel.k8s.io", "channel.k8s.io", "base64.channel.k8s.io"];

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn output_and_exit_code_in_every_subprotocol() {
    let server = serve().await;
    for name in SUBPROTOCOLS {
        let endpoint = server.exec("echo out; echo err >&2; exit 3", OUTPUT);
        let mut channels = Channels::open(&endpoint, &[name]).await.unwrap();
        assert_eq!(channels.protocol, name);
        let all = channels.outcome().await.unwrap();
        assert_eq!((&*all[1], &*all[2]), (&b"out\n"[..], &b"err\n"[..]), "{name}");
        if name.starts_with('v') {
            assert_eq!(json(&all[3])["details"]["causes"][0]["message"], "3");
        } else {
            assert!(all[3].ends_with(b"exit code 3"));
        }
        assert!(channels.closed, "{name}: no close frame");
    }
    server.quiet().await;
}

#[tokio::test]
async fn without_a_subprotocol_the_oldest_is_spoken() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("echo out", OUTPUT), &[]).await.unwrap();
    assert_eq!(channels.protocol, "");
    // The session's beginning is a message without data.
    assert_eq!(channels.next().await.unwrap(), Some((1, "".into())));
    let all = channels.outcome().await.unwrap();
    assert_eq!((&*all[1], &*all[3]), (&b"out\n"[..], &b""[..]));
}

#[tokio::test]
async fn the_clients_order_of_subprotocols_counts() {
    let server = serve().await;
    let endpoint = server.exec("true", OUTPUT);
    let channels = Channels::open(&endpoint, &["unknown", V4, V5]).await.unwrap();
    assert_eq!(channels.protocol, V4);
    let refused = Channels::open(&server.exec("true", OUTPUT), &["unknown"]).await.unwrap_err();
    assert!(matches!(refused, ClientError::Refused { status, .. } if status == 403), "{refused}");
}

#[tokio::test]
async fn input_can_be_ended_in_v5() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("cat; echo end", ALL), &[V5]).await.unwrap();
    channels.send(0, b"typed\n").await.unwrap();
    channels.end(0).await.unwrap();
    let all = channels.outcome().await.unwrap();
    assert_eq!(all[1], b"typed\nend\n");
    assert_eq!(json(&all[3])["status"], "Success");
}

#[tokio::test]
async fn before_v5_channel_255_means_nothing() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("read a; echo $a", ALL), &[V4]).await.unwrap();
    channels.end(0).await.unwrap();
    channels.send(0, b"word\n").await.unwrap();
    assert_eq!(channels.outcome().await.unwrap()[1], b"word\n");
}

#[tokio::test]
async fn sizes_reach_the_terminal() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("", TERMINAL), &[V5]).await.unwrap();
    channels.send(4, b"{\"Width\":132,\"Height\":43}").await.unwrap();
    channels.next().await.unwrap();
    assert_eq!(channels.next().await.unwrap(), Some((1, "132x43\n".into())));
    channels.end(0).await.unwrap();
    assert_eq!(json(&channels.outcome().await.unwrap()[3])["status"], "Success");
}

#[tokio::test]
async fn pings_are_answered() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("cat", ALL), &[V5]).await.unwrap();
    channels.ping().await.unwrap();
    channels.next().await.unwrap();
    assert_eq!(channels.next().await.unwrap(), Some((254, "?".into())));
}

#[tokio::test]
async fn a_client_that_goes_ends_its_session() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("echo on; sleep 1000", ALL), &[V4]).await.unwrap();
    channels.next().await.unwrap();
    channels.next().await.unwrap();
    drop(channels);
    server.quiet().await;
}

#[tokio::test]
async fn nonsense_is_passed_over() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("cat", ALL), &[V5]).await.unwrap();
    for (channel, bytes) in
        [(1, &b"x"[..]), (3, b"x"), (9, b"x"), (4, b"no size"), (255, b""), (255, b"\x63")]
    {
        channels.send(channel, bytes).await.unwrap();
    }
    channels.send(0, b"still here").await.unwrap();
    channels.end(0).await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(10), channels.outcome());
    assert_eq!(outcome.await.unwrap().unwrap()[1], b"still here");
}

#[tokio::test]
async fn a_message_beyond_the_limit_ends_the_session() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("cat >/dev/null", ALL), &[V5]).await.unwrap();
    // The server hangs up while it is being sent.
    let _ = channels.send(0, &vec![0; 17 << 20]).await;
    server.quiet().await;
}

/// As the one over SPDY.
#[tokio::test]
async fn a_client_that_goes_ends_a_stuck_session() {
    let server = serve().await;
    let mut channels = Channels::open(&server.exec("sleep 1000", ALL), &[V5]).await.unwrap();
    let stuck = async { while channels.send(0, &[b'x'; 8192]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), stuck).await.is_err());
    drop(channels);
    tokio::time::sleep(Duration::from_secs(10)).await;
    server.quiet().await;
}
