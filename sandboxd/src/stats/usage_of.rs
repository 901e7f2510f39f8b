//! What a pod uses as a whole.

use std::sync::Arc;

use super::ContainerFigures;
use crate::cgroup::{Cgroups, Cpu, Hugepages, Io, Memory, Usage};
use crate::pod::model::{Pod, PodState};

/// Of a pod: its parent cgroup's, where kubelet made one for it alone, which also has what its ended containers
/// used and what belongs to no process; else the sum of the infra container's and its containers'.
pub(super) fn pod(
    cgroups: &Cgroups,
    pod: &Pod,
    all: &[Arc<Pod>],
    containers: &[ContainerFigures],
) -> Option<Usage> {
    let parent = parent(pod).unwrap_or_default();
    if !pod.spec.cgroup_parent.is_empty() && !parent.is_empty() && !shared(pod, all) {
        return cgroups.usage(parent);
    }
    let mut sum = cgroups.usage(&pod.cgroup)?;
    for usage in containers.iter().filter_map(|figures| figures.usage.as_ref()) {
        add(&mut sum, usage);
    }
    // Stalls of several cgroups do not add up.
    sum.cpu_pressure = None;
    sum.memory_pressure = None;
    sum.io_pressure = None;
    Some(sum)
}

/// The cgroup that a pod's own is in. One that is being made has none yet.
fn parent(pod: &Pod) -> Option<&str> {
    let (parent, _) = pod.cgroup.rsplit_once('/')?;
    // With the systemd driver a scope of the pod's is in between: the limits are the slice's.
    match parent.rsplit_once('/') {
        Some((slice, scope)) if scope.ends_with(".scope") => Some(slice),
        _ => Some(parent),
    }
}

/// Whether another pod that runs has the same parent.
fn shared(pod: &Pod, all: &[Arc<Pod>]) -> bool {
    all.iter().any(|other| {
        other.id != pod.id
            && matches!(other.state, PodState::Creating | PodState::Ready | PodState::Stopping)
            && (other.spec.cgroup_parent == pod.spec.cgroup_parent || parent(other) == parent(pod))
    })
}

fn sum(a: Option<u64>, b: Option<u64>) -> Option<u64> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (a, b) => a.or(b),
    }
}

fn add(all: &mut Usage, more: &Usage) {
    all.processes += more.processes;
    all.tasks = sum(all.tasks, more.tasks);
    all.tasks_max = None;
    all.cpu = match (all.cpu, more.cpu) {
        (Some(a), Some(b)) => Some(Cpu {
            total: a.total.saturating_add(b.total),
            user: sum(a.user, b.user),
            system: sum(a.system, b.system),
            periods: sum(a.periods, b.periods),
            throttled_periods: sum(a.throttled_periods, b.throttled_periods),
            throttled: sum(a.throttled, b.throttled),
        }),
        (a, b) => a.or(b),
    };
    all.memory = match (all.memory, more.memory) {
        (Some(a), Some(b)) => Some(Memory {
            usage: a.usage.saturating_add(b.usage),
            // Their highest points were at different times, and their limits bound each alone.
            max_usage: None,
            limit: None,
            swap_limit: None,
            hits: sum(a.hits, b.hits),
            cache: a.cache.saturating_add(b.cache),
            rss: a.rss.saturating_add(b.rss),
            mapped: a.mapped.saturating_add(b.mapped),
            active_file: a.active_file.saturating_add(b.active_file),
            inactive_file: a.inactive_file.saturating_add(b.inactive_file),
            kernel: sum(a.kernel, b.kernel),
            faults: a.faults.saturating_add(b.faults),
            major_faults: a.major_faults.saturating_add(b.major_faults),
            swap: sum(a.swap, b.swap),
            oom_kills: sum(a.oom_kills, b.oom_kills),
        }),
        (a, b) => a.or(b),
    };
    for io in &more.io {
        match all.io.iter_mut().find(|known| (known.major, known.minor) == (io.major, io.minor)) {
            Some(known) => {
                *known = Io {
                    read_bytes: known.read_bytes.saturating_add(io.read_bytes),
                    write_bytes: known.write_bytes.saturating_add(io.write_bytes),
                    reads: known.reads.saturating_add(io.reads),
                    writes: known.writes.saturating_add(io.writes),
                    ..io.clone()
                }
            }
            None => all.io.push(io.clone()),
        }
    }
    for pages in &more.hugepages {
        match all.hugepages.iter_mut().find(|known| known.size == pages.size) {
            Some(known) => {
                *known = Hugepages {
                    usage: known.usage.saturating_add(pages.usage),
                    max_usage: None,
                    size: pages.size.clone(),
                }
            }
            None => all.hugepages.push(pages.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_of_several_pods_is_of_none() {
        let with = |state| {
            let mut pod = Pod { state, ..crate::pod::model::test_pod("a") };
            pod.spec.cgroup_parent = "/kubepods/pod1".into();
            Arc::new(pod)
        };
        // kubelet makes a new sandbox for a pod whose old one has ended.
        let (old, new) = (with(PodState::NotReady), with(PodState::Ready));
        assert!(!shared(&new, &[old, Arc::clone(&new)]));
        assert!(shared(&new, &[with(PodState::Ready), Arc::clone(&new)]));
    }

    #[test]
    fn figures_add_up() {
        let io = |minor, read_bytes| Io { minor, read_bytes, ..Io::default() };
        let one = |total, usage| Usage {
            cpu: Some(Cpu { total, user: Some(1), ..Cpu::default() }),
            memory: Some(Memory { usage, limit: Some(9), oom_kills: Some(1), ..Memory::default() }),
            processes: 2,
            ..Usage::default()
        };
        let mut all = Usage { io: vec![io(1, 5)], ..one(10, 100) };
        add(&mut all, &Usage { io: vec![io(1, 6), io(2, 7)], ..one(20, 200) });
        add(&mut all, &Usage::default());
        assert_eq!((all.cpu.unwrap().total, all.cpu.unwrap().user, all.processes), (30, Some(2), 4));
        let memory = all.memory.unwrap();
        assert_eq!((memory.usage, memory.limit, memory.oom_kills), (300, None, Some(2)));
        assert_eq!(all.io, [io(1, 11), io(2, 7)]);
    }
}
