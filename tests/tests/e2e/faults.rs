//! Plugins that fail or hang, processes that die.

use std::fs;

use anyhow::{Context, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_api::cri::PodSandboxState;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Options;
use sandboxd_tests::proc;

use crate::support::{eventually, faulty};

#[test]
fn a_failing_add_is_reported_in_the_plugins_words_and_undone() {
    let control = tempfile::tempdir().unwrap();
    fs::write(control.path().join("fail-ADD"), "the moon is full").unwrap();
    E2e::default().options(faulty(control.path())).run(async |node| {
        let cri = node.cri().await?;
        let status = cri.run(node.pod("moon").userns().build()).await.err().context("it ran")?;
        ensure!(status.message().contains("the moon is full"), "{status:?}");
        ensure!(status.message().contains("cni-fault"), "does not name the plugin: {status:?}");
        ensure!(cri.list(None).await?.is_empty());
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        fs::remove_file(control.path().join("fail-ADD"))?;
        cri.run(node.pod("moon").userns().build()).await?;
        Ok(())
    });
}

#[test]
fn output_that_is_no_result_is_an_error_and_undone() {
    let control = tempfile::tempdir().unwrap();
    fs::write(control.path().join("garbage-ADD"), "").unwrap();
    E2e::default().options(faulty(control.path())).run(async |node| {
        let cri = node.cri().await?;
        let status = cri.run(node.pod("garbage").userns().build()).await.err().context("it ran")?;
        ensure!(status.message().contains("cni-fault"), "{status:?}");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_hanging_add_ends_at_its_deadline_with_its_children() {
    let control = tempfile::tempdir().unwrap();
    fs::write(control.path().join("hang-ADD"), "").unwrap();
    let options = Options { config: "[cni]\nadd_timeout = \"2s\"\n".into(), ..faulty(control.path()) };
    E2e::default().options(options).run(async |node| {
        let cri = node.cri().await?;
        let begun = std::time::Instant::now();
        let status = cri.run(node.pod("hang").userns().build()).await.err().context("it ran")?;
        ensure!(begun.elapsed().as_secs() < 20, "took {:?}", begun.elapsed());
        ensure!(status.message().contains("cni-fault"), "{status:?}");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        let marker = control.path().to_string_lossy().into_owned();
        ensure!(!proc::all().iter().any(|p| p.mentions(&marker)), "the plugin still runs");
        Ok(())
    });
}

#[test]
fn a_failing_del_keeps_the_address_until_it_works() {
    let control = tempfile::tempdir().unwrap();
    E2e::default().options(faulty(control.path())).run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("sticky").userns().build()).await?;
        fs::write(control.path().join("fail-DEL"), "not today")?;
        let status = cri.stop(&id).await.err().context("StopPodSandbox hid a failed DEL")?;
        ensure!(status.message().contains("not today"), "{status:?}");
        fs::remove_file(control.path().join("fail-DEL"))?;
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_killed_infra_container_makes_the_pod_not_ready() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("killed").userns().build()).await?;
        kill(Pid::from_raw(cri.pid(&id).await?), Signal::SIGKILL)?;
        eventually("the pod is NOTREADY", async || {
            let status = cri.status(&id).await?.status.context("no status")?;
            Ok(status.state() == PodSandboxState::SandboxNotready)
        })
        .await?;
        // Kubelet then stops and removes it, and the address must go back.
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_pod_whose_netns_pin_is_gone_still_gives_its_address_back() {
    let control = tempfile::tempdir().unwrap();
    let options = Options { plain_bridge: true, ..faulty(control.path()) };
    E2e::default().options(options).run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("unpinned").userns().build()).await?;
        let info = cri.info(&id).await?;
        let path = info["netnsPath"].as_str().context("no netnsPath")?.to_owned();
        kill(Pid::from_raw(cri.pid(&id).await?), Signal::SIGKILL)?;
        nix::mount::umount2(path.as_str(), nix::mount::MntFlags::MNT_DETACH)?;
        fs::remove_file(&path)?;
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        let calls = fs::read_to_string(control.path().join("calls"))?;
        ensure!(calls.lines().any(|l| l.starts_with(&format!("DEL {id}"))), "no DEL: {calls}");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

#[test]
fn a_caller_that_goes_away_leaves_no_half_made_pod() {
    let control = tempfile::tempdir().unwrap();
    fs::write(control.path().join("slow-ADD"), "700").unwrap();
    E2e::default().options(faulty(control.path())).run(async |node| {
        let cri = node.cri().await?;
        let config = node.pod("hasty").userns().build();
        let gone = tokio::time::timeout(std::time::Duration::from_millis(350), cri.run(config)).await;
        ensure!(gone.is_err(), "it was too quick to be cancelled: {gone:?}");
        eventually("nothing is left of it", async || {
            Ok(sandboxd_tests::leftovers::of_pods(&node.scope, node.daemon_pid()).is_empty())
        })
        .await?;
        ensure!(cri.list(None).await?.is_empty());
        Ok(())
    });
}
