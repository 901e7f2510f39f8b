//! The real client, where there is one: kubectl against an API server of a few answers that proxies to the
//! streaming server, as kubelet and the API server do.

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

mod common;

use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::{Running, serve};
use sandboxd_streaming::{Target, Wanted};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;

const POD: &str = r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"p","namespace":"default"},
    "spec":{"containers":[{"name":"c","image":"i","stdin":true,"tty":false}]},
    "status":{"phase":"Running"}}"#;
const VERSIONS: &str = r#"{"kind":"APIVersions","versions":["v1"]}"#;
const GROUPS: &str = r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#;
const RESOURCES: &str = r#"{"kind":"APIResourceList","groupVersion":"v1","resources":[
    {"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get"]}]}"#;

/// kubectl speaks WebSocket unless it is told not to.
const TRANSPORTS: [(&str, &str); 2] = [("websocket", "true"), ("spdy", "false")];

struct Api {
    server: Arc<Running>,
    /// The upgrades that were asked for.
    upgrades: Arc<Mutex<Vec<String>>>,
    url: String,
    cache: tempfile::TempDir,
}

async fn api() -> Option<Api> {
    let found = Command::new("kubectl").args(["version", "--client"]).output().await;
    if !found.is_ok_and(|output| output.status.success()) {
        println!("SKIPPED: there is no kubectl");
        return None;
    }
    let server = Arc::new(serve().await);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let upgrades = Arc::<Mutex<Vec<String>>>::default();
    let (shared, seen) = (Arc::clone(&server), Arc::clone(&upgrades));
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            tokio::spawn(answer(socket, Arc::clone(&shared), Arc::clone(&seen)));
        }
    });
    Some(Api { server, upgrades, url, cache: tempfile::tempdir().unwrap() })
}

async fn answer(socket: TcpStream, server: Arc<Running>, upgrades: Arc<Mutex<Vec<String>>>) {
    let mut client = BufReader::new(socket);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if client.read_until(b'\n', &mut head).await.unwrap() == 0 {
            return;
        }
    }
    let head = String::from_utf8(head).unwrap();
    let (line, headers) = head.split_once("\r\n").unwrap();
    let (method, uri) = (line.split(' ').next().unwrap(), line.split(' ').nth(1).unwrap());
    if let Some(upgrade) = headers.lines().find_map(|line| line.strip_prefix("Upgrade: ")) {
        upgrades.lock().unwrap().push(upgrade.to_lowercase());
    }
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let body = match path {
        "/api" => VERSIONS,
        "/apis" => GROUPS,
        "/api/v1" => RESOURCES,
        "/api/v1/namespaces/default/pods/p" => POD,
        _ => "",
    };
    if body.is_empty() {
        let Some(target) = target(path, query) else {
            client.write_all(b"HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n").await.unwrap();
            return;
        };
        let url = server.urls.url_for(target).unwrap();
        let (authority, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
        let mut upstream = TcpStream::connect(authority).await.unwrap();
        upstream.write_all(format!("{method} /{path} HTTP/1.1\r\n{headers}").as_bytes()).await.unwrap();
        // Either may go first.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        return;
    }
    let answer = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    client.write_all(answer.as_bytes()).await.unwrap();
}

fn target(path: &str, query: &str) -> Option<Target> {
    let is = |name: &str| query.split('&').any(|pair| pair == format!("{name}=true"));
    let wanted = Wanted { stdin: is("stdin"), stdout: is("stdout"), stderr: is("stderr"), tty: is("tty") };
    let decoded = |text: &str| {
        text.replace('+', " ").replace("%3B", ";").replace("%3E", ">").replace("%26", "&").replace("%2F", "/")
    };
    let command = query.split('&').filter_map(|pair| pair.strip_prefix("command=")).map(decoded).collect();
    match path.rsplit_once('/')?.1 {
        "exec" => Some(Target::Exec { container: "c".into(), command, wanted }),
        "attach" => Some(Target::Attach { container: "c".into(), wanted }),
        "portforward" => Some(Target::PortForward { pod: "p".into(), ports: Vec::new() }),
        _ => None,
    }
}

impl Api {
    fn kubectl(&self, websocket: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command
            .arg("--server")
            .arg(&self.url)
            .arg("--cache-dir")
            .arg(self.cache.path())
            .args(arguments)
            .env("KUBECONFIG", "/dev/null")
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Only that transport was used: no fallback.
    fn used(&self, name: &str) {
        let seen = std::mem::take(&mut *self.upgrades.lock().unwrap());
        assert!(!seen.is_empty() && seen.iter().all(|upgrade| upgrade.starts_with(name)), "{name}: {seen:?}");
    }

    async fn run(&self, websocket: &str, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.kubectl(websocket, arguments).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        tokio::spawn(async move {
            // It may have ended without reading.
            let _ = stdin.write_all(&input).await;
        });
        tokio::time::timeout(Duration::from_secs(30), child.wait_with_output()).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn exec_with_output_and_exit_code() {
    let Some(api) = api().await else { return };
    for (name, websocket) in TRANSPORTS {
        let script = "echo out; echo err >&2; exit 3";
        let output = api.run(websocket, &["exec", "p", "--", "sh", "-c", script], b"").await;
        assert_eq!(output.stdout, b"out\n", "{name}: {output:?}");
        assert_eq!(output.stderr, b"err\ncommand terminated with exit code 3\n", "{name}");
        assert_eq!(output.status.code(), Some(3), "{name}");
        api.used(name);
    }
    api.server.quiet().await;
}

#[tokio::test]
async fn exec_with_megabytes_of_input() {
    let Some(api) = api().await else { return };
    let input: Vec<u8> = (0..=250u8).cycle().take(8_000_000).collect();
    for (name, websocket) in TRANSPORTS {
        let output = api.run(websocket, &["exec", "-i", "p", "--", "cat"], &input).await;
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout == input, "{name}: {} bytes came back", output.stdout.len());
        api.used(name);
    }
}

#[tokio::test]
async fn attach_with_input() {
    let Some(api) = api().await else { return };
    for (name, websocket) in TRANSPORTS {
        let output = api.run(websocket, &["attach", "-i", "-q", "p"], b"again\n").await;
        assert_eq!(output.stdout, b"hello\nagain\n", "{name}: {output:?}");
        assert!(output.status.success(), "{name}");
        api.used(name);
    }
}

#[tokio::test]
async fn port_forward() {
    let Some(api) = api().await else { return };
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
    for (name, websocket) in TRANSPORTS {
        let arguments = ["port-forward", "--address", "127.0.0.1", "p", &format!(":{port}")];
        let mut child = api.kubectl(websocket, &arguments).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await.unwrap();
        let line = line.unwrap().unwrap();
        let local = line.split(['>', ' ']).find_map(|word| word.strip_prefix("127.0.0.1:")).unwrap();
        let mut running = tokio::task::JoinSet::new();
        for n in 0..20u8 {
            let address = format!("127.0.0.1:{local}");
            running.spawn(async move {
                let mut socket = TcpStream::connect(address).await.unwrap();
                let sent = vec![n; 100_000];
                socket.write_all(&sent).await.unwrap();
                socket.shutdown().await.unwrap();
                let mut all = Vec::new();
                socket.read_to_end(&mut all).await.unwrap();
                assert!(all == sent, "{} bytes came back", all.len());
            });
        }
        while let Some(done) = running.join_next().await {
            done.unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        child.kill().await.unwrap();
        api.used(name);
    }
}
