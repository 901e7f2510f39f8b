//! Figures, metrics and events of containers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandboxd_api::cri::{
    ContainerEventResponse, ContainerEventType, ContainerStats, ContainerStatsFilter, ContainerStatsRequest,
    GetEventsRequest, ListContainerStatsRequest, ListMetricDescriptorsRequest, ListPodSandboxMetricsRequest,
    MetricType, PodSandboxStatsRequest, StreamContainerStatsRequest, UInt64Value,
};
use tokio::time::{sleep, timeout};
use tonic::{Code, Streaming};

use crate::support::{Stage, both, refused, userns};

/// One process, now and later.
const SLEEP: [&str; 2] = ["/bin/sleep", "1000"];

async fn stats(stage: &Stage<'_>, id: &str) -> Result<ContainerStats> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let response = stage.kube.runtime.clone().container_stats(request).await?.into_inner();
    response.stats.context("no stats")
}

fn number(value: Option<UInt64Value>) -> Result<u64> {
    value.map(|v| v.value).context("a figure is missing")
}

// cri: ContainerStats, ContainerStatsRequest.container_id, ContainerStatsResponse.stats
// cri: ContainerStats.attributes, ContainerStats.cpu, ContainerStats.memory, ContainerStats.writable_layer
// cri: ContainerAttributes.id, ContainerAttributes.metadata, ContainerAttributes.labels
// cri: ContainerAttributes.annotations, CpuUsage.timestamp, CpuUsage.usage_core_nano_seconds
// cri: CpuUsage.usage_nano_cores, MemoryUsage.working_set_bytes
// cri: MemoryUsage.available_bytes, MemoryUsage.usage_bytes, MemoryUsage.rss_bytes, MemoryUsage.page_faults
// cri: MemoryUsage.major_page_faults, FilesystemUsage.fs_id
// cri: FilesystemUsage.used_bytes, FilesystemUsage.inodes_used, FilesystemIdentifier.mountpoint
#[test]
fn a_containers_figures_are_its_own() {
    both(async |stage| {
        let limit = 256u64 << 20;
        // A busy one that has written two files of a megabyte, and an idle one.
        let script = "head -c 1048576 /dev/zero > /one; mkdir /d; head -c 1048576 /dev/zero > /d/two; \
                      touch /done; while :; do :; done";
        let request = stage.container("busy").sh(script).with(|c| {
            c.labels.insert("tier".into(), "front".into());
            c.annotations.insert("note".into(), "x".into());
        });
        let request = request.with_resources(|r| r.memory_limit_in_bytes = i64::try_from(limit).unwrap_or(0));
        let busy = stage.kube.run(&stage.pod, request).await?;
        let idle = stage.kube.run(&stage.pod, stage.container("idle").waits()).await?;
        while stage.kube.exec(&busy, &["/bin/test", "-e", "/done"]).await?.exit_code != 0 {
            sleep(Duration::from_millis(20)).await;
        }
        stats(stage, &busy[..20]).await?;
        sleep(Duration::from_millis(700)).await;
        let of_busy = stats(stage, &busy).await?;
        let attributes = of_busy.attributes.context("no attributes")?;
        ensure!(attributes.id == busy && attributes.metadata.context("no metadata")?.name == "busy");
        ensure!(attributes.labels["tier"] == "front" && attributes.annotations["note"] == "x");
        let cpu = of_busy.cpu.context("no cpu")?;
        let (total, rate) = (number(cpu.usage_core_nano_seconds)?, number(cpu.usage_nano_cores)?);
        ensure!(cpu.timestamp > 1_600_000_000_000_000_000, "{cpu:?}");
        ensure!(total > 50_000_000 && rate > 20_000_000, "a busy loop: {cpu:?}");
        let memory = of_busy.memory.context("no memory")?;
        let (usage, set) = (number(memory.usage_bytes)?, number(memory.working_set_bytes)?);
        ensure!(set <= usage && number(memory.rss_bytes)? <= usage && usage < limit, "{memory:?}");
        ensure!(number(memory.available_bytes)? == limit - set, "{memory:?}");
        ensure!(number(memory.page_faults)? > 0 && memory.major_page_faults.is_some(), "{memory:?}");
        let layer = of_busy.writable_layer.context("no writable layer")?;
        let mountpoint = layer.fs_id.clone().context("no file system")?.mountpoint;
        ensure!(std::path::Path::new(&mountpoint).is_dir(), "{mountpoint}");
        // upper, one, d, two, done; and whatever the runtime made for its mounts.
        let (bytes, inodes) = (number(layer.used_bytes)?, number(layer.inodes_used)?);
        ensure!((2 << 20..4 << 20).contains(&bytes) && (5..50).contains(&inodes), "{layer:?}");

        let of_idle = stats(stage, &idle).await?.cpu.context("no cpu")?;
        ensure!(number(of_idle.usage_core_nano_seconds)? < total, "{of_idle:?}");

        // Of one that has ended only what it has written is left.
        stage.kube.stop(&busy, 0).await?;
        let ended = stats(stage, &busy).await?;
        ensure!(ended.cpu.is_none() && ended.memory.is_none() && ended.writable_layer.is_some(), "{ended:?}");
        stage.kube.remove(&busy).await?;
        refused(stats_status(stage, &busy).await, Code::NotFound, &[&busy[..13]])?;
        refused(stats_status(stage, "").await, Code::InvalidArgument, &[])
    });
}

async fn stats_status(stage: &Stage<'_>, id: &str) -> Result<(), tonic::Status> {
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    stage.kube.runtime.clone().container_stats(request).await.map(drop)
}

// cri: ListContainerStats, ListContainerStatsRequest.filter, ListContainerStatsResponse.stats
// cri: StreamContainerStats, StreamContainerStatsRequest.filter, StreamContainerStatsResponse.container_stats
// cri: ContainerStatsFilter.id, ContainerStatsFilter.pod_sandbox_id, ContainerStatsFilter.label_selector
// cri: LinuxPodSandboxStats.containers, LinuxPodSandboxStats.process, ProcessUsage.process_count
#[test]
fn figures_are_listed_by_filters_that_all_must_hold() {
    userns(async |stage| {
        let labelled = |name: &str| {
            stage.container(name).command(&SLEEP).with(|c| {
                c.labels.insert("tier".into(), name.to_owned());
            })
        };
        let a = stage.kube.run(&stage.pod, labelled("a")).await?;
        let b = stage.kube.run(&stage.pod, labelled("b")).await?;
        let other = stage.kube.pod(stage.node.pod("other").userns()).await?;
        let c = stage.kube.run(&other, labelled("a")).await?;
        let listed = async |id: &str, pod: &str, tier: &str| -> Result<BTreeSet<String>> {
            let label_selector =
                (!tier.is_empty()).then(|| ("tier".to_owned(), tier.to_owned())).into_iter().collect();
            let filter = ContainerStatsFilter { id: id.into(), pod_sandbox_id: pod.into(), label_selector };
            let mut runtime = stage.kube.runtime.clone();
            let request = ListContainerStatsRequest { filter: Some(filter.clone()) };
            let listed = runtime.list_container_stats(request).await?.into_inner().stats;
            let request = StreamContainerStatsRequest { filter: Some(filter) };
            let mut stream = runtime.stream_container_stats(request).await?.into_inner();
            let mut streamed = Vec::new();
            while let Some(message) = stream.message().await? {
                ensure!(!message.container_stats.is_empty(), "an empty message");
                streamed.extend(message.container_stats);
            }
            let ids = |all: Vec<ContainerStats>| -> BTreeSet<String> {
                all.into_iter().filter_map(|s| s.attributes).map(|a| a.id).collect()
            };
            let (listed, streamed) = (ids(listed), ids(streamed));
            ensure!(listed == streamed, "{listed:?} and {streamed:?}");
            Ok(listed)
        };
        let set = |ids: &[&String]| ids.iter().map(|id| (*id).clone()).collect::<BTreeSet<_>>();
        ensure!(listed("", "", "").await? == set(&[&a, &b, &c]));
        ensure!(listed(&a[..20], "", "").await? == set(&[&a]));
        ensure!(listed("", &other.id[..20], "").await? == set(&[&c]));
        ensure!(listed("", &stage.pod.id, "").await? == set(&[&a, &b]));
        ensure!(listed("", "", "a").await? == set(&[&a, &c]));
        ensure!(listed("", &stage.pod.id, "a").await? == set(&[&a]));
        ensure!(listed(&c, &stage.pod.id, "").await?.is_empty());

        let request = PodSandboxStatsRequest { pod_sandbox_id: stage.pod.id.clone() };
        let pod = stage.kube.runtime.clone().pod_sandbox_stats(request).await?.into_inner();
        let linux = pod.stats.and_then(|s| s.linux).context("no linux")?;
        let ids: BTreeSet<String> =
            linux.containers.into_iter().filter_map(|s| s.attributes).map(|a| a.id).collect();
        ensure!(ids == set(&[&a, &b]), "{ids:?}");
        // The pause, and one in each.
        ensure!(number(linux.process.context("no process")?.process_count)? == 3);
        Ok(())
    });
}

// cri: ListMetricDescriptors, ListMetricDescriptorsResponse.descriptors, MetricDescriptor.name
// cri: MetricDescriptor.help, MetricDescriptor.label_keys, ListPodSandboxMetrics
// cri: ListPodSandboxMetricsResponse.pod_metrics, PodSandboxMetrics.pod_sandbox_id, PodSandboxMetrics.metrics
// cri: PodSandboxMetrics.container_metrics, ContainerMetrics.container_id, ContainerMetrics.metrics
// cri: Metric.name, Metric.timestamp, Metric.metric_type, Metric.label_values, Metric.value
#[test]
fn a_containers_metrics_are_those_that_were_announced() {
    userns(async |stage| {
        let request = stage.container("measured").command(&SLEEP).with_resources(|r| {
            r.cpu_shares = 512;
            r.memory_limit_in_bytes = 64 << 20;
        });
        let id = stage.kube.run(&stage.pod, request).await?;
        let mut runtime = stage.kube.runtime.clone();
        let announced = runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await?.into_inner();
        let keys: BTreeMap<String, Vec<String>> =
            announced.descriptors.into_iter().map(|d| (d.name, d.label_keys)).collect();
        let pods = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?.into_inner();
        let pod = pods.pod_metrics.into_iter().find(|p| p.pod_sandbox_id == stage.pod.id);
        let pod = pod.context("no metrics of the pod")?;
        let mine =
            pod.container_metrics.into_iter().find(|c| c.container_id == id).context("none of mine")?;
        let mut found = BTreeMap::new();
        for metric in &mine.metrics {
            let keys =
                keys.get(&metric.name).with_context(|| format!("{} was not announced", metric.name))?;
            ensure!(keys.len() == metric.label_values.len(), "{metric:?} for {keys:?}");
            let label = |key: &str| {
                let at = keys.iter().position(|k| k == key);
                at.and_then(|at| metric.label_values.get(at)).map(String::as_str)
            };
            ensure!(label("container") == Some("measured") && label("pod") == Some("stage"), "{metric:?}");
            ensure!(label("name") == Some(&id) && label("namespace") == Some("default"), "{metric:?}");
            let counter = metric.name.ends_with("_total") && !metric.name.contains("inodes");
            let counter = counter || metric.name.ends_with("_failcnt");
            ensure!((metric.metric_type() == MetricType::Counter) == counter, "{metric:?}");
            // What was counted before has its time; what was read now has none.
            ensure!((metric.timestamp != 0) == (metric.name == "container_fs_usage_bytes"), "{metric:?}");
            found.insert(metric.name.as_str(), number(metric.value)?);
        }
        // All of what kubelet's own tests look for, of a container without network and block devices.
        for name in [
            "container_cpu_usage_seconds_total",
            "container_cpu_user_seconds_total",
            "container_cpu_system_seconds_total",
            "container_cpu_cfs_periods_total",
            "container_memory_usage_bytes",
            "container_memory_working_set_bytes",
            "container_memory_rss",
            "container_memory_cache",
            "container_memory_mapped_file",
            "container_memory_failcnt",
            "container_memory_failures_total",
            "container_memory_max_usage_bytes",
            "container_memory_swap",
            "container_oom_events_total",
            "container_file_descriptors",
            "container_sockets",
            "container_threads",
            "container_threads_max",
            "container_ulimits_soft",
            "container_processes",
            "container_fs_usage_bytes",
            "container_fs_limit_bytes",
            "container_fs_inodes_total",
            "container_spec_cpu_period",
            "container_last_seen",
            "container_start_time_seconds",
        ] {
            ensure!(found.contains_key(name), "no {name}");
        }
        let value = |name: &str| found.get(name).copied().unwrap_or(u64::MAX);
        ensure!(value("container_spec_cpu_shares") == 512);
        ensure!(value("container_spec_memory_limit_bytes") == 64 << 20);
        ensure!(value("container_processes") == 1 && value("container_threads") == 1, "{found:?}");
        ensure!(value("container_file_descriptors") < 20 && value("container_sockets") == 0, "{found:?}");
        let (started, seen) = (value("container_start_time_seconds"), value("container_last_seen"));
        ensure!(started > 1_600_000_000 && started <= seen, "{started} {seen}");
        Ok(())
    });
}

async fn next(events: &mut Streaming<ContainerEventResponse>) -> Result<ContainerEventResponse> {
    let next = timeout(Duration::from_secs(10), events.message()).await.context("no event within 10 s")?;
    next?.context("the stream has ended")
}

// cri: GetContainerEvents, ContainerEventResponse.container_id, ContainerEventResponse.container_event_type
// cri: ContainerEventResponse.created_at, ContainerEventResponse.pod_sandbox_status
// cri: ContainerEventResponse.containers_statuses
#[test]
fn what_happens_to_a_container_is_told_in_order() {
    use ContainerEventType as T;
    userns(async |stage| {
        let request = GetEventsRequest {};
        let mut events = stage.kube.runtime.clone().get_container_events(request).await?.into_inner();
        let short = stage.kube.run(&stage.pod, stage.container("short").sh("exit 3")).await?;
        for kind in [T::ContainerCreatedEvent, T::ContainerStartedEvent, T::ContainerStoppedEvent] {
            let event = next(&mut events).await?;
            ensure!(
                event.container_id == short && event.container_event_type() == kind,
                "{kind:?}: {event:?}"
            );
            ensure!(event.created_at > 1_600_000_000_000_000_000, "{event:?}");
            ensure!(event.pod_sandbox_status.as_ref().is_some_and(|s| s.id == stage.pod.id), "{event:?}");
            ensure!(event.containers_statuses.iter().any(|s| s.id == short), "{event:?}");
            if kind == T::ContainerStoppedEvent {
                let status = event.containers_statuses.iter().find(|s| s.id == short);
                ensure!(status.is_some_and(|s| s.exit_code == 3), "{event:?}");
            }
        }
        stage.kube.remove(&short).await?;
        let event = next(&mut events).await?;
        ensure!(event.container_event_type() == T::ContainerDeletedEvent, "{event:?}");
        ensure!(event.container_id == short && event.containers_statuses.is_empty(), "{event:?}");
        // A pod that is stopped by force ends its containers first.
        let waits = stage.kube.run(&stage.pod, stage.container("waits").waits()).await?;
        stage.kube.cri.stop(&stage.pod.id).await?;
        let mut told = Vec::new();
        for _ in 0..4 {
            let event = next(&mut events).await?;
            told.push((event.container_id.clone(), event.container_event_type()));
        }
        let expected = [
            (waits.clone(), T::ContainerCreatedEvent),
            (waits.clone(), T::ContainerStartedEvent),
            (waits, T::ContainerStoppedEvent),
            (stage.pod.id.clone(), T::ContainerStoppedEvent),
        ];
        if told != expected {
            bail!("{told:?}, should be {expected:?}");
        }
        Ok(())
    });
}
