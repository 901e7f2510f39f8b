//! Figures to the metrics of [`super::descriptors`].

use std::collections::HashMap;

use sandboxd_api::cri;

use super::descriptors::{self as d, Known};
use crate::cgroup::{Pressure, Usage};
use crate::container::model::{Container, ContainerId};
use crate::pod::model::Pod;
use crate::stats::{ContainerFigures, Interface, PodFigures, Processes, Space};

const NANOS: u64 = 1_000_000_000;
const MICROS: u64 = 1_000_000;
/// What stands in the "container" label for a pod as a whole.
const POD: &str = "POD";

/// Metrics that have the same labels.
struct Metrics {
    base: Vec<String>,
    all: Vec<cri::Metric>,
}

impl Metrics {
    /// A figure that is not known is left out. The time stamp of one that was read now is 0: it says so.
    fn add(&mut self, known: &Known, labels: &[&str], value: impl Into<Option<u64>>) {
        self.add_at(known, labels, value, 0);
    }

    fn add_at(&mut self, known: &Known, labels: &[&str], value: impl Into<Option<u64>>, timestamp: i64) {
        debug_assert_eq!(labels.len(), known.labels.len(), "{known:?}");
        let Some(value) = value.into() else { return };
        self.all.push(cri::Metric {
            name: known.name.to_owned(),
            timestamp,
            metric_type: known.kind.into(),
            label_values: self.base.iter().cloned().chain(labels.iter().map(|l| (*l).to_owned())).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }
}

pub fn pod(
    figures: &PodFigures,
    processes: &HashMap<ContainerId, Option<Processes>>,
) -> cri::PodSandboxMetrics {
    let pod = &figures.pod;
    let base = labels(POD, &pod.cgroup, "", pod.id.as_str(), pod);
    let mut metrics = Metrics { base, all: Vec::new() };
    times(&mut metrics, figures.at_ns, pod.created_at_ns);
    if let Some(usage) = &figures.usage {
        self::usage(&mut metrics, usage);
    }
    for interface in &figures.interfaces {
        network(&mut metrics, interface);
    }
    let of =
        |c: &ContainerFigures| container(c, pod, processes.get(&c.container.id).and_then(Option::as_ref));
    cri::PodSandboxMetrics {
        pod_sandbox_id: pod.id.to_string(),
        metrics: metrics.all,
        // What has ended uses nothing.
        container_metrics: figures.containers.iter().filter(|c| c.usage.is_some()).map(of).collect(),
    }
}

fn labels(container: &str, cgroup: &str, image: &str, name: &str, pod: &Pod) -> Vec<String> {
    let metadata = &pod.spec.metadata;
    [container, cgroup, image, name, &metadata.namespace, &metadata.name].map(str::to_owned).to_vec()
}

fn container(figures: &ContainerFigures, pod: &Pod, processes: Option<&Processes>) -> cri::ContainerMetrics {
    let c = &figures.container;
    let image = match c.spec.image.user_specified_image.as_str() {
        "" => &c.spec.image.image,
        asked => asked,
    };
    let base = labels(&c.spec.metadata.name, &c.cgroup, image, c.id.as_str(), pod);
    let mut metrics = Metrics { base, all: Vec::new() };
    times(&mut metrics, figures.at_ns, c.started_at_ns.unwrap_or(c.created_at_ns));
    if let Some(usage) = &figures.usage {
        self::usage(&mut metrics, usage);
    }
    file_system(&mut metrics, figures);
    if let Some(processes) = processes {
        metrics.add(&d::DESCRIPTORS, &[], processes.descriptors);
        metrics.add(&d::SOCKETS, &[], processes.sockets);
        // No limit is -1, which the wire's numbers do not have.
        let limit = processes.open_files_limit.and_then(|limit| u64::try_from(limit).ok());
        metrics.add(&d::ULIMITS, &["max_open_files"], limit);
    }
    spec(&mut metrics, c);
    cri::ContainerMetrics { container_id: c.id.to_string(), metrics: metrics.all }
}

fn times(metrics: &mut Metrics, seen_ns: i64, started_ns: i64) {
    let seconds = |ns: i64| u64::try_from(ns).unwrap_or(0) / NANOS;
    metrics.add(&d::LAST_SEEN, &[], seconds(seen_ns));
    metrics.add(&d::START_TIME, &[], seconds(started_ns));
}

fn usage(metrics: &mut Metrics, usage: &Usage) {
    if let Some(cpu) = usage.cpu {
        let seconds = |ns: Option<u64>| ns.map(|ns| ns / NANOS);
        metrics.add(&d::CPU_USAGE, &["total"], cpu.total / NANOS);
        metrics.add(&d::CPU_USER, &[], seconds(cpu.user));
        metrics.add(&d::CPU_SYSTEM, &[], seconds(cpu.system));
        metrics.add(&d::CPU_PERIODS, &[], cpu.periods);
        metrics.add(&d::CPU_THROTTLED_PERIODS, &[], cpu.throttled_periods);
        metrics.add(&d::CPU_THROTTLED, &[], seconds(cpu.throttled));
    }
    if let Some(memory) = usage.memory {
        metrics.add(&d::MEMORY_USAGE, &[], memory.usage);
        metrics.add(&d::MEMORY_MAX_USAGE, &[], memory.max_usage);
        metrics.add(&d::MEMORY_WORKING_SET, &[], memory.working_set());
        metrics.add(&d::MEMORY_RSS, &[], memory.rss);
        metrics.add(&d::MEMORY_CACHE, &[], memory.cache);
        metrics.add(&d::MEMORY_MAPPED, &[], memory.mapped);
        metrics.add(&d::MEMORY_KERNEL, &[], memory.kernel);
        metrics.add(&d::MEMORY_SWAP, &[], memory.swap);
        metrics.add(&d::MEMORY_ACTIVE_FILE, &[], memory.active_file);
        metrics.add(&d::MEMORY_INACTIVE_FILE, &[], memory.inactive_file);
        metrics.add(&d::MEMORY_FAILCNT, &[], memory.hits);
        for (kind, faults) in [("pgfault", memory.faults), ("pgmajfault", memory.major_faults)] {
            for scope in ["container", "hierarchy"] {
                metrics.add(&d::MEMORY_FAILURES, &[kind, scope], faults);
            }
        }
        metrics.add(&d::OOM_EVENTS, &[], memory.oom_kills);
    }
    for pages in &usage.hugepages {
        metrics.add(&d::HUGETLB_USAGE, &[&pages.size], pages.usage);
        metrics.add(&d::HUGETLB_MAX_USAGE, &[&pages.size], pages.max_usage);
    }
    for io in &usage.io {
        let (major, minor) = (io.major.to_string(), io.minor.to_string());
        metrics.add(&d::FS_READ_BYTES, &[&io.device], io.read_bytes);
        metrics.add(&d::FS_READS, &[&io.device], io.reads);
        metrics.add(&d::FS_WRITE_BYTES, &[&io.device], io.write_bytes);
        metrics.add(&d::FS_WRITES, &[&io.device], io.writes);
        for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.write_bytes)] {
            metrics.add(&d::BLKIO, &[&io.device, &major, &minor, operation], bytes);
        }
    }
    metrics.add(&d::PROCESSES, &[], usage.processes);
    metrics.add(&d::THREADS, &[], usage.tasks);
    metrics.add(&d::THREADS_MAX, &[], usage.tasks.map(|_| usage.tasks_max.unwrap_or(0)));
    let waiting = |pressure: Option<Pressure>| pressure.map(|p| p.some.total / MICROS);
    let stalled = |pressure: Option<Pressure>| pressure.map(|p| p.full.total / MICROS);
    metrics.add(&d::PRESSURE_CPU_WAITING, &[], waiting(usage.cpu_pressure));
    metrics.add(&d::PRESSURE_CPU_STALLED, &[], stalled(usage.cpu_pressure));
    metrics.add(&d::PRESSURE_MEMORY_WAITING, &[], waiting(usage.memory_pressure));
    metrics.add(&d::PRESSURE_MEMORY_STALLED, &[], stalled(usage.memory_pressure));
    metrics.add(&d::PRESSURE_IO_WAITING, &[], waiting(usage.io_pressure));
    metrics.add(&d::PRESSURE_IO_STALLED, &[], stalled(usage.io_pressure));
}

fn file_system(metrics: &mut Metrics, figures: &ContainerFigures) {
    let Some(space) = &figures.space else { return };
    let device = [space.device.as_str()];
    let Space { bytes, inodes, inodes_free, .. } = *space;
    metrics.add(&d::FS_LIMIT, &device, bytes);
    metrics.add(&d::FS_INODES, &device, inodes);
    metrics.add(&d::FS_INODES_FREE, &device, inodes_free);
    if let Some(layer) = &figures.layer {
        // Counted before: its time is not now.
        metrics.add_at(&d::FS_USAGE, &device, layer.bytes, layer.at_ns);
    }
}

fn network(metrics: &mut Metrics, interface: &Interface) {
    let label = [interface.name.as_str()];
    let (received, sent) = (interface.received, interface.sent);
    metrics.add(&d::NET_RX_BYTES, &label, received.bytes);
    metrics.add(&d::NET_RX_PACKETS, &label, received.packets);
    metrics.add(&d::NET_RX_DROPPED, &label, received.dropped);
    metrics.add(&d::NET_RX_ERRORS, &label, received.errors);
    metrics.add(&d::NET_TX_BYTES, &label, sent.bytes);
    metrics.add(&d::NET_TX_PACKETS, &label, sent.packets);
    metrics.add(&d::NET_TX_DROPPED, &label, sent.dropped);
    metrics.add(&d::NET_TX_ERRORS, &label, sent.errors);
}

/// What was asked for; what was not is the kernel's default.
fn spec(metrics: &mut Metrics, container: &Container) {
    let r = &container.spec.resources;
    metrics.add(&d::SPEC_CPU_PERIOD, &[], r.cpu_period.unwrap_or(100_000));
    metrics.add(&d::SPEC_CPU_QUOTA, &[], r.cpu_quota.and_then(|quota| u64::try_from(quota).ok()));
    metrics.add(&d::SPEC_CPU_SHARES, &[], r.cpu_shares.unwrap_or(1024));
    metrics.add(&d::SPEC_MEMORY_LIMIT, &[], r.memory_limit.unwrap_or(0));
    metrics.add(&d::SPEC_MEMORY_RESERVATION, &[], 0);
    let both = r.memory_swap_limit.map_or(r.memory_limit, |both| u64::try_from(both).ok());
    metrics.add(&d::SPEC_MEMORY_SWAP, &[], both.unwrap_or(0));
}
