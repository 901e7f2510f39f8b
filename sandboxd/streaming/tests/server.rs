//! What the server does before a session, beside it and at its end.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use std::time::Duration;

use common::{ALL, OUTPUT, serve, serve_with};
use hyper::Method;
use sandboxd_streaming::client::{ClientError, Endpoint, Remote};
use sandboxd_streaming::{MinVersion, Settings, Tls};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const V4: &str = "v4.channel.k8s.io";

async fn refused(endpoint: &Endpoint, headers: &[(&str, &str)]) -> u16 {
    match endpoint.upgrade(headers).await {
        Err(ClientError::Refused { status, .. }) => status.as_u16(),
        other => panic!("{:?}", other.map(|(_, headers)| headers)),
    }
}

#[tokio::test]
async fn what_is_no_upgrade_is_refused() {
    let server = serve().await;
    let spdy = ("Upgrade", "SPDY/3.1");
    let version = ("X-Stream-Protocol-Version", V4);
    assert_eq!(refused(&server.exec("true", OUTPUT), &[]).await, 400);
    assert_eq!(refused(&server.exec("true", OUTPUT), &[("Upgrade", "h2c"), version]).await, 400);
    assert_eq!(refused(&server.exec("true", OUTPUT), &[spdy]).await, 400);
    let unknown = ("X-Stream-Protocol-Version", "v99.channel.k8s.io");
    assert_eq!(refused(&server.exec("true", OUTPUT), &[spdy, unknown]).await, 403);
    let websocket = ("Upgrade", "websocket");
    assert_eq!(refused(&server.exec("true", OUTPUT), &[websocket]).await, 426);
    let thirteen = ("Sec-WebSocket-Version", "13");
    assert_eq!(refused(&server.exec("true", OUTPUT), &[websocket, thirteen]).await, 400);
    let mut put = server.exec("true", OUTPUT);
    put.method = Method::PUT;
    assert_eq!(refused(&put, &[spdy, version]).await, 405);
}

/// Go's client throws the header away where it says `close`.
#[tokio::test]
async fn an_upgrade_says_nothing_else() {
    let server = serve().await;
    let headers = [("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", V4)];
    let (_io, headers) = server.exec("true", OUTPUT).upgrade(&headers).await.unwrap();
    assert_eq!(headers["connection"], "Upgrade");
    assert_eq!(headers["upgrade"], "SPDY/3.1");
}

#[tokio::test]
async fn a_refusal_names_what_is_spoken() {
    let server = serve().await;
    let headers = [("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", "v99.channel.k8s.io")];
    let Err(ClientError::Refused { headers, .. }) = server.exec("true", OUTPUT).upgrade(&headers).await
    else {
        panic!("it was not refused")
    };
    let names: Vec<_> = headers.get_all("x-accepted-stream-protocol-versions").iter().collect();
    assert_eq!(names.len(), 5);
    assert_eq!(names[1], V4);
}

#[tokio::test]
async fn a_token_opens_only_its_own_path() {
    let server = serve().await;
    let headers = [("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", V4)];
    for url in [
        server.exec_url("true", OUTPUT).replace("/exec/", "/attach/"),
        server.exec_url("true", OUTPUT) + "/",
        server.exec_url("true", OUTPUT).replace("/exec/", "/exec/0"),
        server.exec_url("true", OUTPUT).split("/exec/").next().unwrap().to_owned() + "/",
    ] {
        assert_eq!(refused(&Endpoint::new(&url).unwrap(), &headers).await, 404, "{url}");
    }
}

#[tokio::test]
async fn get_serves_as_post_does() {
    let server = serve().await;
    let mut endpoint = server.exec("echo out", OUTPUT);
    endpoint.method = Method::GET;
    let outcome = Remote::open(&endpoint, &[V4], OUTPUT).await.unwrap().outcome().await.unwrap();
    assert_eq!(outcome.stdout, b"out\n");
}

#[tokio::test]
async fn an_idle_session_is_cut_off() {
    let server = serve_with(Settings { idle: Duration::from_millis(300), ..Settings::default() }).await;
    let remote = Remote::open(&server.exec("sleep 1000", ALL), &[V4], ALL).await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(5), remote.outcome()).await.unwrap().unwrap();
    assert_eq!(outcome.error, b"");
    server.quiet().await;
}

#[tokio::test]
async fn pings_keep_a_session() {
    let server = serve_with(Settings { idle: Duration::from_millis(500), ..Settings::default() }).await;
    let remote = Remote::open(&server.exec("sleep 1.5; echo out", ALL), &[V4], ALL).await.unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        remote.ping().await;
    }
    assert_eq!(remote.outcome().await.unwrap().stdout, b"out\n");
}

#[tokio::test]
async fn streams_have_to_be_opened_in_time() {
    let server = serve_with(Settings { creation: Duration::from_millis(200), ..Settings::default() }).await;
    let endpoint = server.exec("true", ALL);
    // Fewer than were asked for.
    let remote = Remote::open(&endpoint, &[V4], OUTPUT).await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(5), remote.outcome()).await.unwrap().unwrap();
    assert_eq!(outcome.error, b"");
}

#[tokio::test]
async fn the_servers_end_is_the_sessions() {
    let server = serve().await;
    let remote = Remote::open(&server.exec("sleep 1000", ALL), &[V4], ALL).await.unwrap();
    server.closing.cancel();
    let outcome = tokio::time::timeout(Duration::from_secs(5), remote.outcome()).await.unwrap().unwrap();
    assert_eq!(outcome.error, b"");
    server.quiet().await;
}

#[tokio::test]
async fn connections_are_counted() {
    let server = serve_with(Settings { connections: 2, ..Settings::default() }).await;
    let first = Remote::open(&server.exec("sleep 1000", ALL), &[V4], ALL).await.unwrap();
    let _second = Remote::open(&server.exec("sleep 1000", ALL), &[V4], ALL).await.unwrap();
    let endpoint = server.exec("echo out", OUTPUT);
    let mut third = tokio::spawn(async move { Remote::open(&endpoint, &[V4], OUTPUT).await });
    assert!(tokio::time::timeout(Duration::from_millis(200), &mut third).await.is_err());
    drop(first);
    let third = tokio::time::timeout(Duration::from_secs(5), third).await.unwrap().unwrap().unwrap();
    assert_eq!(third.outcome().await.unwrap().stdout, b"out\n");
}

#[tokio::test]
async fn garbage_ends_only_its_own_connection() {
    let server = serve().await;
    let url = server.exec_url("true", OUTPUT);
    let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    for garbage in
        [&b"\x80\x03\x00\x01\x00\xff\xff\xff"[..], b"\x00\x00\x00\x00\x00\x00\x00\x00", &[0xff; 4096]]
    {
        let url = server.exec_url("true", OUTPUT);
        let path = url.split_once("/exec/").unwrap().1;
        let mut socket = TcpStream::connect(authority).await.unwrap();
        let request = format!(
            "POST /exec/{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
             X-Stream-Protocol-Version: {V4}\r\n\r\n"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        let mut answer = Vec::new();
        // The end or a reset: the server does not wait for more.
        let read = socket.read_to_end(&mut answer);
        let _ = tokio::time::timeout(Duration::from_secs(5), read).await.unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 101"));
    }
    let endpoint = Endpoint::new(&format!("http://{authority}/{path}")).unwrap();
    Remote::open(&endpoint, &[V4], OUTPUT).await.unwrap().outcome().await.unwrap();
}

/// Certificates made on the spot.
struct Certificates {
    dir: tempfile::TempDir,
    cert: String,
    key: String,
}

fn certificates() -> Certificates {
    let dir = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    std::fs::write(dir.path().join("cert.pem"), &cert).unwrap();
    std::fs::write(dir.path().join("key.pem"), &key).unwrap();
    Certificates { dir, cert, key }
}

#[tokio::test]
async fn over_tls_with_and_without_client_certificates() {
    let made = certificates();
    let path = |name| made.dir.path().join(name);
    for client_ca in [None, Some(path("cert.pem"))] {
        let strict = client_ca.is_some();
        let tls =
            Tls { cert: path("cert.pem"), key: path("key.pem"), client_ca, min_version: MinVersion::Tls13 };
        let server = serve_with(Settings { tls: Some(tls), ..Settings::default() }).await;
        let url = server.exec_url("echo out", OUTPUT);
        assert!(url.starts_with("https://127.0.0.1:"), "{url}");
        let plain = Endpoint::new(&url).unwrap();
        assert!(Remote::open(&plain, &[V4], OUTPUT).await.is_err(), "an unknown authority was trusted");
        let anonymous = plain.clone().with_tls(made.cert.as_bytes(), None).unwrap();
        let own = Some((made.cert.as_bytes(), made.key.as_bytes()));
        let known = plain.with_tls(made.cert.as_bytes(), own).unwrap();
        let used = if strict {
            assert!(Remote::open(&anonymous, &[V4], OUTPUT).await.is_err(), "nobody was let in");
            known
        } else {
            anonymous
        };
        let outcome = Remote::open(&used, &[V4], OUTPUT).await.unwrap().outcome().await.unwrap();
        assert_eq!(outcome.stdout, b"out\n");
    }
}

#[tokio::test]
async fn renewed_certificates_serve_without_a_restart() {
    let made = certificates();
    let path = |name| made.dir.path().join(name);
    let tls =
        Tls { cert: path("cert.pem"), key: path("key.pem"), client_ca: None, min_version: MinVersion::Tls12 };
    let server = serve_with(Settings { tls: Some(tls), ..Settings::default() }).await;
    let trusted = async |cert: &str| {
        let endpoint = Endpoint::new(&server.exec_url("echo out", OUTPUT)).unwrap();
        let endpoint = endpoint.with_tls(cert.as_bytes(), None).unwrap();
        Remote::open(&endpoint, &[V4], OUTPUT).await.is_ok()
    };
    assert!(trusted(&made.cert).await);
    let new = certificates();
    std::fs::write(path("cert.pem"), &new.cert).unwrap();
    assert!(trusted(&made.cert).await, "half of a renewal was used");
    std::fs::write(path("key.pem"), &new.key).unwrap();
    assert!(trusted(&new.cert).await);
    assert!(!trusted(&made.cert).await);
    std::fs::remove_file(path("key.pem")).unwrap();
    assert!(trusted(&new.cert).await, "what was read is gone with the file");
}

#[test]
fn unusable_certificates_are_named() {
    let made = certificates();
    let path = |name| made.dir.path().join(name);
    let tls = |cert, key| Tls { cert, key, client_ca: None, min_version: MinVersion::Tls12 };
    let missing = tls(path("no.pem"), path("key.pem")).check().unwrap_err().to_string();
    assert!(missing.starts_with("reading the certificate from ") && missing.ends_with("no.pem"), "{missing}");
    let wrong = tls(path("key.pem"), path("key.pem")).check().unwrap_err().to_string();
    assert!(wrong.contains("has no certificate"), "{wrong}");
    let other = certificates();
    let pair = tls(path("cert.pem"), other.dir.path().join("key.pem")).check().unwrap_err().to_string();
    assert!(pair.contains("with the key of"), "{pair}");
}
