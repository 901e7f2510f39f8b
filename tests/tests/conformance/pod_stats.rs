//! Figures of pods and containers against what is known to have been used.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sandboxd_api::cri::{
    ContainerStats, ContainerStatsRequest, LinuxPodSandboxStats, ListPodSandboxStatsRequest, MemoryUsage,
    NetworkUsage, PodSandboxStats, PodSandboxStatsFilter, PodSandboxStatsRequest, PsiData, PsiStats,
    StreamPodSandboxStatsRequest, UInt64Value,
};
use sandboxd_tests::cni::tool;
use sandboxd_tests::leftovers::cgroup_dirs;

use crate::support::{Stage, both, userns};

async fn of_container(stage: &Stage<'_>, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let answer = stage.kube.runtime.clone().container_stats(request).await?.into_inner();
    answer.stats.context("no stats")
}

async fn of_pod(stage: &Stage<'_>) -> Result<LinuxPodSandboxStats> {
    let request = PodSandboxStatsRequest { pod_sandbox_id: stage.pod.id.clone() };
    let answer = stage.kube.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
    answer.stats.and_then(|stats| stats.linux).context("no figures")
}

fn number(value: Option<UInt64Value>) -> Result<u64> {
    value.map(|v| v.value).context("a figure is missing")
}

fn now() -> Result<i64> {
    Ok(i64::try_from(std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_nanos())?)
}

/// Waits until the container has made the file.
async fn made(stage: &Stage<'_>, id: &str, path: &str) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(15);
    while stage.kube.exec(id, &["/bin/test", "-e", path]).await?.exit_code != 0 {
        ensure!(Instant::now() < end, "no {path} within 15 s");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

// cri: LinuxPodSandboxStats.cpu, LinuxPodSandboxStats.memory, LinuxPodSandboxStats.process
// cri: ProcessUsage.timestamp, ProcessUsage.process_count, UInt64Value.value, CpuUsage.timestamp
// cri: CpuUsage.usage_core_nano_seconds, MemoryUsage.timestamp, MemoryUsage.rss_bytes, MemoryUsage.usage_bytes
// cri: MemoryUsage.working_set_bytes, MemoryUsage.page_faults, FilesystemUsage.timestamp
#[test]
fn a_pod_uses_what_its_containers_use() {
    both(async |stage| {
        let before = now()?;
        let idle = of_pod(stage).await?;
        // 32 MiB in the shell's own memory, then a processor to the end.
        let script = "x=$(head -c 33554432 /dev/zero | tr '\\0' x); touch /done; while :; do :; done";
        let id = stage.kube.run(&stage.pod, stage.container("user").sh(script)).await?;
        made(stage, &id, "/done").await?;
        let first = of_pod(stage).await?.cpu.context("no cpu")?;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let (mut container, mut pod) = (of_container(stage, &id).await?, of_pod(stage).await?);
        // memory.stat may be two seconds old (mem_cgroup_flush_stats_ratelimited), unlike the usage.
        for _ in 0..10 {
            let of = |memory: &Option<MemoryUsage>| number(memory.as_ref().context("no memory")?.rss_bytes);
            if of(&container.memory)?.min(of(&pod.memory)?) >= 32 << 20 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            (container, pod) = (of_container(stage, &id).await?, of_pod(stage).await?);
        }
        let after = now()?;

        let cpu = pod.cpu.context("no cpu")?;
        let total = number(cpu.usage_core_nano_seconds)?;
        ensure!(total > number(first.usage_core_nano_seconds)? + 20_000_000, "{first:?} {cpu:?}");
        let part = container.cpu.context("no cpu of the container")?;
        ensure!(number(part.usage_core_nano_seconds)? <= total, "{part:?} of {cpu:?}");

        let memory = pod.memory.context("no memory")?;
        let least = 32u64 << 20;
        let of_idle = number(idle.memory.context("no memory of the idle pod")?.rss_bytes)?;
        ensure!(of_idle < least / 2, "{of_idle} of a pause");
        let part = container.memory.context("no memory of the container")?;
        for (memory, whose) in [(&memory, "the pod's"), (&part, "the container's")] {
            let rss = number(memory.rss_bytes)?;
            ensure!((least..6 * least).contains(&rss), "{whose} {memory:?}");
            ensure!(number(memory.usage_bytes)? >= rss, "{whose} {memory:?}");
            ensure!(number(memory.working_set_bytes)? >= least, "{whose} {memory:?}");
            ensure!(number(memory.page_faults)? >= least / (64 << 10), "{whose} {memory:?}");
        }
        let process = pod.process.context("no processes")?;
        // The pause and the shell.
        ensure!(number(process.process_count)? == 2, "{process:?}");
        let layer = container.writable_layer.context("no writable layer")?;
        for (what, at) in [
            ("cpu", cpu.timestamp),
            ("memory", memory.timestamp),
            ("processes", process.timestamp),
            ("the container's memory", part.timestamp),
            ("the writable layer", layer.timestamp),
        ] {
            ensure!((before..=after).contains(&at), "{what}: {at} is not in {before}..={after}");
        }
        Ok(())
    });
}

// cri: LinuxContainerResources.memory_swap_limit_in_bytes
// cri: ContainerStats.swap, SwapUsage.timestamp, SwapUsage.swap_available_bytes, SwapUsage.swap_usage_bytes
#[test]
fn swap_is_what_the_limits_leave_of_it() {
    both(async |stage| {
        let request = stage.container("swaps").waits().with_resources(|r| {
            r.memory_limit_in_bytes = 64 << 20;
            r.memory_swap_limit_in_bytes = 96 << 20;
        });
        let dirs = cgroup_dirs(&stage.node.scope.name);
        let counted = |file: &str| dirs.iter().any(|dir| dir.join(file).exists());
        if !counted("memory.memsw.usage_in_bytes") && !counted("memory.swap.current") {
            eprintln!("SKIPPED: the kernel does not count swap");
            return Ok(());
        }
        let before = now()?;
        let id = stage.kube.run(&stage.pod, request).await?;
        let swap = of_container(stage, &id).await?.swap.context("no swap")?;
        let used = number(swap.swap_usage_bytes)?;
        ensure!(used <= 32 << 20, "{swap:?}");
        ensure!(number(swap.swap_available_bytes)? == (32 << 20) - used, "{swap:?}");
        ensure!((before..=now()?).contains(&swap.timestamp), "{swap:?}");
        Ok(())
    });
}

/// This machine's address towards the pods: the bridge's.
fn bridge_address(bridge: &str) -> Result<String> {
    let text = tool("ip", &["-4", "-o", "addr", "show", "dev", bridge])?;
    let address = text.split_whitespace().skip_while(|w| *w != "inet").nth(1).context("no address")?;
    Ok(address.split('/').next().unwrap_or_default().to_owned())
}

async fn network(stage: &Stage<'_>) -> Result<NetworkUsage> {
    of_pod(stage).await?.network.context("no network")
}

// cri: LinuxPodSandboxStats.network, NetworkUsage.timestamp, NetworkUsage.default_interface
// cri: NetworkUsage.interfaces, NetworkInterfaceUsage.name, NetworkInterfaceUsage.rx_bytes
// cri: NetworkInterfaceUsage.rx_errors, NetworkInterfaceUsage.tx_bytes, NetworkInterfaceUsage.tx_errors
#[test]
fn what_goes_over_the_pods_network_is_counted() {
    both(async |stage| {
        let (sent, received) = (1_000_000, 300_000);
        let address = bridge_address(&stage.node.scope.name)?;
        let listener = TcpListener::bind((address.as_str(), 0))?;
        let port = listener.local_addr()?.port().to_string();
        let peer = std::thread::spawn(move || -> std::io::Result<usize> {
            let (mut stream, _) = listener.accept()?;
            stream.set_read_timeout(Some(Duration::from_secs(15)))?;
            stream.write_all(&vec![b'x'; received])?;
            let mut bytes = Vec::new();
            (&mut stream).take(sent as u64).read_to_end(&mut bytes)
        });
        let infra = stage.kube.cri.pid(&stage.pod.id).await?.to_string();
        let add = ["ip", "link", "add", "second0", "type", "veth", "peer", "name", "second1"];
        tool("nsenter", &[&["-t", &infra, "-n"], &add[..]].concat())?;
        let (begin, before) = (now()?, network(stage).await?);
        let script = format!("head -c {sent} /dev/zero | nc {address} {port} | head -c {received} | wc -c");
        let text = stage.printed(stage.container("talks"), &script).await?;
        ensure!(text.trim() == received.to_string(), "{text}");
        ensure!(peer.join().map_err(|_| anyhow::anyhow!("the peer panicked"))?? == sent);

        let after = network(stage).await?;
        ensure!(before.timestamp >= begin && after.timestamp > before.timestamp, "{before:?} {after:?}");
        let (a, b) = (before.default_interface, after.default_interface);
        let (a, b) = (a.context("no interface")?, b.context("no interface")?);
        ensure!(a.name == "eth0" && b.name == "eth0", "{a:?} {b:?}");
        let tx = number(b.tx_bytes)? - number(a.tx_bytes)?;
        let rx = number(b.rx_bytes)? - number(a.rx_bytes)?;
        // What was sent, with headers and acknowledgements, and perhaps some of it twice.
        ensure!((sent as u64..2 * sent as u64).contains(&tx), "{a:?} {b:?}");
        ensure!((received as u64..sent as u64).contains(&rx), "{a:?} {b:?}");
        ensure!(number(b.rx_errors)? == 0 && number(b.tx_errors)? == 0, "{b:?}");
        let mut others: Vec<_> = after.interfaces.iter().map(|i| i.name.as_str()).collect();
        others.sort_unstable();
        ensure!(others == ["second0", "second1"], "{others:?}");
        Ok(())
    });
}

/// A pressure file of a cgroup: "some" and "full".
fn pressure(dir: &std::path::Path, file: &str) -> Result<PsiStats> {
    let text = std::fs::read_to_string(dir.join(file))?;
    let data = |kind: &str| -> Result<PsiData> {
        let line = text.lines().find_map(|l| l.strip_prefix(kind)).with_context(|| text.clone())?;
        let of = |key: &str| {
            let field = line.split_whitespace().find_map(|f| f.strip_prefix(key)?.strip_prefix('='));
            field.with_context(|| format!("no {key} in {line}"))
        };
        Ok(PsiData {
            total: of("total")?.parse()?,
            avg10: of("avg10")?.parse()?,
            avg60: of("avg60")?.parse()?,
            avg300: of("avg300")?.parse()?,
        })
    };
    Ok(PsiStats { some: Some(data("some")?), full: Some(data("full")?) })
}

/// Whether what was told lies between what the kernel said before and after.
fn between(told: Option<PsiStats>, before: &PsiStats, after: &PsiStats) -> Result<()> {
    let told = told.context("no pressure")?;
    for (told, before, after) in [(told.some, before.some, after.some), (told.full, before.full, after.full)]
    {
        let all = (told.context("nothing told")?, before.context("no line")?, after.context("no line")?);
        let (told, before, after) = all;
        ensure!((before.total..=after.total).contains(&told.total), "{before:?} {told:?} {after:?}");
        for (told, one, other) in [
            (told.avg10, before.avg10, after.avg10),
            (told.avg60, before.avg60, after.avg60),
            (told.avg300, before.avg300, after.avg300),
        ] {
            // They may rise and fall a little in between.
            let (low, high) = (one.min(other) - 5.0, one.max(other) + 5.0);
            ensure!(told >= low && told <= high, "{told} is not in {low}..={high}");
        }
    }
    Ok(())
}

// cri: CpuUsage.psi, MemoryUsage.psi, ContainerStats.io, IoUsage.timestamp, IoUsage.psi, PsiStats.Full
// cri: PsiStats.Some, PsiData.Total, PsiData.Avg10, PsiData.Avg60, PsiData.Avg300, LinuxPodSandboxStats.io
#[test]
fn pressure_is_as_the_kernel_says_it() {
    both(async |stage| {
        // Two that want one processor: there is pressure.
        let request = stage.container("pressed").sh("while :; do :; done & while :; do :; done");
        let id = stage.kube.run(&stage.pod, request.with_resources(|r| r.cpuset_cpus = "0".into())).await?;
        let has = |dir: &PathBuf| dir.join("cpu.pressure").exists();
        let dirs = cgroup_dirs(&format!("{}/{id}", stage.node.scope.name));
        let Some(dir) = dirs.into_iter().find(has) else {
            eprintln!("SKIPPED: the kernel does not count pressure by cgroup");
            let stats = of_container(stage, &id).await?;
            ensure!(stats.io.is_none() && stats.cpu.is_some_and(|cpu| cpu.psi.is_none()));
            return Ok(());
        };
        let files = ["cpu.pressure", "memory.pressure", "io.pressure"];
        let read = || -> Result<Vec<PsiStats>> { files.iter().map(|file| pressure(&dir, file)).collect() };
        let end = Instant::now() + Duration::from_secs(15);
        while read()?[0].some.is_none_or(|some| some.total < 100_000 || some.avg10 < 2.5) {
            ensure!(Instant::now() < end, "no pressure: {:?}", read()?);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (begin, before) = (now()?, read()?);
        let stats = of_container(stage, &id).await?;
        let (after, end) = (read()?, now()?);
        let io = stats.io.context("no io")?;
        ensure!((begin..=end).contains(&io.timestamp), "{io:?}");
        let told = [stats.cpu.context("no cpu")?.psi, stats.memory.context("no memory")?.psi, io.psi];
        for ((told, before), after) in told.into_iter().zip(&before).zip(&after) {
            between(told, before, after)?;
        }
        let io = of_pod(stage).await?.io.context("no io of the pod")?;
        ensure!(io.timestamp >= end && io.psi.is_some(), "{io:?}");
        Ok(())
    });
}

// cri: StreamPodSandboxStatsRequest.filter, StreamPodSandboxStats, StreamPodSandboxStatsResponse.pod_sandbox_stats
// cri: PodSandboxStatsFilter.id, PodSandboxStatsFilter.label_selector, ListPodSandboxStatsRequest.filter
#[test]
fn a_stream_of_pods_takes_the_lists_filters() {
    userns(async |stage| {
        let other = stage.node.pod("other").label("tier", "back");
        let other = stage.kube.pod(other).await?.id;
        let ids = async |id: &str, tier: &str| -> Result<Vec<String>> {
            let labels = (!tier.is_empty()).then(|| ("tier".to_owned(), tier.to_owned()));
            let filter =
                PodSandboxStatsFilter { id: id.to_owned(), label_selector: labels.into_iter().collect() };
            let mut runtime = stage.kube.runtime.clone();
            let request = StreamPodSandboxStatsRequest { filter: Some(filter.clone()) };
            let mut stream = runtime.stream_pod_sandbox_stats(request).await?.into_inner();
            let mut streamed = Vec::new();
            while let Some(message) = stream.message().await? {
                ensure!(!message.pod_sandbox_stats.is_empty(), "an empty message");
                streamed.extend(message.pod_sandbox_stats);
            }
            let request = ListPodSandboxStatsRequest { filter: Some(filter) };
            let listed = runtime.list_pod_sandbox_stats(request).await?.into_inner().stats;
            let ids = |all: Vec<PodSandboxStats>| {
                let mut ids: Vec<_> = all.into_iter().filter_map(|s| s.attributes).map(|a| a.id).collect();
                ids.sort();
                ids
            };
            let (listed, streamed) = (ids(listed), ids(streamed));
            ensure!(listed == streamed, "{listed:?} and {streamed:?}");
            Ok(streamed)
        };
        let mut all = vec![stage.pod.id.clone(), other.clone()];
        all.sort();
        ensure!(ids("", "").await? == all);
        ensure!(ids("", "back").await? == std::slice::from_ref(&other));
        ensure!(ids(&stage.pod.id[..20], "").await? == std::slice::from_ref(&stage.pod.id));
        ensure!(ids(&stage.pod.id, "back").await?.is_empty());
        Ok(())
    });
}
