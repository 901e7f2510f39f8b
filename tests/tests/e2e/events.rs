//! `sandboxd events` on a live daemon.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Node;
use serde_json::Value;

use crate::support::eventually;

/// A follower and its lines.
struct Follow {
    child: Child,
    lines: Receiver<Value>,
    all: Vec<Value>,
}

impl Follow {
    fn start(node: &Node, arguments: &[&str]) -> Result<Self> {
        let mut command = node.ask(&["events", "--follow", "--json"]);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let text = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            let parsed =
                text.map_while(Result::ok).map(|line| serde_json::from_str(&line).unwrap_or(Value::Null));
            parsed.into_iter().try_for_each(|value| tell.send(value))
        });
        Ok(Self { child, lines, all: Vec::new() })
    }

    /// Waits for a line, or finds it among those that came.
    async fn until(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        if let Some(line) = self.all.iter().find(|line| wanted(line)) {
            return Ok(line.clone());
        }
        let end = Instant::now() + Duration::from_secs(20);
        loop {
            while let Ok(line) = self.lines.try_recv() {
                ensure!(line["type"].is_string() && line["time"].is_string(), "{line}");
                self.all.push(line.clone());
                if wanted(&line) {
                    return Ok(line);
                }
            }
            ensure!(Instant::now() < end, "no {what} in 20 s: {:?}", self.all);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Pods until one shows that the follower is there.
async fn ready(node: &Node, follow: &mut Follow) -> Result<()> {
    let cri = node.cri().await?;
    let end = Instant::now() + Duration::from_secs(20);
    for n in 0.. {
        let id = cri.run(node.pod(&format!("probe{n}")).build()).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        cri.remove(&id).await?;
        if follow.lines.try_iter().any(|line| line["type"] == "pod") {
            return Ok(());
        }
        ensure!(Instant::now() < end, "the follower shows no pod");
    }
    Ok(())
}

#[test]
fn a_pods_life_is_followed_as_json_lines() {
    E2e::default().run(async |node| {
        let mut follow = Follow::start(node, &[])?;
        ready(node, &mut follow).await?;
        let cri = node.cri().await?;
        let id = cri.run(node.pod("lived").userns().build()).await?;
        let line = follow
            .until("pod that is ready", |line| line["pod_id"] == id.as_str() && line["state"] == "READY")
            .await?;
        ensure!(
            line["pod_name"] == "default/lived" && line["ips"].as_array().is_some_and(|a| a.len() == 1),
            "{line}"
        );
        cri.remove(&id).await?;
        follow.until("removal", |line| line["pod_id"] == id.as_str() && line["state"] == "REMOVED").await?;
        follow.until("event", |line| line["type"] == "event" && line["kind"] == "pod-removed").await?;
        let output = node.ask(&["events", "--json", "--kind", "pod-ready", "--pod", &id]).output()?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(text.lines().count() == 1 && text.contains("default/lived"), "the recorded ones: {text}");
        follow.signal(Signal::SIGTERM)?;
        ensure!(follow.child.wait()?.success(), "SIGTERM ends it well");
        Ok(())
    });
}

#[test]
fn a_daemon_that_restarts_is_a_gap_and_the_lines_go_on() {
    E2e::default().run(async |node| {
        let mut follow = Follow::start(node, &[])?;
        ready(node, &mut follow).await?;
        node.kill_daemon()?;
        let gap = follow.until("gap", |line| line["type"] == "gap").await?;
        ensure!(gap["reason"].as_str().is_some_and(|why| why.contains("lost")), "{gap}");
        node.spawn().await?;
        // The new daemon's first events are in its snapshot, which closes the gap.
        follow.until("new daemon", |line| line["kind"] == "daemon-started").await?;
        let id = node.cri().await?.run(node.pod("after").build()).await?;
        follow.until("pod", |line| line["pod_id"] == id.as_str() && line["state"] == "READY").await?;
        ensure!(follow.all.iter().filter(|line| line["type"] == "gap").count() == 1, "{:?}", follow.all);
        Ok(())
    });
}

#[test]
fn a_rotated_file_goes_on_in_a_new_one() {
    E2e::default().run(async |node| {
        let (path, old) = (node.path("events.jsonl"), node.path("events.jsonl.1"));
        let follow = Follow::start(node, &["--output", &path.display().to_string()])?;
        let cri = node.cri().await?;
        let text = |path: &std::path::Path| std::fs::read_to_string(path).unwrap_or_default();
        let mut n = 0;
        let mut until_in_file = async |path: &std::path::Path| {
            eventually("a pod's line in the file", async || {
                n += 1;
                let id = cri.run(node.pod(&format!("file{n}")).build()).await?;
                cri.remove(&id).await?;
                Ok(text(path).contains("\"type\":\"pod\""))
            })
            .await
        };
        until_in_file(&path).await?;
        std::fs::rename(&path, &old)?;
        follow.signal(Signal::SIGHUP)?;
        until_in_file(&path).await?;
        for path in [&path, &old] {
            for line in text(path).lines() {
                serde_json::from_str::<Value>(line).with_context(|| format!("no whole line: {line}"))?;
            }
        }
        use std::os::unix::fs::PermissionsExt as _;
        ensure!(std::fs::metadata(&path)?.permissions().mode() & 0o777 == 0o600, "for its owner only");
        Ok(())
    });
}

#[test]
fn a_reader_that_goes_ends_it_quietly() {
    E2e::default().run(async |node| {
        let mut command = node.ask(&["events", "--follow"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        drop(child.stdout.take());
        let cri = node.cri().await?;
        let mut n = 0;
        let ended = eventually("its end", async || {
            n += 1;
            let id = cri.run(node.pod(&format!("unread{n}")).build()).await?;
            cri.remove(&id).await?;
            Ok(child.try_wait()?.is_some())
        })
        .await;
        child.kill()?;
        let status = child.wait()?;
        let mut errors = String::new();
        child.stderr.take().context("no stderr")?.read_to_string(&mut errors)?;
        ended?;
        ensure!(status.success() && errors.is_empty(), "{status} {errors}");
        Ok(())
    });
}
