//! [`ContainerFigures`] and [`PodFigures`] to the wire.

use sandboxd_api::cri;
use std::path::Path;

use crate::cgroup::{Pressure, Stall, Usage};
use crate::stats::{ContainerFigures, Interface, Layer, PodFigures};

pub fn container(figures: &ContainerFigures) -> cri::ContainerStats {
    let c = &figures.container;
    let (at, usage) = (figures.at_ns, figures.usage.as_ref());
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: c.id.to_string(),
            metadata: Some(cri::ContainerMetadata {
                name: c.spec.metadata.name.clone(),
                attempt: c.spec.metadata.attempt,
            }),
            labels: c.spec.labels.clone().into_iter().collect(),
            annotations: c.spec.annotations.clone().into_iter().collect(),
        }),
        cpu: usage.and_then(|usage| cpu(at, usage, figures.nano_cores)),
        memory: usage.and_then(|usage| memory(at, usage)),
        writable_layer: figures.layer.as_ref().map(|of| layer(of, &figures.layers_root)),
        swap: usage.and_then(|usage| swap(at, usage)),
        io: usage.and_then(|usage| io(at, usage)),
    }
}

pub fn pod(figures: &PodFigures) -> cri::PodSandboxStats {
    let (at, usage, spec) = (figures.at_ns, figures.usage.as_ref(), &figures.pod.spec);
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: figures.pod.id.to_string(),
            metadata: Some(cri::PodSandboxMetadata {
                name: spec.metadata.name.clone(),
                uid: spec.metadata.uid.clone(),
                namespace: spec.metadata.namespace.clone(),
                attempt: spec.metadata.attempt,
            }),
            labels: spec.labels.clone().into_iter().collect(),
            annotations: spec.annotations.clone().into_iter().collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: usage.and_then(|usage| cpu(at, usage, figures.nano_cores)),
            memory: usage.and_then(|usage| memory(at, usage)),
            network: network(at, &figures.interfaces),
            process: usage
                .map(|usage| cri::ProcessUsage { timestamp: at, process_count: value(usage.processes) }),
            containers: figures.containers.iter().map(container).collect(),
            io: usage.and_then(|usage| io(at, usage)),
        }),
        windows: None,
    }
}

#[expect(clippy::unnecessary_wraps, reason = "every number of the wire's statistics is optional")]
fn value(value: u64) -> Option<cri::UInt64Value> {
    Some(cri::UInt64Value { value })
}

fn cpu(timestamp: i64, usage: &Usage, nano_cores: Option<u64>) -> Option<cri::CpuUsage> {
    Some(cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(usage.cpu?.total),
        usage_nano_cores: nano_cores.and_then(value),
        psi: usage.cpu_pressure.map(psi),
    })
}

fn memory(timestamp: i64, usage: &Usage) -> Option<cri::MemoryUsage> {
    let memory = usage.memory?;
    let working_set = memory.working_set();
    Some(cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(working_set),
        // Without a limit nothing is known to be left.
        available_bytes: memory.limit.and_then(|limit| value(limit.saturating_sub(working_set))),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.faults),
        major_page_faults: value(memory.major_faults),
        psi: usage.memory_pressure.map(psi),
    })
}

fn swap(timestamp: i64, usage: &Usage) -> Option<cri::SwapUsage> {
    let memory = usage.memory?;
    let swap = memory.swap?;
    Some(cri::SwapUsage {
        timestamp,
        swap_available_bytes: memory.swap_limit.and_then(|limit| value(limit.saturating_sub(swap))),
        swap_usage_bytes: value(swap),
    })
}

fn io(timestamp: i64, usage: &Usage) -> Option<cri::IoUsage> {
    usage.io_pressure.map(|pressure| cri::IoUsage { timestamp, psi: Some(psi(pressure)) })
}

fn psi(pressure: Pressure) -> cri::PsiStats {
    let data = |stall: Stall| cri::PsiData {
        total: stall.total,
        avg10: stall.avg10,
        avg60: stall.avg60,
        avg300: stall.avg300,
    };
    cri::PsiStats { full: Some(data(pressure.full)), some: Some(data(pressure.some)) }
}

/// All containers' layers are on one file system, which ImageFsInfo names in the same way: kubelet asks it for its size.
fn layer(layer: &Layer, root: &Path) -> cri::FilesystemUsage {
    cri::FilesystemUsage {
        timestamp: layer.at_ns,
        fs_id: Some(cri::FilesystemIdentifier { mountpoint: root.display().to_string() }),
        used_bytes: value(layer.bytes),
        inodes_used: value(layer.inodes),
    }
}

/// The default interface is the first.
fn network(timestamp: i64, interfaces: &[Interface]) -> Option<cri::NetworkUsage> {
    let mut all = interfaces.iter().map(|interface| cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(interface.received.bytes),
        rx_errors: value(interface.received.errors),
        tx_bytes: value(interface.sent.bytes),
        tx_errors: value(interface.sent.errors),
    });
    let default_interface = Some(all.next()?);
    Some(cri::NetworkUsage { timestamp, default_interface, interfaces: all.collect() })
}
