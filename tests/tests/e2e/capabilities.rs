//! What containers ask for, and a container that asks for very much.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::{
    CapabilityUse, ContainerCapabilities, ListCapabilitiesRequest, ListCapabilitiesResponse,
    ListChecksRequest, check,
};
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::node::Options;
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, Request};

use crate::support::eventually;

async fn listed(console: &Console, pod: &str) -> Result<ListCapabilitiesResponse> {
    let request = ListCapabilitiesRequest { pod_id: pod.to_owned() };
    Ok(console.client.clone().list_capabilities(request).await?.into_inner())
}

fn container<'a>(list: &'a ListCapabilitiesResponse, name: &str) -> Result<&'a ContainerCapabilities> {
    list.containers.iter().find(|c| c.container == name).with_context(|| format!("no {name} in {list:?}"))
}

fn of<'a>(container: &'a ContainerCapabilities, name: &str) -> Result<&'a CapabilityUse> {
    let found = container.capabilities.iter().find(|c| c.name == name);
    found.with_context(|| format!("no {name} in {container:?}"))
}

/// chown and kill are no syscalls that checks are recorded of: only the counting of all shows their capabilities.
#[test]
fn what_a_container_uses_in_any_syscall_is_told_from_what_it_does_not() {
    let options = Options { config: "[observer]\nall_capabilities = true\n".into(), ..Options::default() };
    E2e::default().needs(Need::Bpf).options(options).run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("counted").userns()).await?;
        let script =
            "touch /f; chown 1:1 /f; chown 2:2 /f; mount -t tmpfs none /tmp; while :; do sleep 1; done";
        kube.run(&pod, Request::new("web", BUSYBOX).sh(script)).await?;
        eventually("CAP_CHOWN is used", async || {
            let list = listed(&console, &pod.id).await?;
            Ok(of(container(&list, "web")?, "CAP_CHOWN")?.used > 0)
        })
        .await?;
        eventually("the denied mount is counted", async || {
            let list = listed(&console, &pod.id).await?;
            Ok(of(container(&list, "web")?, "CAP_SYS_ADMIN").is_ok_and(|c| c.denied > 0))
        })
        .await?;
        let denied = async || -> Result<u64> {
            let list = listed(&console, &pod.id).await?;
            Ok(of(container(&list, "web")?, "CAP_SYS_ADMIN")?.denied)
        };
        // It forks and maps memory all the time, and the kernel asks for CAP_SYS_ADMIN each time without minding.
        let before = denied().await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        ensure!(denied().await? == before, "{before} denials of CAP_SYS_ADMIN, then {}", denied().await?);
        let list = listed(&console, &pod.id).await?;
        let web = container(&list, "web")?;
        ensure!(web.userns && web.observed_since_ns > 0, "{web:?}");
        ensure!(of(web, "CAP_CHOWN")?.granted && !of(web, "CAP_SYS_ADMIN")?.granted, "{web:?}");
        ensure!(web.suggested_drop.iter().any(|name| name == "CAP_NET_RAW"), "{web:?}");
        ensure!(!web.suggested_drop.iter().any(|name| name == "CAP_CHOWN"), "{web:?}");
        ensure!(web.caveat.contains("another load"), "{}", web.caveat);
        let [whole] = &list.pods[..] else { anyhow::bail!("one pod: {list:?}") };
        ensure!(of(whole, "CAP_CHOWN")?.used == of(web, "CAP_CHOWN")?.used, "{whole:?}");
        Ok(())
    });
}

#[test]
fn nothing_is_suggested_where_only_mounts_are_seen() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("partly")).await?;
        kube.run(&pod, Request::new("web", BUSYBOX).sh("mount -t tmpfs none /tmp; sleep 1000")).await?;
        eventually("the denied mount is the container's", async || {
            let list = listed(&console, &pod.id).await?;
            Ok(of(container(&list, "web")?, "CAP_SYS_ADMIN").is_ok_and(|c| c.denied > 0 && !c.granted))
        })
        .await?;
        let list = listed(&console, &pod.id).await?;
        let web = container(&list, "web")?;
        ensure!(web.suggested_drop.is_empty() && web.caveat.contains("observer.all_capabilities"), "{web:?}");
        ensure!(of(web, "CAP_CHOWN")?.granted, "{web:?}");
        Ok(())
    });
}

/// One container mounts in a loop and is denied each time; another pod's single denial is found all the same, and
/// the sums are exact.
#[test]
fn a_container_in_a_loop_of_denied_mounts_hides_nobody() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let (flood, quiet) =
            (kube.pod(node.pod("flood").userns()).await?, kube.pod(node.pod("quiet").userns()).await?);
        // Many processes, for each mount costs a fork of the shell's.
        let script = "for i in 1 2 3 4; do while :; do mount -t tmpfs none /tmp; done & done; wait";
        kube.run(&flood, Request::new("flood", BUSYBOX).sh(script)).await?;
        let counts = async |id: &str| -> Result<_> {
            let pods = console.snapshot().await?.pods;
            let pod = pods.into_iter().find(|pod| pod.id == id).context("the pod is not in the snapshot")?;
            pod.checks.context("no counts")
        };
        eventually("the flood denied", async || Ok(counts(&flood.id).await?.denied > 200)).await?;
        for n in 0..3 {
            let name = format!("quiet{n}");
            kube.run(&quiet, Request::new(&name, BUSYBOX).sh("mount -t proc none /tmp; sleep 1000")).await?;
            eventually("the quiet pod's denial is in the history", async || {
                let request =
                    ListChecksRequest { pod_id: quiet.id.clone(), denied_only: true, ..Default::default() };
                let checks = console.checks(request).await?;
                let own = |c: &&sandboxd_api::console::Check| c.container == name && c.argument == "proc";
                Ok(checks.iter().find(own).is_some_and(|c| c.verdict() == check::Verdict::Denied))
            })
            .await?;
        }
        kube.cri.remove(&flood.id).await?;
        eventually("the counts add up", async || {
            let now = console.snapshot().await?.observer.context("no observer")?;
            Ok(now.produced == now.seen + now.sampled_out + now.lost
                && now.allowed + now.denied + now.failed == now.seen + now.sampled_out)
        })
        .await
    });
}
