//! What a pod costs: printed, and held against generous bounds. `--nocapture` shows the figures.

use std::fs;
use std::time::{Duration, Instant};

use super::failures::HostMounts;
use super::setup::{Planned, Pod, created, need_root, runtime};

const PODS: usize = 20;

fn median(mut values: Vec<Duration>) -> (Duration, Duration, Duration) {
    values.sort();
    (values[values.len() / 2], values[0], values[values.len() - 1])
}

/// PSS of a process in kB.
fn pss(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Time on a processor so far (schedstat, first field): what a pod costs whatever else the machine does.
fn processor(pid: i32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/schedstat")).unwrap();
    Duration::from_nanos(stat.split(' ').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn twenty_pods_are_quick_small_and_invisible() {
    need_root!();
    let runtime = runtime().await;
    let planned: Vec<Planned> = (0..PODS).map(|_| Planned::userns()).collect();
    let before = HostMounts::now();
    let (mut creates, mut starts, mut kills) = (Vec::new(), Vec::new(), Vec::new());
    let mut pods: Vec<Pod> = Vec::new();
    for one in &planned {
        let begun = Instant::now();
        let pod = created(&runtime, one).await;
        creates.push(begun.elapsed());
        let begun = Instant::now();
        pod.infra.start().await.unwrap();
        starts.push(begun.elapsed());
        pods.push(pod);
    }
    before.assert_none_came();
    let memory: u64 = pods.iter().map(|pod| pss(pod.infra.shim_pid()) + pss(pod.infra.infra_pid())).sum();
    let pauses: u64 = pods.iter().map(|pod| pss(pod.infra.infra_pid())).sum();
    let each = memory / PODS as u64;
    let shims = median(pods.iter().map(|pod| processor(pod.infra.shim_pid())).collect()).0;
    let containers = median(pods.iter().map(|pod| processor(pod.infra.infra_pid())).collect()).0;
    let inside = pods[0].proc("mountinfo").lines().count();
    let shim_mounts = fs::read_to_string(format!("/proc/{}/mountinfo", pods[0].infra.shim_pid())).unwrap();
    for pod in pods {
        let begun = Instant::now();
        pod.end().await;
        kills.push(begun.elapsed());
    }
    println!(
        "{PODS} pods: create {:?}, start {:?}, kill {:?} (median, min, max); PSS {each} kB a pod (pause {} kB); \
         on a processor: shim {shims:?}, container {containers:?}; {inside} mounts in the container, {} in its shim",
        median(creates.clone()),
        median(starts),
        median(kills),
        pauses / PODS as u64,
        shim_mounts.lines().count(),
    );
    assert!(each < 1024, "{each} kB a pod");
    assert!(median(creates).0 < Duration::from_millis(100));
}

#[tokio::test]
async fn containers_and_execs_are_quick_and_small() {
    need_root!();
    use super::bench_box::{Box, Cgroup, Given};
    use sandboxd::container::env::RawEnv;
    use sandboxd::runtime::task::{ExecPlan, Wanted};
    const ROUNDS: usize = 30;
    let Some(cgroup) = Cgroup::new() else { return };
    let pod = Box::pod(true).await;
    let (mut makes, mut execs, mut removes) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut given = Given::shell("sleep 60");
        given.cgroup = cgroup.procs();
        let plan = pod.plan(given);
        let begun = Instant::now();
        let task = pod.pod.infra.create_container(plan).await.unwrap();
        task.start().await.unwrap();
        makes.push(begun.elapsed());
        let begun = Instant::now();
        task.remove().await.unwrap();
        removes.push(begun.elapsed());
    }
    let mut given = Given::shell("sleep 60");
    given.cgroup = cgroup.procs();
    let (task, _) = pod.make(given).await;
    task.start().await.unwrap();
    for _ in 0..ROUNDS {
        let process = Given::args(&["true"]).spec.process().clone().unwrap();
        let wanted = Wanted { stdin: false, stdout: true, stderr: true };
        let begun = Instant::now();
        let process = task.exec(ExecPlan { process, raw_env: RawEnv::new(), wanted }).await.unwrap();
        let streams = process.take_streams();
        super::bench_box::read_all(streams.stdout).await;
        super::bench_box::read_all(streams.stderr).await;
        process.wait().await;
        execs.push(begun.elapsed());
    }
    // As memory is counted: of many pods, whose shims share what they can.
    let mut pods = vec![pod];
    for _ in 1..PODS {
        let pod = Box::pod(true).await;
        let (task, _) = pod.make(Given::shell("echo started; sleep 60")).await;
        task.start().await.unwrap();
        task.log_state().await.unwrap();
        pods.push(pod);
    }
    let kept = |pod: &Box| pss(pod.pod.infra.shim_pid()) + pss(pod.pod.infra.infra_pid());
    let memory: Vec<u64> = pods.iter().map(kept).collect();
    let (used, each) = (memory[0], memory[1..].iter().sum::<u64>() / (PODS as u64 - 1));
    println!(
        "create and start {:?}, remove {:?}, exec true {:?} (median, min, max); PSS of shim and pause {each} kB a pod \
         with a container, {used} kB after {ROUNDS} containers and execs",
        median(makes),
        median(removes),
        median(execs),
    );
    assert!(each < 1024 && used < 1024, "{each} kB, {used} kB");
    for pod in pods {
        pod.end().await;
    }
}
