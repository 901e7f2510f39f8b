//! How long the rpcs on containers take.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::node::Node;
use sandboxd_tests::workload::{Kube, Request};

use crate::report::Report;
use crate::stats::Series;

const WARM_UP: u32 = 3;

async fn timed<T, E>(call: impl Future<Output = Result<T, E>>) -> Result<(T, Duration), E> {
    let begun = Instant::now();
    call.await.map(|answer| (answer, begun.elapsed()))
}

/// One container after the other in a userns pod, the image present: create, start, `true`, stop, remove.
pub async fn one_by_one(node: &mut Node, containers: u32, report: &mut Report) -> Result<()> {
    node.load_busybox().await?;
    let kube = Kube::connect(node).await?;
    let pod = kube.pod(node.pod("bench").userns()).await.context("RunPodSandbox")?;
    let mut series: [Series; 7] = Default::default();
    let [create, start, both, exec, status, stop, remove] = &mut series;
    for round in 0..containers + WARM_UP {
        let request = Request::new(&format!("c{round}"), BUSYBOX).command(&["/bin/sleep", "1000"]);
        let (id, created) = timed(kube.create(&pod, request)).await.context("CreateContainer")?;
        let ((), started) = timed(kube.start(&id)).await.context("StartContainer")?;
        let (said, executed) = timed(kube.exec(&id, &["true"])).await.context("ExecSync")?;
        ensure!(said.exit_code == 0, "true ended with {}", said.exit_code);
        let (_, told) = timed(kube.status(&id)).await.context("ContainerStatus")?;
        let ((), stopped) = timed(kube.stop(&id, 0)).await.context("StopContainer")?;
        let ((), removed) = timed(kube.remove(&id)).await.context("RemoveContainer")?;
        if round < WARM_UP {
            continue;
        }
        create.push_time(created);
        start.push_time(started);
        both.push_time(created + started);
        exec.push_time(executed);
        status.push_time(told);
        stop.push_time(stopped);
        remove.push_time(removed);
    }
    kube.cri.stop(&pod.id).await.context("StopPodSandbox")?;
    kube.cri.remove(&pod.id).await.context("RemovePodSandbox")?;
    report.group("Latency of one container after the other in a userns pod");
    let rows = [
        ("CreateContainer", &*create),
        ("StartContainer", start),
        ("both together", both),
        ("ExecSync true", exec),
        ("ContainerStatus", status),
        ("StopContainer, no grace", stop),
        ("RemoveContainer", remove),
    ];
    for (name, series) in rows {
        report.row(name, "ms", series);
    }
    Ok(())
}
