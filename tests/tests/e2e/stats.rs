//! Statistics, metrics, events and limits of pods that run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandboxd_api::cri::{
    ContainerEventResponse, ContainerEventType, ContainerStatsFilter, ContainerStatsRequest,
    GetEventsRequest, LinuxContainerResources, ListContainerStatsRequest, ListMetricDescriptorsRequest,
    ListPodSandboxMetricsRequest, ListPodSandboxStatsRequest, Metric, MetricType, NamespaceMode,
    PodSandboxStatsFilter, PodSandboxStatsRequest, StreamContainerStatsRequest,
    StreamPodSandboxMetricsRequest, StreamPodSandboxStatsRequest, UpdatePodSandboxResourcesRequest,
};
use sandboxd_tests::cri::Cri;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::patience::patient;
use tokio::time::timeout;
use tonic::{Code, Streaming};

use crate::support::refused;

fn by_id(id: &str) -> PodSandboxStatsRequest {
    PodSandboxStatsRequest { pod_sandbox_id: id.to_owned() }
}

// cri: PodSandboxStats, PodSandboxStatsRequest.pod_sandbox_id, PodSandboxStatsResponse.stats
// cri: PodSandboxStats.attributes, PodSandboxAttributes.id, PodSandboxAttributes.metadata
// cri: PodSandboxAttributes.labels, PodSandboxAttributes.annotations, PodSandboxStats.linux
// cri: ListPodSandboxStats, ListPodSandboxStatsRequest.filter, ListPodSandboxStatsResponse.stats
// cri: PodSandboxStatsFilter.id, PodSandboxStatsFilter.label_selector, StreamPodSandboxStats
// cri: StreamPodSandboxStatsResponse.pod_sandbox_stats
#[test]
fn a_pods_figures_are_read_and_filtered() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let mut runtime = cri.runtime.clone();
        let a =
            cri.run(node.pod("a").userns().label("tier", "front").annotation("note", "x").build()).await?;
        let b = cri.run(node.pod("b").label("tier", "back").build()).await?;
        let host = cri.run(node.pod("host").hostname("").network(NamespaceMode::Node).build()).await?;

        let stats =
            runtime.pod_sandbox_stats(by_id(&a[..20])).await?.into_inner().stats.context("no stats")?;
        let attributes = stats.attributes.context("no attributes")?;
        ensure!(attributes.id == a && attributes.metadata.context("no metadata")?.name == "a");
        ensure!(attributes.labels["tier"] == "front" && attributes.annotations["note"] == "x");
        let linux = stats.linux.context("no linux")?;
        let cpu = linux.cpu.context("no cpu")?;
        ensure!(cpu.usage_core_nano_seconds.is_some_and(|v| v.value > 0) && cpu.timestamp > 0, "{cpu:?}");
        ensure!(cpu.usage_nano_cores.is_some(), "{cpu:?}");
        let memory = linux.memory.context("no memory")?;
        ensure!(memory.usage_bytes.is_some_and(|v| v.value > 0), "{memory:?}");
        ensure!(memory.working_set_bytes.is_some() && memory.rss_bytes.is_some(), "{memory:?}");
        let process = linux.process.context("no process")?;
        ensure!(process.process_count.is_some_and(|v| v.value >= 1), "{process:?}");
        let network = linux.network.context("no network")?;
        let default = network.default_interface.context("no default interface")?;
        ensure!(default.name == "eth0", "{default:?}");
        ensure!(default.rx_bytes.is_some() && default.tx_errors.is_some_and(|v| v.value == 0), "{default:?}");

        let list = async |id: &str, tier: &str| -> Result<BTreeSet<String>> {
            let label_selector =
                (!tier.is_empty()).then(|| ("tier".to_owned(), tier.to_owned())).into_iter().collect();
            let filter = Some(PodSandboxStatsFilter { id: id.to_owned(), label_selector });
            let mut runtime = cri.runtime.clone();
            let request = ListPodSandboxStatsRequest { filter };
            let listed = runtime.list_pod_sandbox_stats(request).await?.into_inner().stats;
            Ok(listed.into_iter().filter_map(|s| s.attributes).map(|a| a.id).collect())
        };
        let all = BTreeSet::from([a.clone(), b.clone(), host.clone()]);
        ensure!(list("", "").await? == all);
        ensure!(list(&b[..20], "").await? == BTreeSet::from([b.clone()]));
        ensure!(list("", "front").await? == BTreeSet::from([a.clone()]));
        ensure!(list(&b, "front").await?.is_empty());
        let streamed =
            runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest { filter: None }).await?;
        let streamed = gathered(streamed.into_inner(), |m| m.pod_sandbox_stats).await?;
        ensure!(streamed.len() == all.len());

        // The node's network is nobody's in particular.
        let stats = runtime.pod_sandbox_stats(by_id(&host)).await?.into_inner().stats.context("no stats")?;
        ensure!(stats.linux.context("no linux")?.network.is_none());
        refused(runtime.pod_sandbox_stats(by_id("ffff")).await, Code::NotFound, &["ffff"])?;
        refused(runtime.pod_sandbox_stats(by_id("")).await, Code::InvalidArgument, &["pod_sandbox_id"])?;

        // A pod that has ended uses nothing, and is not listed.
        cri.stop(&b).await?;
        ensure!(list("", "").await? == BTreeSet::from([a, host]));
        let stats = runtime.pod_sandbox_stats(by_id(&b)).await?.into_inner().stats.context("no stats")?;
        ensure!(stats.linux.context("no linux")?.cpu.is_none());
        Ok(())
    });
}

#[test]
fn containers_that_are_not_there_are_named() {
    E2e::default().run(async |node| {
        let mut runtime = node.cri().await?.runtime;
        let request = ContainerStatsRequest { container_id: "ffff".to_owned() };
        refused(runtime.container_stats(request).await, Code::NotFound, &["ffff"])?;
        let filter = Some(ContainerStatsFilter { id: "ffff".to_owned(), ..ContainerStatsFilter::default() });
        let listed =
            runtime.list_container_stats(ListContainerStatsRequest { filter: filter.clone() }).await?;
        ensure!(listed.into_inner().stats.is_empty());
        let streamed = runtime.stream_container_stats(StreamContainerStatsRequest { filter }).await?;
        ensure!(gathered(streamed.into_inner(), |m| m.container_stats).await?.is_empty());
        Ok(())
    });
}

async fn gathered<M, T>(mut stream: Streaming<M>, items: impl Fn(M) -> Vec<T>) -> Result<Vec<T>> {
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        let items = items(message);
        ensure!(!items.is_empty(), "an empty message");
        all.extend(items);
    }
    Ok(all)
}

// cri: StreamPodSandboxMetrics, StreamPodSandboxMetricsResponse.pod_sandbox_metrics
#[test]
fn metrics_have_the_labels_that_were_announced() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let mut runtime = cri.runtime.clone();
        let id = cri.run(node.pod("measured").userns().build()).await?;
        let descriptors =
            runtime.list_metric_descriptors(ListMetricDescriptorsRequest {}).await?.into_inner();
        let keys: BTreeMap<String, Vec<String>> =
            descriptors.descriptors.into_iter().map(|d| (d.name, d.label_keys)).collect();
        let pods = runtime.list_pod_sandbox_metrics(ListPodSandboxMetricsRequest {}).await?.into_inner();
        let pod = pods.pod_metrics.into_iter().find(|p| p.pod_sandbox_id == id).context("no metrics")?;
        check(&pod.metrics, &keys)?;
        let names: BTreeSet<&str> = pod.metrics.iter().map(|m| m.name.as_str()).collect();
        for name in [
            "container_cpu_usage_seconds_total",
            "container_memory_working_set_bytes",
            "container_network_receive_bytes_total",
            "container_network_transmit_packets_total",
            "container_processes",
            "container_last_seen",
            "container_start_time_seconds",
        ] {
            ensure!(names.contains(name), "no {name} in {names:?}");
        }
        let streamed = runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {}).await?;
        ensure!(gathered(streamed.into_inner(), |m| m.pod_sandbox_metrics).await?.len() == 1);
        Ok(())
    });
}

/// Each metric was announced, has a value for each of its labels, the type its name says, and is there once.
fn check(metrics: &[Metric], keys: &BTreeMap<String, Vec<String>>) -> Result<()> {
    let mut seen = BTreeSet::new();
    for metric in metrics {
        let keys = keys.get(&metric.name).with_context(|| format!("{} was not announced", metric.name))?;
        ensure!(keys.len() == metric.label_values.len(), "{metric:?} for {keys:?}");
        ensure!(metric.value.is_some(), "{metric:?}");
        if metric.name.ends_with("seconds_total") || metric.name.ends_with("bytes_total") {
            ensure!(metric.metric_type() == MetricType::Counter, "{metric:?}");
        }
        ensure!(seen.insert((&metric.name, &metric.label_values)), "twice: {metric:?}");
    }
    Ok(())
}

async fn next(events: &mut Streaming<ContainerEventResponse>) -> Result<ContainerEventResponse> {
    let next =
        timeout(patient(Duration::from_secs(10)), events.message()).await.context("no event in time")?;
    next?.context("the stream has ended")
}

// cri: GetContainerEvents, ContainerEventResponse.container_id, ContainerEventResponse.container_event_type
// cri: ContainerEventResponse.pod_sandbox_status
#[test]
fn what_happens_to_a_pod_is_told_in_order() {
    use ContainerEventType as T;
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let before = cri.run(node.pod("before").userns().build()).await?;
        let mut events = cri.runtime.clone().get_container_events(GetEventsRequest {}).await?.into_inner();
        let id = cri.run(node.pod("told").userns().label("app", "told").build()).await?;
        cri.stop(&id).await?;
        cri.remove(&id).await?;
        cri.remove(&before).await?;
        let expected = [
            (&id, T::ContainerCreatedEvent),
            (&id, T::ContainerStartedEvent),
            (&id, T::ContainerStoppedEvent),
            (&id, T::ContainerDeletedEvent),
            (&before, T::ContainerStoppedEvent),
            (&before, T::ContainerDeletedEvent),
        ];
        for (id, kind) in expected {
            let event = next(&mut events).await?;
            ensure!(&event.container_id == id && event.container_event_type() == kind, "{kind:?}: {event:?}");
            ensure!(event.created_at > 1_600_000_000_000_000_000, "{event:?}");
            let status = event.pod_sandbox_status.as_ref().context("no status")?;
            ensure!(&status.id == id && status.metadata.is_some(), "{event:?}");
        }
        Ok(())
    });
}

/// A file of a v1 controller, or of the one hierarchy ("") of v2, in a pod's own cgroup.
async fn cgroup_file(cri: &Cri, id: &str, controller: &str, file: &str) -> Result<PathBuf> {
    let info = cri.info(id).await?;
    let cgroup = info["cgroup"].as_str().context("no cgroup")?;
    let path = Path::new("/sys/fs/cgroup").join(controller).join(cgroup.trim_start_matches('/')).join(file);
    if !path.exists() {
        bail!("no {}", path.display());
    }
    Ok(path)
}

// cri: UpdatePodSandboxResources, UpdatePodSandboxResourcesRequest.pod_sandbox_id
// cri: UpdatePodSandboxResourcesRequest.resources
#[test]
fn a_pods_limits_change_all_together_or_not_at_all() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let mut runtime = cri.runtime.clone();
        let id = cri.run(node.pod("sized").userns().build()).await?;
        let request = |resources| UpdatePodSandboxResourcesRequest {
            pod_sandbox_id: id.clone(),
            overhead: None,
            resources: Some(resources),
        };
        let some = LinuxContainerResources {
            cpu_shares: 512,
            memory_limit_in_bytes: 64 << 20,
            ..LinuxContainerResources::default()
        };
        runtime.update_pod_sandbox_resources(request(some.clone())).await?;
        let unknown = LinuxContainerResources { cpu_shares: 1, ..LinuxContainerResources::default() };
        let answer = runtime.update_pod_sandbox_resources(request(unknown)).await;
        refused(answer, Code::InvalidArgument, &["resources.cpu_shares", "1"])?;
        let wrong = LinuxContainerResources {
            cpu_shares: 100,
            cpuset_cpus: "4000".to_owned(),
            ..LinuxContainerResources::default()
        };
        let answer = runtime.update_pod_sandbox_resources(request(wrong)).await;
        refused(answer, Code::FailedPrecondition, &["cpuset.cpus", "4000"])?;
        if Path::new("/sys/fs/cgroup/cpu").is_dir() {
            let shares = cgroup_file(&cri, &id, "cpu", "cpu.shares").await?;
            ensure!(std::fs::read_to_string(shares)?.trim() == "512");
            let memory = cgroup_file(&cri, &id, "memory", "memory.limit_in_bytes").await?;
            ensure!(std::fs::read_to_string(memory)?.trim() == (64 << 20).to_string());
        } else {
            // 512 shares on the scale on which 1024, the default, are the default weight of 100.
            let weight = cgroup_file(&cri, &id, "", "cpu.weight").await?;
            ensure!(std::fs::read_to_string(weight)?.trim() == "59");
            let memory = cgroup_file(&cri, &id, "", "memory.max").await?;
            ensure!(std::fs::read_to_string(memory)?.trim() == (64 << 20).to_string());
        }
        cri.stop(&id).await?;
        let answer = runtime.update_pod_sandbox_resources(request(some)).await;
        refused(answer, Code::FailedPrecondition, &["not ready"])
    });
}
