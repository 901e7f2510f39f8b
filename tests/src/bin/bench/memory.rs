//! Proportional set sizes (smaps_rollup), in KiB.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use sandboxd_tests::node::Node;
use sandboxd_tests::proc;

use crate::report::Report;
use crate::stats::Series;

fn as_kib(kib: u64) -> f64 {
    // Far below 2^53.
    u32::try_from(kib).map_or(f64::MAX, f64::from)
}

/// The daemon before its first pod.
pub fn idle(node: &Node, report: &mut Report) -> Result<()> {
    let mut series = Series::default();
    series.push(as_kib(proc::pss_kib(node.daemon_pid().context("no daemon")?)?));
    report.group("Memory (PSS)");
    report.row("daemon, no pod yet", "KiB", &series);
    Ok(())
}

/// Each of some pods, and the daemon that keeps them; how much CPU they take when nobody asks anything.
pub async fn with_pods(node: &Node, pods: u32, report: &mut Report) -> Result<()> {
    let cri = node.cri().await?;
    let daemon = node.daemon_pid().context("no daemon")?;
    let configs: Vec<_> = (0..pods).map(|i| node.pod(&format!("mem{i}")).userns().build()).collect();
    let ids: Vec<String> = stream::iter(configs).map(|c| cri.run(c)).buffered(8).try_collect().await?;
    let (mut shim, mut pause, mut both) = (Series::default(), Series::default(), Series::default());
    let mut pids = vec![daemon];
    for id in &ids {
        let infra = cri.pid(id).await?;
        let parent = proc::read(infra).context("the infra container is gone")?.parent;
        let (s, p) = (proc::pss_kib(parent)?, proc::pss_kib(infra)?);
        shim.push(as_kib(s));
        pause.push(as_kib(p));
        both.push(as_kib(s + p));
        pids.extend([infra, parent]);
    }
    report.group(&format!("Memory with {pods} userns pods (PSS)"));
    report.row("a pod: shim and pause", "KiB", &both);
    report.row("  the shim", "KiB", &shim);
    report.row("  the pause", "KiB", &pause);
    let mut series = Series::default();
    series.push(as_kib(proc::pss_kib(daemon)?));
    report.row("daemon", "KiB", &series);

    const SETTLE: Duration = Duration::from_secs(2);
    const IDLE: Duration = Duration::from_secs(20);
    tokio::time::sleep(SETTLE).await;
    let before = on_cpu(&pids);
    tokio::time::sleep(IDLE).await;
    let mut series = Series::default();
    let used = on_cpu(&pids).saturating_sub(before);
    series.push(used.as_secs_f64() * 1e3 * 60.0 / IDLE.as_secs_f64());
    report.row("CPU of all of them in an idle minute (20 s seen)", "ms", &series);
    for id in ids {
        cri.remove(&id).await?;
    }
    Ok(())
}

/// Time on a CPU of all threads of the processes (schedstat of proc(5); the ticks of stat are too coarse).
pub fn on_cpu(pids: &[i32]) -> Duration {
    let of = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        stat.split_whitespace().next()?.parse::<u64>().ok()
    };
    let tasks = pids.iter().filter_map(|pid| std::fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten();
    Duration::from_nanos(tasks.flatten().filter_map(of).sum())
}
