//! Containers, events and usage on the console protocol.

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::{
    Event, GetUsageRequest, ListEventsRequest, RemoveContainerRequest, RemovePodRequest,
    StopContainerRequest, StopPodRequest, container, event, pod,
};
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::workload::{Kube, Request};
use tonic::Code;

use crate::support::{eventually, refused};

async fn events(console: &Console, pod_id: &str) -> Result<Vec<Event>> {
    let request = ListEventsRequest { pod_id: pod_id.to_owned(), ..Default::default() };
    Ok(console.client.clone().list_events(request).await?.into_inner().events)
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.kind.as_str()).collect()
}

#[test]
fn containers_come_run_end_and_go() {
    E2e::default().run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("stage").userns()).await?;
        let there = kube.run(&pod, Request::new("there", BUSYBOX).waits()).await?;
        let (snapshot, mut watch) = console.watch().await?;
        let seen = snapshot.containers.iter().find(|it| it.id == there).context("no container")?;
        ensure!(
            seen.state() == container::State::Running && seen.pod_id == pod.id && seen.pid > 0,
            "{seen:?}"
        );
        ensure!(
            seen.name == "there" && seen.image == BUSYBOX && seen.log_path.ends_with("there_0.log"),
            "{seen:?}"
        );
        let shown = snapshot.pods.iter().find(|it| it.id == pod.id).context("no pod")?;
        let process = shown.processes.iter().find(|it| it.role == "container:there").context("no process")?;
        ensure!(process.pid == seen.pid, "{process:?}, {seen:?}");
        ensure!(snapshot.access.context("no access")?.may_act, "root may act");

        let id = kube.create(&pod, Request::new("short", BUSYBOX).sh("exit 3")).await?;
        let mut next = async |state: container::State| {
            watch
                .until(|change| match change {
                    Change::Container(it) if it.id == id && it.state() == state => Some(it),
                    _ => None,
                })
                .await
                .with_context(|| format!("waiting for {state:?}"))
        };
        next(container::State::Created).await?;
        kube.start(&id).await?;
        next(container::State::Running).await?;
        let ended = next(container::State::Exited).await?;
        ensure!(ended.exit_code == 3 && ended.reason == "Error" && ended.pid == 0, "{ended:?}");
        ensure!(ended.finished_at_ns >= ended.started_at_ns && ended.started_at_ns > 0, "{ended:?}");
        kube.remove(&id).await?;
        watch
            .until(|change| matches!(change, Change::ContainerRemoved(gone) if gone == id).then_some(()))
            .await?;
        Ok(())
    });
}

#[test]
fn a_life_is_told_in_its_order() {
    E2e::default().run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("told").userns()).await?;
        let id = kube.run(&pod, Request::new("short", BUSYBOX).sh("exit 3")).await?;
        kube.ended(&id).await?;
        kube.remove(&id).await?;
        kube.cri.stop(&pod.id).await?;
        kube.cri.remove(&pod.id).await?;
        let expected = [
            "pod-created",
            "pod-ready",
            "container-created",
            "container-started",
            "container-exited",
            "container-removed",
            "pod-stopped",
            "pod-removed",
        ];
        eventually("the last event", async || {
            Ok(events(&console, &pod.id).await?.last().is_some_and(|event| event.kind == "pod-removed"))
        })
        .await?;
        let told = events(&console, &pod.id).await?;
        ensure!(kinds(&told) == expected, "{told:#?}");
        ensure!(
            told.iter().all(|event| event.pod_name == "default/told" && !event.message.is_empty()),
            "{told:#?}"
        );
        ensure!(told.is_sorted_by_key(|event| event.seq), "{told:#?}");
        let exited = &told[4];
        ensure!(exited.severity() == event::Severity::Warning && exited.container == "short", "{exited:?}");
        ensure!(exited.message.contains("exit code 3"), "{exited:?}");

        let broken = kube.cri.run_with(node.pod("broken").userns().build(), "network-first").await;
        ensure!(broken.is_err());
        let failed = console.snapshot().await?.pods;
        let failed = failed.iter().find(|pod| pod.state() == pod::State::Failed).context("no failed pod")?;
        eventually("its event", async || {
            let told = events(&console, &failed.id).await?;
            Ok(told
                .iter()
                .any(|event| event.kind == "pod-failed" && event.severity() == event::Severity::Warning))
        })
        .await?;
        let all = console.snapshot().await?.recent_events;
        ensure!(
            all.first().is_some_and(|event| event.kind == "daemon-started" && event.seq == 1),
            "{all:#?}"
        );
        ensure!(kinds(&all).contains(&"network-ready"), "{all:#?}");
        Ok(())
    });
}

#[test]
fn the_next_daemon_says_what_it_adopted() {
    E2e::default().run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod(node.pod("kept").userns()).await?;
        kube.run(&pod, Request::new("one", BUSYBOX).waits()).await?;
        node.kill_daemon()?;
        node.spawn().await?;
        let told = node.console().await?.snapshot().await?.recent_events;
        ensure!(
            told[0].kind == "daemon-started" && told[0].message.contains("1 pod, 1 container"),
            "{told:#?}"
        );
        ensure!(told[1].kind == "adopted" && told[1].pod_id == pod.id, "{told:#?}");
        Ok(())
    });
}

#[test]
fn usage_is_that_of_what_runs() {
    E2e::default().run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("busy").userns()).await?;
        let other = kube.pod(node.pod("other")).await?;
        let spins = "dd if=/dev/zero of=/written bs=1M count=3 2>/dev/null; while :; do :; done";
        let limit = 64 << 20;
        let request =
            Request::new("spins", BUSYBOX).sh(spins).with_resources(|it| it.memory_limit_in_bytes = limit);
        let id = kube.run(&pod, request).await?;
        let idle = kube.run(&pod, Request::new("idle", BUSYBOX).command(&["sleep", "1000"])).await?;
        let usage = async |pod_id: &str| -> Result<_> {
            let request = GetUsageRequest { pod_id: pod_id.to_owned() };
            Ok(console.client.clone().get_usage(request).await?.into_inner())
        };
        eventually("CPU time, and what was written", async || {
            let used = usage(&pod.id).await?;
            let spins = used.containers.iter().find(|it| it.id == id).context("no container")?;
            Ok(spins.cpu_ns > 50_000_000 && spins.writable_bytes >= 3 << 20)
        })
        .await?;
        let used = usage(&pod.id).await?;
        let of = |id: &str| used.containers.iter().find(|it| it.id == id).cloned().context("no container");
        let (spins, idle, whole) = (of(&id)?, of(&idle)?, used.pods.first().context("no pod")?.clone());
        ensure!(spins.memory_limit_bytes == u64::try_from(limit)? && spins.pids >= 1, "{spins:?}");
        ensure!(spins.memory_bytes > 0 && spins.memory_bytes <= spins.memory_limit_bytes, "{spins:?}");
        ensure!(idle.cpu_ns < spins.cpu_ns && idle.memory_limit_bytes == 0, "{idle:?}");
        ensure!(whole.id == pod.id && whole.pids >= spins.pids + idle.pids, "{whole:?}");
        ensure!(used.pods.len() == 1 && usage("").await?.pods.iter().any(|it| it.id == other.id));
        refused(usage_of_nothing(&console).await, Code::NotFound, &["no pod"])
    });
}

async fn usage_of_nothing(console: &Console) -> Result<(), tonic::Status> {
    console.client.clone().get_usage(GetUsageRequest { pod_id: "nothing".into() }).await.map(drop)
}

#[test]
fn operators_stop_and_remove() {
    E2e::default().run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("ended").userns()).await?;
        let one = kube.run(&pod, Request::new("one", BUSYBOX).waits()).await?;
        let two = kube.run(&pod, Request::new("two", BUSYBOX).waits()).await?;
        let mut client = console.client.clone();
        // A prefix is enough.
        let prefix = one[..12].to_owned();
        client.stop_container(StopContainerRequest { container_id: prefix.clone(), timeout_s: 10 }).await?;
        let status = kube.status(&one).await?;
        ensure!(status.exit_code == 0, "it had its grace period: {status:?}");
        client.remove_container(RemoveContainerRequest { container_id: prefix }).await?;
        ensure!(kube.list(None).await?.len() == 1);
        refused(
            client.stop_container(StopContainerRequest { container_id: one, timeout_s: 0 }).await,
            Code::NotFound,
            &["no container"],
        )?;
        client.stop_pod(StopPodRequest { pod_id: pod.id.clone() }).await?;
        let status = kube.status(&two).await?;
        ensure!(status.finished_at > 0, "{status:?}");
        client.remove_pod(RemovePodRequest { pod_id: pod.id.clone() }).await?;
        ensure!(kube.list(None).await?.is_empty() && kube.cri.list(None).await?.is_empty());
        let log = node.log_tail(200);
        for action in ["StopContainer", "RemoveContainer", "StopPod", "RemovePod"] {
            let line = log.lines().find(|line| line.contains("sandboxd::audit") && line.contains(action));
            let line = line.with_context(|| format!("no audit line of {action}"))?;
            ensure!(line.contains("uid 0") && line.contains("default/ended"), "{line}");
        }
        Ok(())
    });
}
