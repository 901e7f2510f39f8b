//! The daemon is killed and started again.

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_api::cri::PodSandboxState;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::{ns, proc};

use crate::support::{eventually, faulty};

#[test]
fn pods_live_on_and_are_the_same_after_kill_minus_nine() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let mut before = Vec::new();
        for name in ["a", "b", "c"] {
            let id = cri.run(node.pod(name).userns().label("n", name).build()).await?;
            before.push((cri.status(&id).await?.status.context("no status")?, cri.pid(&id).await?));
        }
        cri.stop(&before[2].0.id).await?;
        before[2].0 = cri.status(&before[2].0.id).await?.status.context("no status")?;
        drop(cri);

        node.kill_daemon()?;
        for (status, pid) in &before[..2] {
            ensure!(proc::alive(*pid), "{}'s infra container went with the daemon", status.id);
        }
        node.spawn().await?;

        let cri = node.cri().await?;
        ensure!(cri.list(None).await?.len() == 3);
        for (status, pid) in &before {
            let after = cri.status(&status.id).await?.status.context("no status")?;
            ensure!(after == *status, "{after:?} was {status:?}");
            if after.state() == PodSandboxState::SandboxReady {
                ensure!(cri.pid(&status.id).await? == *pid);
                ensure!(ns::owner_of(*pid, "net")? == ns::inode_of(*pid, "user")?);
            }
        }
        for (status, pid) in &before {
            cri.stop(&status.id).await?;
            cri.remove(&status.id).await?;
            ensure!(!proc::alive(*pid), "{} still runs after its removal", status.id);
        }
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn sigterm_leaves_the_pods_running() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("drained").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        drop(cri);
        node.terminate_daemon().await?;
        ensure!(proc::alive(pid), "the pod went with the daemon");
        ensure!(!node.cri_socket().exists(), "the socket is left");
        node.spawn().await?;
        ensure!(node.cri().await?.pid(&id).await? == pid);
        Ok(())
    });
}

#[test]
fn a_pod_that_died_meanwhile_is_not_ready_and_can_be_removed() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("died").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        drop(cri);
        node.kill_daemon()?;
        kill(Pid::from_raw(pid), Signal::SIGKILL)?;
        node.spawn().await?;
        let cri = node.cri().await?;
        eventually("the pod is NOTREADY", async || {
            let status = cri.status(&id).await?.status.context("no status")?;
            Ok(status.state() == PodSandboxState::SandboxNotready)
        })
        .await?;
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_pod_without_its_shim_can_be_removed_after_a_restart() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("noshim").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let shim = proc::read(pid).context("no infra container")?.parent;
        drop(cri);
        node.kill_daemon()?;
        kill(Pid::from_raw(shim), Signal::SIGKILL)?;
        node.spawn().await?;
        let cri = node.cri().await?;
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        ensure!(!proc::alive(pid), "the infra container outlived its pod");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_half_made_pod_is_undone() {
    let control = tempfile::tempdir().unwrap();
    std::fs::write(control.path().join("slow-ADD"), "60000").unwrap();
    E2e::default().options(faulty(control.path())).run(async |node| {
        let cri = node.cri().await?;
        let config = node.pod("half").userns().build();
        let running = tokio::spawn(async move { cri.run(config).await });
        let calls = control.path().join("calls");
        eventually("ADD has begun", async || Ok(calls.exists())).await?;
        node.kill_daemon()?;
        let result = running.await?;
        ensure!(result.is_err(), "a pod of a killed daemon: {result:?}");
        std::fs::remove_file(control.path().join("slow-ADD"))?;

        node.spawn().await?;
        let cri = node.cri().await?;
        let left = node.leftovers().await;
        let others: Vec<_> = left.iter().filter(|l| !l.to_string().contains("cni-fault")).collect();
        ensure!(others.is_empty(), "{others:?}");
        ensure!(cri.list(None).await?.is_empty(), "the half-made pod is listed");
        let calls = std::fs::read_to_string(calls)?;
        ensure!(calls.lines().any(|l| l.starts_with("DEL ")), "no DEL for the half-made pod: {calls}");
        // Its name is free again.
        cri.run(node.pod("half").userns().build()).await?;
        Ok(())
    });
}

#[test]
fn a_second_daemon_on_the_same_directories_is_refused() {
    E2e::default().run(async |node| {
        let output = node.command().output()?;
        ensure!(!output.status.success(), "a second daemon ran");
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(words.contains(&*node.scope.dir.to_string_lossy()), "does not say what is taken: {words}");
        node.cri().await?.list(None).await?;
        Ok(())
    });
}
