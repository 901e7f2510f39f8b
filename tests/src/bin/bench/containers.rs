//! Containers: how long the rpcs on them take, what a pod with one weighs, how fast its log is written.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sandboxd_tests::image::{self, Layer};
use sandboxd_tests::node::Node;
use sandboxd_tests::proc;
use sandboxd_tests::workload::{Kube, Request, Sandbox};

use crate::report::Report;
use crate::stats::Series;

const WARM_UP: u32 = 3;
/// The image of the log's figure, about how much each of its files holds, and how often one is written.
const LINES: &str = "sandboxd.test/lines:1";
const FILE: usize = 16 << 20;
const TIMES: usize = 32;

/// One container after the other in a userns pod: create, start, exec, stop, remove.
pub async fn one_by_one(node: &Node, rounds: u32, report: &mut Report) -> Result<()> {
    node.load_busybox()?;
    let kube = Kube::connect(node).await?;
    let pod = kube.pod(node.pod("boxes").userns()).await?;
    let mut series: [Series; 6] = Default::default();
    let [create, start, both, exec, stop, remove] = &mut series;
    for round in 0..rounds + WARM_UP {
        let request = Request::new(&format!("box{round}"), image::BUSYBOX).waits();
        let begun = Instant::now();
        let id = kube.create(&pod, request).await.context("CreateContainer")?;
        let created = begun.elapsed();
        kube.start(&id).await.context("StartContainer")?;
        let started = begun.elapsed();
        // Not the first: the shell has to come up.
        kube.exec(&id, &["true"]).await?;
        let begun = Instant::now();
        let said = kube.exec(&id, &["true"]).await.context("ExecSync")?;
        let executed = begun.elapsed();
        ensure!(said.exit_code == 0, "true ended with {}", said.exit_code);
        let begun = Instant::now();
        kube.stop(&id, 0).await.context("StopContainer")?;
        let stopped = begun.elapsed();
        let begun = Instant::now();
        kube.remove(&id).await.context("RemoveContainer")?;
        let removed = begun.elapsed();
        if round >= WARM_UP {
            create.push_time(created);
            start.push_time(started.saturating_sub(created));
            both.push_time(started);
            exec.push_time(executed);
            stop.push_time(stopped);
            remove.push_time(removed);
        }
    }
    report.group("Latency of one container after the other (busybox, userns pod)");
    let rows = [
        ("CreateContainer and StartContainer", &*both),
        ("  CreateContainer", create),
        ("  StartContainer", start),
        ("ExecSync true", exec),
        ("StopContainer, killed at once", stop),
        ("RemoveContainer", remove),
    ];
    for (name, series) in rows {
        report.row(name, "ms", series);
    }
    log(node, &kube, &pod, report).await?;
    kube.cri.remove(&pod.id).await?;
    Ok(())
}

/// Bytes of a container's output a second, until the last line is in the log: `cat` of a file, over and over.
async fn log(node: &Node, kube: &Kube, pod: &Sandbox, report: &mut Report) -> Result<()> {
    report.group("Log of a container");
    let lengths = [("lines of 100 bytes", 100), ("lines of 4,000 bytes", 4000)];
    let mut layer = Layer::default();
    for (_, length) in lengths {
        let lines = format!("{}\n", "x".repeat(length - 1)).repeat(FILE / length);
        layer = layer.file(&format!("lines{length}"), 0o644, (0, 0), lines);
    }
    let archive = node.path("lines.tar");
    image::busybox_named(LINES)?.layer(layer).write(&archive)?;
    node.import(&archive)?;
    std::fs::remove_file(&archive)?;
    for (name, length) in lengths {
        let mut series = Series::default();
        let logged = (FILE / length * length * TIMES) as u64;
        for round in 0..3 {
            let script = format!("for i in $(seq {TIMES}); do cat /lines{length}; done");
            let request = Request::new(&format!("log{length}-{round}"), LINES).sh(&script);
            let id = kube.run(pod, request).await?;
            let begun = Instant::now();
            let status = kube.ended(&id).await?;
            let took = begun.elapsed();
            ensure!(status.exit_code == 0, "{status:?}");
            let written = std::fs::metadata(&status.log_path)?.len();
            ensure!(written > logged, "only {written} bytes in the log");
            #[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
            series.push(logged as f64 / 1e6 / took.as_secs_f64());
            kube.remove(&id).await?;
            std::fs::remove_file(&status.log_path)?;
        }
        report.row(name, "MB/s", &series);
    }
    Ok(())
}

/// Pods with one container each, all at once; what each weighs, with its shim.
pub async fn with_pods(node: &Node, pods: u32, report: &mut Report) -> Result<()> {
    node.load_busybox()?;
    let kube = Kube::connect(node).await?;
    let begun = Instant::now();
    let made: Vec<(Sandbox, String)> = stream::iter(0..pods)
        .map(|n| {
            let kube = kube.clone();
            let pod = node.pod(&format!("full{n}")).userns();
            async move {
                let pod = kube.pod(pod).await?;
                // Nothing but its own page: what is measured is the runtime's part.
                let request = Request::new("box", image::BUSYBOX).command(&["/bin/sleep", "3600"]);
                let id = kube.run(&pod, request).await?;
                anyhow::Ok((pod, id))
            }
        })
        .buffer_unordered(pods as usize)
        .try_collect()
        .await?;
    let mut all = Series::default();
    all.push_time(begun.elapsed());
    let (mut weight, mut daemon) = (Series::default(), Series::default());
    for (pod, _) in &made {
        let infra = kube.cri.pid(&pod.id).await?;
        let shim = proc::read(infra).context("the infra container is gone")?.parent;
        weight.push(kib(proc::pss_kib(shim)? + proc::pss_kib(infra)?));
    }
    daemon.push(kib(proc::pss_kib(node.daemon_pid().context("no daemon")?)?));
    report.group(&format!("{pods} userns pods with a container each"));
    report.row("at once, until all run", "ms", &all);
    report.row("a pod's shim and pause (PSS)", "KiB", &weight);
    report.row("daemon (PSS)", "KiB", &daemon);
    let mut down = Series::default();
    let begun = Instant::now();
    stream::iter(&made)
        .map(|(pod, _)| async {
            kube.cri.stop(&pod.id).await?;
            kube.cri.remove(&pod.id).await
        })
        .buffer_unordered(pods as usize)
        .try_collect::<Vec<()>>()
        .await?;
    down.push_time(begun.elapsed());
    report.row("until all are stopped and removed", "ms", &down);
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

fn kib(kib: u64) -> f64 {
    // Far below 2^53.
    u32::try_from(kib).map_or(f64::MAX, f64::from)
}
