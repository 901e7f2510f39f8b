//! Exec and attach over SPDY, in every version.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use std::time::Duration;

use common::{ALL, OUTPUT, TERMINAL, serve};
use sandboxd_streaming::client::{ClientError, Endpoint, Outcome, Remote};
use sandboxd_streaming::{Target, Wanted};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const V4: &str = "v4.channel.k8s.io";
const VERSIONS: [&str; 5] =
    ["v5.channel.k8s.io", V4, "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io"];

fn json(bytes: &[u8]) -> serde_json::Value {
    serde_json::from_slice(bytes).unwrap()
}

#[tokio::test]
async fn output_and_exit_code_in_every_version() {
    let server = serve().await;
    for version in VERSIONS {
        let endpoint = server.exec("echo out; echo err >&2; exit 3", OUTPUT);
        let remote = Remote::open(&endpoint, &[version], OUTPUT).await.unwrap();
        assert_eq!(remote.protocol, version);
        let Outcome { stdout, stderr, error } = remote.outcome().await.unwrap();
        assert_eq!((&*stdout, &*stderr), (&b"out\n"[..], &b"err\n"[..]), "{version}");
        if version.starts_with("v5") || version.starts_with("v4") {
            let status = json(&error);
            assert_eq!(status["reason"], "NonZeroExitCode");
            assert_eq!(status["details"]["causes"][0]["message"], "3");
        } else {
            let text = String::from_utf8(error).unwrap();
            assert!(text.ends_with("exit code 3"), "{text}");
        }
    }
    server.quiet().await;
}

#[tokio::test]
async fn success_says_so() {
    let server = serve().await;
    for version in VERSIONS {
        let remote = Remote::open(&server.exec("true", OUTPUT), &[version], OUTPUT).await.unwrap();
        let outcome = remote.outcome().await.unwrap();
        if version.starts_with("v5") || version.starts_with("v4") {
            assert_eq!(json(&outcome.error)["status"], "Success");
        } else {
            assert_eq!(outcome, Outcome::default());
        }
    }
}

#[tokio::test]
async fn the_end_of_input_reaches_the_process() {
    let server = serve().await;
    let mut remote = Remote::open(&server.exec("cat; echo end", ALL), &[V4], ALL).await.unwrap();
    let mut stdin = remote.stdin.take().unwrap();
    stdin.write_all(b"typed\n").await.unwrap();
    let mut line = [0; 6];
    remote.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"typed\n");
    stdin.shutdown().await.unwrap();
    assert_eq!(remote.outcome().await.unwrap().stdout, b"end\n");
}

#[tokio::test]
async fn input_that_nobody_reads_does_not_hold_up_the_end() {
    let server = serve().await;
    let mut remote = Remote::open(&server.exec("echo done", ALL), &[V4], ALL).await.unwrap();
    let mut stdin = remote.stdin.take().unwrap();
    let typing = tokio::spawn(async move { while stdin.write_all(&[b'x'; 8192]).await.is_ok() {} });
    let outcome = tokio::time::timeout(Duration::from_secs(10), remote.outcome()).await.unwrap().unwrap();
    assert_eq!(outcome.stdout, b"done\n");
    assert_eq!(json(&outcome.error)["status"], "Success");
    typing.abort();
}

#[tokio::test]
async fn sizes_reach_the_terminal() {
    let server = serve().await;
    let endpoint = server.exec("", TERMINAL);
    let mut remote = Remote::open(&endpoint, &[V4], TERMINAL).await.unwrap();
    let resize = remote.resize.as_mut().unwrap();
    resize.write_all(b"{\"Width\":132,\"Height\":43}\n").await.unwrap();
    let mut size = [0; 7];
    remote.stdout.as_mut().unwrap().read_exact(&mut size).await.unwrap();
    assert_eq!(&size, b"132x43\n");
    let mut stdin = remote.stdin.take().unwrap();
    stdin.write_all(b"bye").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(remote.outcome().await.unwrap().stdout, b"bye");
}

#[tokio::test]
async fn an_attach_gives_back_what_is_typed() {
    let server = serve().await;
    let wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
    let mut remote = Remote::open(&server.attach(wanted), &[V4], wanted).await.unwrap();
    let mut stdin = remote.stdin.take().unwrap();
    stdin.write_all(b"again").await.unwrap();
    stdin.shutdown().await.unwrap();
    let outcome = remote.outcome().await.unwrap();
    assert_eq!(outcome.stdout, b"hello\nagain");
    assert_eq!(json(&outcome.error)["status"], "Success");
}

#[tokio::test]
async fn what_cannot_start_is_an_internal_error() {
    let server = serve().await;
    let target = Target::Exec { container: "other".into(), command: vec!["true".into()], wanted: OUTPUT };
    let endpoint = Endpoint::new(&server.urls.url_for(target).unwrap()).unwrap();
    let outcome = Remote::open(&endpoint, &[V4], OUTPUT).await.unwrap().outcome().await.unwrap();
    let status = json(&outcome.error);
    assert_eq!(status["reason"], "InternalError");
    assert_eq!(
        status["message"],
        "Internal error occurred: error executing command in container: no container other"
    );
}

#[tokio::test]
async fn a_client_that_goes_ends_its_session() {
    let server = serve().await;
    let endpoint = server.exec("echo on; sleep 1000", ALL);
    let mut remote = Remote::open(&endpoint, &[V4], ALL).await.unwrap();
    let mut line = [0; 3];
    remote.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    drop(remote);
    server.quiet().await;
}

#[tokio::test]
async fn a_megabyte_in_one_write_comes_back() {
    let server = serve().await;
    let mut remote = Remote::open(&server.exec("cat", ALL), &[V4], ALL).await.unwrap();
    let bytes: Vec<u8> = (0..=250u8).cycle().take(1_000_000).collect();
    let mut stdin = remote.stdin.take().unwrap();
    let sent = bytes.clone();
    let typing = tokio::spawn(async move {
        stdin.write_all(&sent).await.unwrap();
        stdin.shutdown().await.unwrap();
    });
    assert!(remote.outcome().await.unwrap().stdout == bytes);
    typing.await.unwrap();
}

#[tokio::test]
async fn a_token_is_good_once() {
    let server = serve().await;
    let endpoint = server.exec("true", OUTPUT);
    Remote::open(&endpoint, &[V4], OUTPUT).await.unwrap().outcome().await.unwrap();
    let again = Remote::open(&endpoint, &[V4], OUTPUT).await.unwrap_err();
    assert!(matches!(again, ClientError::Refused { status, .. } if status == 404), "{again}");
}

/// The server's reader is stuck in input that nobody takes: it cannot see the client's end there.
#[tokio::test]
async fn a_client_that_goes_ends_a_stuck_session() {
    let server = serve().await;
    let mut remote = Remote::open(&server.exec("sleep 1000", ALL), &[V4], ALL).await.unwrap();
    let mut stdin = remote.stdin.take().unwrap();
    let stuck = async { while stdin.write_all(&[b'x'; 8192]).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_secs(1), stuck).await.is_err());
    drop((stdin, remote));
    tokio::time::sleep(Duration::from_secs(10)).await;
    server.quiet().await;
}
