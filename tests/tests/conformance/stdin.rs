//! A container's standard input and its terminal.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::AttachRequest;
use sandboxd_streaming::Wanted;
use sandboxd_streaming::client::{Endpoint, Remote};
use sandboxd_tests::workload::log;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::support::{Stage, both, userns};

const V4: &str = "v4.channel.k8s.io";
const TALK: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };
/// How long a word may take to come back.
const PATIENCE: Duration = Duration::from_secs(15);
const ECHO: &str = "while read x; do echo \"$x!\"; done; echo end";

async fn attach(stage: &Stage<'_>, id: &str, wanted: Wanted) -> Result<Remote> {
    let Wanted { stdin, stdout, stderr, tty } = wanted;
    let request = AttachRequest { container_id: id.to_owned(), stdin, tty, stdout, stderr };
    let url = stage.kube.runtime.clone().attach(request).await?.into_inner().url;
    Ok(Remote::open(&Endpoint::new(&url)?, &[V4], wanted).await?)
}

/// Says a word and waits for it to come back: then both ways are there.
async fn talk(remote: &mut Remote, say: &str, hear: &str) -> Result<()> {
    remote.stdin.as_mut().context("no stdin")?.write_all(say.as_bytes()).await?;
    let mut heard = vec![0; hear.len()];
    let stdout = remote.stdout.as_mut().context("no stdout")?;
    timeout(PATIENCE, stdout.read_exact(&mut heard)).await.context("no answer")??;
    ensure!(heard == hear.as_bytes(), "{:?}", String::from_utf8_lossy(&heard));
    Ok(())
}

// cri: ContainerConfig.stdin
#[test]
fn input_is_at_its_end_unless_it_was_asked_for() {
    both(async |stage| {
        ensure!(stage.printed(stage.container("none"), "cat; echo end").await? == "end");
        // With it, reading waits for somebody who types.
        let id = stage.kube.run(&stage.pod, stage.container("some").sh(ECHO).stdin(false)).await?;
        let mut remote = attach(stage, &id, TALK).await?;
        talk(&mut remote, "word\n", "word!\n").await
    });
}

// cri: ContainerConfig.stdin_once
#[test]
fn input_ends_with_its_first_client_where_it_is_for_one_alone() {
    both(async |stage| {
        let request = |name: &str, once| stage.container(name).sh(ECHO).stdin(once);
        let once = stage.kube.run(&stage.pod, request("once", true)).await?;
        let mut remote = attach(stage, &once, TALK).await?;
        talk(&mut remote, "one\n", "one!\n").await?;
        remote.stdin.take().context("no stdin")?.shutdown().await?;
        let status = stage.kube.ended(&once).await?;
        ensure!(log(status.log_path.as_ref())?.of("stdout") == "one!\nend\n");

        let more = stage.kube.run(&stage.pod, request("more", false)).await?;
        for (say, hear) in [("one\n", "one!\n"), ("two\n", "two!\n"), ("three\n", "three!\n")] {
            let mut remote = attach(stage, &more, TALK).await?;
            talk(&mut remote, say, hear).await?;
            remote.stdin.take().context("no stdin")?.shutdown().await?;
            timeout(PATIENCE, remote.outcome()).await.context("the session does not end")??;
        }
        stage.kube.stop(&more, 0).await.context("stopping what still reads")?;
        let status = stage.kube.status(&more).await?;
        ensure!(log(status.log_path.as_ref())?.of("stdout") == "one!\ntwo!\nthree!\n");
        Ok(())
    });
}

// cri: ContainerConfig.tty, AttachRequest.tty
#[test]
fn a_terminal_is_one_stream_with_a_size() {
    both(async |stage| {
        let script =
            "test -t 0 && test -t 1 && test -t 2 && echo \"$TERM\" >&2; read x; stty size; echo got $x";
        let request = stage.container("terminal").sh(script).stdin(false).with(|c| c.tty = true);
        let id = stage.kube.run(&stage.pod, request).await?;
        let mut remote = attach(stage, &id, Wanted { tty: true, ..TALK }).await?;
        let resize = remote.resize.as_mut().context("no resize stream")?;
        resize.write_all(b"{\"Width\":132,\"Height\":43}\n").await?;
        // The size comes over a stream of its own: it is there when the terminal says so.
        let sized = async {
            while stage.kube.asked(&id, &["sh", "-c", "stty size < /proc/1/fd/0"]).await? != "43 132" {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            anyhow::Ok(())
        };
        timeout(PATIENCE, sized).await.context("the terminal does not get its size")??;
        remote.stdin.as_mut().context("no stdin")?.write_all(b"word\n").await?;
        let said = timeout(PATIENCE, remote.outcome()).await.context("the session does not end")??;
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        ensure!(said.ends_with("word\r\n43 132\r\ngot word\r\n"), "{said:?}");
        let status = stage.kube.ended(&id).await?;
        let log = log(status.log_path.as_ref())?;
        ensure!(log.of("stderr").is_empty(), "{log:?}");
        let lines: Vec<_> = log.of("stdout").lines().map(|l| l.trim_end().to_owned()).collect();
        ensure!(lines == ["xterm", "word", "43 132", "got word"], "{lines:?}");
        Ok(())
    });
}

#[test]
fn without_a_terminal_there_is_none() {
    userns(async |stage| {
        let script = "test -t 0 || test -t 1 || test -t 2 || echo none; echo ${TERM:-unset}";
        ensure!(stage.printed(stage.container("plain"), script).await? == "none\nunset");
        Ok(())
    });
}
