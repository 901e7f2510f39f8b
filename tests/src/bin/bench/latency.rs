//! How long the rpcs take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sandboxd_api::console::{GetTimelineRequest, Timeline};
use sandboxd_api::cri::VersionRequest;
use sandboxd_tests::console::Console;
use sandboxd_tests::node::Node;

use crate::report::Report;
use crate::stats::Series;

const WARM_UP: u32 = 3;
const ROUNDS_AT_ONCE: u32 = 5;

/// What the timeline says of the plugins' time, in all steps.
async fn cni(console: &Console, id: &str) -> Result<Duration> {
    let request = GetTimelineRequest { pod_id: id.to_owned() };
    let timeline = console.client.clone().get_timeline(request).await?.into_inner().timeline;
    let Timeline { steps, .. } = timeline.context("no timeline")?;
    Ok(Duration::from_nanos(steps.iter().map(|s| s.cni_ns).sum()))
}

/// One userns pod after the other: run, status, list, stop, remove.
pub async fn one_by_one(node: &Node, pods: u32, report: &mut Report) -> Result<()> {
    let (cri, console) = (node.cri().await?, node.console().await?);
    let mut series: [Series; 10] = Default::default();
    let [version, run, run_cni, run_rest, status, list, stop, stop_cni, stop_rest, remove] = &mut series;
    for round in 0..pods + WARM_UP {
        let config = node.pod(&format!("bench{round}")).userns().build();
        let begun = Instant::now();
        cri.runtime.clone().version(VersionRequest::default()).await?;
        let versioned = begun.elapsed();

        let begun = Instant::now();
        let id = cri.run(config).await.context("RunPodSandbox")?;
        let ran = begun.elapsed();
        let added = cni(&console, &id).await?;

        let begun = Instant::now();
        cri.status(&id).await?;
        let told = begun.elapsed();
        let begun = Instant::now();
        cri.list(None).await?;
        let listed = begun.elapsed();

        let begun = Instant::now();
        cri.stop(&id).await.context("StopPodSandbox")?;
        let stopped = begun.elapsed();
        let deleted = cni(&console, &id).await?.saturating_sub(added);
        let begun = Instant::now();
        cri.remove(&id).await.context("RemovePodSandbox")?;
        let removed = begun.elapsed();

        if round < WARM_UP {
            continue;
        }
        version.push_time(versioned);
        run.push_time(ran);
        run_cni.push_time(added);
        run_rest.push_time(ran.saturating_sub(added));
        status.push_time(told);
        list.push_time(listed);
        stop.push_time(stopped);
        if !deleted.is_zero() {
            stop_cni.push_time(deleted);
            stop_rest.push_time(stopped.saturating_sub(deleted));
        }
        remove.push_time(removed);
    }
    report.group("Latency of one userns pod after the other");
    let rows = [
        ("Version", &*version),
        ("RunPodSandbox", run),
        ("  of it in CNI plugins", run_cni),
        ("  the rest", run_rest),
        ("PodSandboxStatus, verbose", status),
        ("ListPodSandbox", list),
        ("StopPodSandbox", stop),
        ("  of it in CNI plugins", stop_cni),
        ("  the rest", stop_rest),
        ("RemovePodSandbox", remove),
    ];
    for (name, series) in rows {
        report.row(name, "ms", series);
    }
    Ok(())
}

/// Many at once, until the last is ready.
pub async fn at_once(node: &Node, pods: u32, report: &mut Report) -> Result<()> {
    let cri = node.cri().await?;
    let (mut up, mut down) = (Series::default(), Series::default());
    for round in 0..ROUNDS_AT_ONCE {
        let configs: Vec<_> =
            (0..pods).map(|i| node.pod(&format!("once{round}-{i}")).userns().build()).collect();
        let begun = Instant::now();
        let ids: Vec<String> =
            stream::iter(configs).map(|c| cri.run(c)).buffer_unordered(pods as usize).try_collect().await?;
        up.push_time(begun.elapsed());
        let begun = Instant::now();
        stream::iter(&ids)
            .map(|id| async {
                cri.stop(id).await?;
                cri.remove(id).await
            })
            .buffer_unordered(pods as usize)
            .try_collect::<Vec<()>>()
            .await?;
        down.push_time(begun.elapsed());
    }
    report.group(&format!("{pods} userns pods at once"));
    report.row("until all are READY", "ms", &up);
    report.row("until all are stopped and removed", "ms", &down);
    Ok(())
}
