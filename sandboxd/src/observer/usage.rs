//! What the containers ask for in any syscall, counted in the kernel.

use std::collections::HashMap;

use aya::maps::{self, MapData, PerCpuHashMap};
use rustix::time::{ClockId, clock_gettime};
use sandboxd_ebpf::UsageKey;

use super::names::CAPABILITY_LAST;
use super::tally::{AllCapabilities, CapabilityCount, CapabilityCounts};
use crate::container::model::ContainerId;
use crate::pod::model::NsInode;
use crate::pod::now_ns;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodUsageKey(UsageKey);

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodUsage(sandboxd_ebpf::Usage);

// SAFETY: both are repr(C) of integers without padding; any bit pattern is a value.
unsafe impl aya::Pod for PodUsageKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PodUsage {}

/// The program's maps.
pub struct UsageMaps {
    pub usage: PerCpuHashMap<MapData, PodUsageKey, PodUsage>,
    pub watched: maps::HashMap<MapData, u32, u32>,
}

impl std::fmt::Debug for UsageMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UsageMaps").finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct Watched {
    since_ns: i64,
    /// `None`: it has ended.
    mntns: Option<u32>,
    /// At its end.
    ended: CapabilityCounts,
}

/// The containers that are counted.
#[derive(Debug)]
pub struct Usage {
    maps: UsageMaps,
    containers: HashMap<ContainerId, Watched>,
}

impl Usage {
    pub fn new(maps: UsageMaps) -> Self {
        Self { maps, containers: HashMap::new() }
    }

    /// `false`: there is no room for one more.
    pub fn watch(&mut self, id: &ContainerId, mntns: NsInode) -> bool {
        let Ok(mntns) = u32::try_from(mntns.0) else { return false };
        if self.containers.get(id).is_some_and(|known| known.mntns == Some(mntns)) {
            return true;
        }
        // Left from another container of that inode, if anything is.
        self.clear(mntns);
        if let Err(error) = self.maps.watched.insert(mntns, 1, 0) {
            tracing::warn!(container = %id, %error, "its capabilities are not counted");
            return false;
        }
        let watched = Watched { since_ns: now_ns(), mntns: Some(mntns), ended: CapabilityCounts::new() };
        self.containers.insert(id.clone(), watched);
        true
    }

    pub fn unwatch(&mut self, id: &ContainerId) {
        let Some(mntns) = self.containers.get_mut(id).and_then(|known| known.mntns.take()) else { return };
        let _ = self.maps.watched.remove(&mntns);
        let ended = self.read(mntns);
        self.clear(mntns);
        if let Some(known) = self.containers.get_mut(id) {
            known.ended = ended;
        }
    }

    pub fn forget(&mut self, id: &ContainerId) {
        self.unwatch(id);
        self.containers.remove(id);
    }

    pub fn of(&self, id: &ContainerId) -> Option<AllCapabilities> {
        let known = self.containers.get(id)?;
        let counts = known.mntns.map_or_else(|| known.ended.clone(), |mntns| self.read(mntns));
        Some(AllCapabilities { since_ns: known.since_ns, counts })
    }

    fn read(&self, mntns: u32) -> CapabilityCounts {
        let now = clock_gettime(ClockId::Boottime);
        let boot_ns = now.tv_sec.saturating_mul(1_000_000_000).saturating_add(now.tv_nsec);
        let boot_to_epoch_ns = now_ns().saturating_sub(boot_ns);
        let mut counts = CapabilityCounts::new();
        for (capability, denied, key) in keys(mntns) {
            let Ok(per_cpu) = self.maps.usage.get(&key, 0) else { continue };
            let sum: u64 = per_cpu.iter().map(|PodUsage(cpu)| cpu.count).sum();
            let last = per_cpu.iter().map(|PodUsage(cpu)| cpu.last_ns).max().unwrap_or(0);
            let last_ns = i64::try_from(last).unwrap_or(i64::MAX).saturating_add(boot_to_epoch_ns);
            let fresh = CapabilityCount { used: 0, denied: 0, last_ns, last_syscall: None };
            let count = counts.entry(capability).or_insert(fresh);
            *(if denied { &mut count.denied } else { &mut count.used }) += sum;
            count.last_ns = count.last_ns.max(last_ns);
        }
        counts
    }

    fn clear(&mut self, mntns: u32) {
        for (_, _, key) in keys(mntns) {
            // Most are not there.
            let _ = self.maps.usage.remove(&key);
        }
    }
}

fn keys(mntns: u32) -> impl Iterator<Item = (u32, bool, PodUsageKey)> {
    (0..=CAPABILITY_LAST).flat_map(move |capability| {
        [false, true].map(|denied| {
            (capability, denied, PodUsageKey(UsageKey { mntns, what: UsageKey::what(capability, denied) }))
        })
    })
}
