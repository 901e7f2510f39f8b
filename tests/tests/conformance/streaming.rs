//! Exec, Attach and PortForward: the answer's URL, and what is behind it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{AttachRequest, ExecRequest, PortForwardRequest};
use sandboxd_streaming::Wanted;
use sandboxd_streaming::client::{Channels, Endpoint, Forward, Outcome, Remote};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tonic::{Code, Status};

use crate::support::{Stage, both, refused, userns};

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
const TERMINAL: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: true };
/// How long a session here may take.
const PATIENCE: Duration = Duration::from_secs(20);

async fn exec_url(stage: &Stage<'_>, id: &str, cmd: &[&str], wanted: Wanted) -> Result<String, Status> {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let cmd = cmd.iter().map(|word| (*word).to_owned()).collect();
    let request = ExecRequest { container_id: id.to_owned(), cmd, tty, stdin, stdout, stderr };
    Ok(stage.kube.runtime.clone().exec(request).await?.into_inner().url)
}

async fn exec(stage: &Stage<'_>, id: &str, script: &str, wanted: Wanted) -> Result<Remote> {
    let url = exec_url(stage, id, &["sh", "-c", script], wanted).await?;
    Ok(Remote::open(&Endpoint::new(&url)?, &[V4], wanted).await?)
}

async fn attach_url(stage: &Stage<'_>, id: &str, wanted: Wanted) -> Result<String, Status> {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let request = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
    Ok(stage.kube.runtime.clone().attach(request).await?.into_inner().url)
}

async fn forward_url(stage: &Stage<'_>, pod: &str, port: Vec<i32>) -> Result<String, Status> {
    let request = PortForwardRequest { pod_sandbox_id: pod.to_owned(), port };
    Ok(stage.kube.runtime.clone().port_forward(request).await?.into_inner().url)
}

async fn outcome(remote: Remote) -> Result<Outcome> {
    Ok(timeout(PATIENCE, remote.outcome()).await.context("the session does not end")??)
}

/// "0" for success.
fn exit_code(error: &[u8]) -> Result<String> {
    let status: serde_json::Value = serde_json::from_slice(error)?;
    ensure!(status["status"] == "Success" || status["reason"] == "NonZeroExitCode", "{status}");
    Ok(status["details"]["causes"][0]["message"].as_str().unwrap_or("0").to_owned())
}

// cri: Exec, ExecRequest.container_id, ExecRequest.cmd, ExecRequest.stdin, ExecRequest.stdout, ExecRequest.stderr
// cri: ExecResponse.url
#[test]
fn exec_has_streams_and_an_exit_code() {
    both(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").waits()).await?;
        let mut remote = exec(stage, &id, "cat; echo err >&2; exit 7", ALL).await?;
        let mut stdin = remote.stdin.take().context("no stdin")?;
        stdin.write_all(b"typed").await?;
        stdin.shutdown().await?;
        let said = outcome(remote).await?;
        ensure!(said.stdout == b"typed" && said.stderr == b"err\n", "{said:?}");
        ensure!(exit_code(&said.error)? == "7");

        let url = exec_url(stage, &id, &["sh", "-c", "echo out; kill -9 $$"], ALL).await?;
        let mut channels = Channels::open(&Endpoint::new(&url)?, &[V5]).await?;
        let all = timeout(PATIENCE, channels.outcome()).await??;
        ensure!(all[1] == b"out\n" && exit_code(&all[3])? == "137", "{all:?}");
        ensure!(Channels::open(&Endpoint::new(&url)?, &[V5]).await.is_err(), "a URL was good twice");
        Ok(())
    });
}

// cri: ExecRequest.tty
#[test]
fn exec_with_a_terminal_has_the_clients_size() {
    both(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").waits()).await?;
        let mut remote = exec(stage, &id, "read x; stty size; echo $TERM $x", TERMINAL).await?;
        let resize = remote.resize.as_mut().context("no resize stream")?;
        resize.write_all(b"{\"Width\":132,\"Height\":43}\n").await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        remote.stdin.as_mut().context("no stdin")?.write_all(b"word\n").await?;
        let said = outcome(remote).await?;
        ensure!(said.stdout == b"word\r\n43 132\r\nxterm word\r\n", "{said:?}");
        ensure!(exit_code(&said.error)? == "0");
        Ok(())
    });
}

#[test]
fn what_cannot_be_executed_or_attached_is_refused() {
    userns(async |stage| {
        let id = stage.kube.create(&stage.pod, stage.container("box").waits()).await?;
        let none = Wanted::default();
        let both = Wanted { stderr: true, ..TERMINAL };
        refused(exec_url(stage, &id, &["true"], ALL).await, Code::FailedPrecondition, &["running"])?;
        refused(attach_url(stage, &id, ALL).await, Code::FailedPrecondition, &["running"])?;
        refused(exec_url(stage, "nosuch", &["true"], ALL).await, Code::NotFound, &["nosuch"])?;
        refused(attach_url(stage, "nosuch", ALL).await, Code::NotFound, &["nosuch"])?;
        stage.kube.start(&id).await?;
        for (wanted, word) in [(none, "stream"), (both, "stderr")] {
            refused(exec_url(stage, &id, &["true"], wanted).await, Code::InvalidArgument, &[word])?;
            refused(attach_url(stage, &id, wanted).await, Code::InvalidArgument, &[word])?;
        }
        refused(exec_url(stage, &id, &[], ALL).await, Code::InvalidArgument, &["cmd"])?;
        Ok(())
    });
}

// cri: Attach, AttachRequest.container_id, AttachRequest.stdin, AttachRequest.stdout, AttachRequest.stderr
// cri: AttachRequest.tty, AttachResponse.url
#[test]
fn several_are_attached_at_once() {
    both(async |stage| {
        let request = stage.container("box").sh("while read x; do echo \"$x!\"; done; echo end >&2; exit 3");
        let id = stage.kube.run(&stage.pod, request.stdin(true)).await?;
        let listening = Wanted { stdin: false, ..ALL };
        let first = Endpoint::new(&attach_url(stage, &id, listening).await?)?;
        let first = Remote::open(&first, &[V4], listening).await?;
        let second = Endpoint::new(&attach_url(stage, &id, ALL).await?)?;
        let mut second = Remote::open(&second, &[V4], ALL).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let mut stdin = second.stdin.take().context("no stdin")?;
        stdin.write_all(b"one\ntwo\n").await?;
        stdin.shutdown().await?;
        for remote in [first, second] {
            let said = outcome(remote).await?;
            ensure!(said.stdout == b"one!\ntwo!\n" && said.stderr == b"end\n", "{said:?}");
            // How the container ended is in its status.
            ensure!(exit_code(&said.error)? == "0");
        }
        Ok(())
    });
}

// cri: PortForward, PortForwardRequest.pod_sandbox_id, PortForwardRequest.port, PortForwardResponse.url
#[test]
fn ports_of_the_pod_are_reached() {
    both(async |stage| {
        let id = stage.kube.run(&stage.pod, stage.container("box").sh("nc -ll -p 8080 -e cat")).await?;
        let url = forward_url(stage, &stage.pod.id, vec![]).await?;
        let mut forward = Forward::open(&Endpoint::new(&url)?).await?;
        for n in 0..20 {
            let mut forwarded = None;
            // The server in the container may not listen yet.
            for _ in 0..50 {
                let mut tried = forward.connect("8080", true).await?;
                tried.writer.write_all(b"there and back").await?;
                let mut word = [0; 14];
                if tried.reader.read_exact(&mut word).await.is_ok() {
                    ensure!(&word == b"there and back", "connection {n}");
                    forwarded = Some(tried);
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            forwarded.with_context(|| format!("connection {n} does not come about"))?;
        }
        let mut closed = forward.connect("9", true).await?;
        let mut text = String::new();
        timeout(PATIENCE, closed.error.read_to_string(&mut text)).await??;
        ensure!(text.contains("Connection refused"), "{text}");
        stage.kube.stop(&id, 0).await?;
        Ok(())
    });
}

#[test]
fn what_cannot_be_forwarded_is_refused() {
    userns(async |stage| {
        let pod = stage.pod.id.clone();
        refused(forward_url(stage, &pod, vec![80, 0]).await, Code::InvalidArgument, &["port[1]"])?;
        refused(forward_url(stage, &pod, vec![65_536]).await, Code::InvalidArgument, &["port[0]"])?;
        refused(forward_url(stage, "", vec![]).await, Code::InvalidArgument, &["pod_sandbox_id"])?;
        refused(forward_url(stage, "nosuch", vec![]).await, Code::NotFound, &["nosuch"])?;
        stage.kube.cri.stop(&pod).await?;
        refused(forward_url(stage, &pod, vec![]).await, Code::FailedPrecondition, &["not ready"])?;
        Ok(())
    });
}

// cri: PortForward, PortForwardResponse.url
#[test]
fn a_forwarded_connection_is_half_closed() {
    userns(async |stage| {
        let script = "nc -ll -p 8081 -e sh -c 'cat; echo end'";
        let id = stage.kube.run(&stage.pod, stage.container("box").sh(script)).await?;
        // kubectl of today, through WebSocket; and of before.
        for tunnelled in [true, false] {
            let url = forward_url(stage, &stage.pod.id, vec![8081]).await?;
            let endpoint = Endpoint::new(&url)?;
            let mut forward =
                if tunnelled { Forward::tunnel(&endpoint).await? } else { Forward::open(&endpoint).await? };
            let mut said = String::new();
            // The server in the container may not listen yet.
            for _ in 0..50 {
                let mut forwarded = forward.connect("8081", true).await?;
                // Where nobody listens, both fail.
                let _ = forwarded.writer.write_all(b"word\n").await;
                let _ = forwarded.writer.shutdown().await;
                let read = timeout(PATIENCE, forwarded.reader.read_to_string(&mut said)).await;
                if read.context("the connection does not end")?.is_ok() && !said.is_empty() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            ensure!(said == "word\nend\n", "through WebSocket: {tunnelled}: {said:?}");
        }
        stage.kube.stop(&id, 0).await?;
        Ok(())
    });
}
