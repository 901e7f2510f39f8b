//! Containers when their daemon, their shim or their pod goes, and what is left of them.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_api::cri::{ContainerState, ContainerStatus, ExecSyncRequest};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::node::Node;
use sandboxd_tests::patience::patient;
use sandboxd_tests::proc;
use sandboxd_tests::workload::{Kube, Request, Sandbox, log};
use tonic::Code;

use crate::support::{eventually, refused};

fn request(name: &str) -> Request {
    Request::new(name, BUSYBOX)
}

/// A node with an image and a pod in it.
async fn stage(node: &mut Node, userns: bool) -> Result<(Kube, Sandbox)> {
    node.load_busybox()?;
    let kube = Kube::connect(node).await?;
    let pod = node.pod("stage");
    let pod = kube.pod(if userns { pod.userns() } else { pod }).await?;
    Ok((kube, pod))
}

async fn pid(kube: &Kube, id: &str) -> Result<i32> {
    let info = kube.verbose(id, true).await?.info;
    let info: serde_json::Value = serde_json::from_str(info.get("info").context("no info")?)?;
    info["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).context("no pid")
}

/// The shim of a pod: the parent of its infra container.
async fn shim(kube: &Kube, pod: &Sandbox) -> Result<i32> {
    Ok(proc::read(kube.cri.pid(&pod.id).await?).context("no infra container")?.parent)
}

#[test]
fn hello_world_is_in_the_log() {
    for userns in [true, false] {
        E2e::default().run(async |node| {
            let (kube, pod) = stage(node, userns).await?;
            let hello = request("hello").sh("echo hello world; echo problem >&2; exit 4");
            let (status, text) = kube.result(&pod, hello).await?;
            ensure!(text == "hello world\n" && status.exit_code == 4, "{text:?} {status:?}");
            let path = Path::new(&status.log_path);
            ensure!(log(path)?.of("stderr") == "problem\n");
            let mode = path.metadata()?.permissions().mode() & 0o7777;
            ensure!(mode == 0o640, "the log has mode {mode:o}");
            kube.remove(&status.id).await?;
            ensure!(path.exists(), "the log is kubelet's to remove");
            Ok(())
        });
    }
}

#[test]
fn containers_live_on_and_are_the_same_after_kill_minus_nine() {
    for userns in [true, false] {
        E2e::default().run(async |node| {
            let (kube, pod) = stage(node, userns).await?;
            let counts = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done";
            let running = kube.run(&pod, request("running").sh(counts)).await?;
            let created = kube.create(&pod, request("created").sh("exit 5")).await?;
            let exited = kube.run(&pod, request("exited").sh("exit 6")).await?;
            kube.ended(&exited).await?;
            let failed = kube.create(&pod, request("failed").command(&["/no/such"])).await?;
            ensure!(kube.start(&failed).await.is_err());
            let all = [&running, &created, &exited, &failed];
            let mut before: Vec<ContainerStatus> = Vec::new();
            for id in all {
                before.push(kube.status(id).await?);
            }
            let first = pid(&kube, &running).await?;
            let listed = kube.list(None).await?;

            node.kill_daemon()?;
            ensure!(proc::alive(first), "the container went with the daemon");
            tokio::time::sleep(Duration::from_millis(300)).await;
            node.spawn().await?;
            let kube = Kube::connect(node).await?;
            ensure!(kube.list(None).await? == listed, "the list has changed");
            for (id, before) in all.into_iter().zip(&before) {
                let after = kube.status(id).await?;
                ensure!(after == *before, "{after:?} was {before:?}");
            }
            ensure!(pid(&kube, &running).await? == first);
            let taken = kube.create(&pod, request("running").waits()).await;
            refused(taken, Code::AlreadyExists, &["running"])?;
            let said = kube.asked(&running, &["sh", "-c", "echo still $((40 + 2))"]).await?;
            ensure!(said == "still 42", "{said}");
            kube.start(&created).await?;
            ensure!(kube.ended(&created).await?.exit_code == 5, "made by one daemon, started by the next");
            kube.stop(&running, 0).await?;
            let status = kube.status(&running).await?;
            ensure!(status.exit_code == 137, "{status:?}");
            let text = log(Path::new(&status.log_path))?.of("stdout");
            let numbers: Vec<u64> = text.lines().map(str::parse).collect::<Result<_, _>>()?;
            ensure!(
                numbers.len() > 20 && numbers.iter().copied().eq(0..numbers.len() as u64),
                "a gap in the log"
            );
            for id in all {
                kube.remove(id).await?;
            }
            ensure!(kube.list(None).await?.is_empty());
            Ok(())
        });
    }
}

#[test]
fn what_is_executed_goes_on_after_kill_minus_nine() {
    for userns in [true, false] {
        E2e::default().run(async |node| {
            let (kube, pod) = stage(node, userns).await?;
            let id = kube.run(&pod, request("c").waits()).await?;
            // It writes more than a pipe takes while nobody reads.
            let script = "echo $$ > /tmp/begun; while [ ! -e /tmp/go ]; do sleep 0.05; done; \
                          seq 100000; echo $$ > /tmp/done";
            let mut asking = kube.runtime.clone();
            let request = ExecSyncRequest {
                container_id: id.clone(),
                cmd: ["sh", "-c", script].map(str::to_owned).into(),
                timeout: 0,
            };
            let asked = tokio::spawn(async move { asking.exec_sync(request).await });
            let begun = async || Ok(kube.exec(&id, &["test", "-s", "/tmp/begun"]).await?.exit_code == 0);
            eventually("it has begun", begun).await?;
            node.kill_daemon()?;
            let answer = asked.await?;
            ensure!(answer.is_err(), "an answer of a daemon that was killed: {answer:?}");
            node.spawn().await?;
            let kube = Kube::connect(node).await?;
            kube.asked(&id, &["touch", "/tmp/go"]).await?;
            let done = async || Ok(kube.exec(&id, &["test", "-s", "/tmp/done"]).await?.exit_code == 0);
            eventually("it has ended by itself", done).await?;
            let said = kube.asked(&id, &["cat", "/tmp/begun", "/tmp/done"]).await?;
            let pids: Vec<&str> = said.lines().collect();
            ensure!(matches!(pids[..], [first, second] if first == second), "{said}");
            Ok(())
        });
    }
}

#[test]
fn what_ended_without_a_daemon_is_known_to_the_next_one_at_once() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let id = kube.run(&pod, request("ends").sh("sleep 0.5; echo last words; exit 7")).await?;
        let first = pid(&kube, &id).await?;
        node.kill_daemon()?;
        eventually("the container has ended", async || Ok(!proc::alive(first))).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let before = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos();
        node.spawn().await?;
        let kube = Kube::connect(node).await?;
        let status = kube.status(&id).await?;
        ensure!(status.state() == ContainerState::ContainerExited, "{status:?}");
        ensure!(status.exit_code == 7 && status.reason == "Error", "{status:?}");
        ensure!(u128::try_from(status.finished_at)? < before, "finished when it was asked: {status:?}");
        ensure!(log(Path::new(&status.log_path))?.of("stdout") == "last words\n");
        Ok(())
    });
}

#[test]
fn containers_without_their_shim_have_ended_and_can_be_removed() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let id = kube.run(&pod, request("lost").waits()).await?;
        let (first, shim) = (pid(&kube, &id).await?, shim(&kube, &pod).await?);
        node.kill_daemon()?;
        kill(Pid::from_raw(shim), Signal::SIGKILL)?;
        node.spawn().await?;
        let kube = Kube::connect(node).await?;
        let status = kube.ended(&id).await?;
        ensure!(
            status.exit_code == 255 && status.reason == "Unknown" && status.finished_at > 0,
            "{status:?}"
        );
        eventually("its process is gone", async || Ok(!proc::alive(first))).await?;
        kube.stop(&id, 10).await?;
        kube.remove(&id).await?;
        kube.cri.stop(&pod.id).await?;
        kube.cri.remove(&pod.id).await?;
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn the_infra_containers_end_is_the_end_of_its_containers() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let id = kube.run(&pod, request("orphan").waits()).await?;
        let first = pid(&kube, &id).await?;
        kill(Pid::from_raw(kube.cri.pid(&pod.id).await?), Signal::SIGKILL)?;
        let status = kube.ended(&id).await?;
        ensure!(status.exit_code != 0, "{status:?}");
        ensure!(!proc::alive(first), "it runs on without its pod");
        kube.cri.remove(&pod.id).await?;
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn what_is_made_while_its_pod_is_stopped_does_not_stay() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let makings: Vec<_> = (0..8)
            .map(|n| {
                let (kube, pod) = (kube.clone(), pod.clone());
                tokio::spawn(async move { kube.run(&pod, request(&format!("late{n}")).waits()).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(15)).await;
        kube.cri.stop(&pod.id).await?;
        for making in makings {
            // Made in time and ended with the pod, or refused: both are right.
            let _ = making.await?;
        }
        eventually("none runs", async || {
            Ok(kube.list(None).await?.iter().all(|c| c.state() == ContainerState::ContainerExited))
        })
        .await?;
        kube.cri.remove(&pod.id).await?;
        eventually("none is listed", async || Ok(kube.list(None).await?.is_empty())).await?;
        eventually("nothing is left", async || Ok(node.leftovers().await.is_empty())).await
    });
}

#[test]
fn an_execs_child_that_never_stops_writing_does_not_hold_it_up() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let id = kube.run(&pod, request("box").waits()).await?;
        let begin = Instant::now();
        let said = kube.exec(&id, &["sh", "-c", "echo first; yes & sleep 0.1; exit 3"]).await?;
        ensure!(said.exit_code == 3 && said.stdout.starts_with(b"first\n"), "{}", said.exit_code);
        ensure!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
        Ok(())
    });
}

#[test]
fn a_caller_that_goes_away_leaves_no_command_behind() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let id = kube.run(&pod, request("box").waits()).await?;
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sleep", "7654"].map(str::to_owned).into(),
            timeout: 0,
        };
        let mut runtime = kube.runtime.clone();
        let call = tokio::spawn(async move { runtime.exec_sync(request).await });
        let runs = || proc::all().into_iter().any(|p| p.command.contains("sleep 7654"));
        eventually("the command runs", async || Ok(runs())).await?;
        call.abort();
        eventually("the command is gone", async || Ok(!runs())).await?;
        ensure!(kube.status(&id).await?.state() == ContainerState::ContainerRunning);
        Ok(())
    });
}

/// Before the daemon has heard of the pod's end, and after.
#[test]
fn a_container_in_a_pod_that_has_just_ended_is_refused_for_that() {
    E2e::default().run(async |node| {
        let (kube, pod) = stage(node, true).await?;
        let infra = kube.cri.pid(&pod.id).await?;
        kill(Pid::from_raw(infra), Signal::SIGKILL)?;
        let begin = Instant::now();
        while proc::read(infra).is_some() {
            ensure!(begin.elapsed() < patient(Duration::from_secs(10)), "it does not end");
        }
        for name in ["at-once", "later"] {
            let created = kube.create(&pod, request(name).sh("true")).await;
            refused(created, Code::FailedPrecondition, &[&pod.id, "NotReady"])?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        ensure!(kube.list(None).await?.is_empty(), "a container is left");
        Ok(())
    });
}
