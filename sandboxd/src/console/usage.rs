//! GetUsage: what pods and containers use now.

use std::sync::Arc;

use sandboxd_api::console as api;

use super::Sources;
use crate::cgroup;
use crate::pod::model::Pod;
use crate::stats::{ContainerFigures, PodFigures};

/// Of one pod, or of all.
pub(super) async fn usage(sources: &Sources, of: Option<Arc<Pod>>) -> api::GetUsageResponse {
    let all = sources.pods.list();
    let wanted = of.map_or_else(|| all.clone(), |pod| vec![pod]);
    let figures = sources.stats.pods(wanted, all).await;
    api::GetUsageResponse {
        time_ns: crate::pod::now_ns(),
        pods: figures.iter().filter_map(pod).collect(),
        containers: figures.iter().flat_map(|pod| &pod.containers).filter_map(container).collect(),
    }
}

/// `None`: the pod has ended, and uses nothing.
fn pod(figures: &PodFigures) -> Option<api::Usage> {
    let usage = figures.usage.as_ref()?;
    let interfaces = figures.interfaces.iter();
    let (rx_bytes, tx_bytes) = interfaces.fold((0u64, 0u64), |(rx, tx), interface| {
        (rx.saturating_add(interface.received.bytes), tx.saturating_add(interface.sent.bytes))
    });
    let layers = figures.containers.iter().filter_map(|c| c.layer.as_ref());
    let writable_bytes = layers.map(|layer| layer.bytes).sum();
    Some(api::Usage { rx_bytes, tx_bytes, writable_bytes, ..of_cgroup(figures.pod.id.as_str(), usage) })
}

/// `None`: it has ended, and what it wrote is not counted.
fn container(figures: &ContainerFigures) -> Option<api::Usage> {
    let (id, layer) = (figures.container.id.as_str(), figures.layer.as_ref());
    let usage = match (&figures.usage, layer) {
        (Some(usage), _) => of_cgroup(id, usage),
        (None, Some(_)) => api::Usage { id: id.to_owned(), ..Default::default() },
        (None, None) => return None,
    };
    Some(api::Usage { writable_bytes: layer.map_or(0, |layer| layer.bytes), ..usage })
}

fn of_cgroup(id: &str, usage: &cgroup::Usage) -> api::Usage {
    let memory = usage.memory.as_ref();
    api::Usage {
        id: id.to_owned(),
        cpu_ns: usage.cpu.map_or(0, |cpu| cpu.total),
        memory_bytes: memory.map_or(0, cgroup::Memory::working_set),
        memory_limit_bytes: memory.and_then(|memory| memory.limit).unwrap_or(0),
        pids: usage.tasks.unwrap_or(usage.processes),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::{Cpu, Memory, Usage};
    use crate::pod::model::test_pod;
    use crate::stats::Interface;

    #[test]
    fn a_pods_figures_are_its_cgroups_and_all_its_interfaces() {
        let cpu = Cpu { total: 5, ..Cpu::default() };
        let memory = Memory { usage: 10, inactive_file: 4, limit: Some(64), ..Memory::default() };
        let usage = Usage { cpu: Some(cpu), memory: Some(memory), tasks: Some(3), ..Usage::default() };
        let mut interface = Interface { name: "eth0".into(), ..Interface::default() };
        (interface.received.bytes, interface.sent.bytes) = (100, 7);
        let mut figures = PodFigures {
            pod: Arc::new(test_pod("a")),
            at_ns: 1,
            usage: Some(usage),
            nano_cores: None,
            interfaces: vec![interface.clone(), interface],
            containers: Vec::new(),
        };
        let said = pod(&figures).unwrap();
        assert_eq!((said.cpu_ns, said.memory_bytes, said.memory_limit_bytes, said.pids), (5, 6, 64, 3));
        assert_eq!((said.rx_bytes, said.tx_bytes), (200, 14));
        figures.usage = None;
        assert_eq!(pod(&figures), None, "it has ended");
    }
}
