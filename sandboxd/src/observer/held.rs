//! What the program held back in the kernel, in the words of what it let through of the same.

use std::collections::{HashMap, HashSet};

use aya::maps::{MapData, PerCpuHashMap};
use sandboxd_ebpf::{CheckRecord, FLOWS_MOST, Flow, FlowKey};

use super::tally::Told;

/// Idle for so long, a bucket is removed: its place is another's.
const IDLE_NS: u64 = 5_000_000_000;

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodKey(FlowKey);

#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct PodFlow(Flow);

// SAFETY: both are repr(C) of integers without padding; any bit pattern is a value.
unsafe impl aya::Pod for PodKey {}
// SAFETY: as above.
unsafe impl aya::Pod for PodFlow {}

/// The program's map of [`Flow`]s.
pub type Flows = PerCpuHashMap<MapData, PodKey, PodFlow>;

#[derive(Debug)]
struct Kind {
    told: Told,
    /// Of the kernel's count, what was handed over.
    taken: u64,
}

/// Reads the kernel's buckets. A check that was held back is told as the last one of the same bucket that was
/// reported: the same question by the same caller, perhaps about another file-system type.
pub(super) struct HeldBack {
    flows: Flows,
    kinds: HashMap<FlowKey, Kind>,
    /// Handed over in all.
    taken: u64,
}

impl HeldBack {
    pub fn new(flows: Flows) -> Self {
        Self { flows, kinds: HashMap::new(), taken: 0 }
    }

    /// Learns how checks of a bucket are told. `make` is asked once for each.
    pub fn learn(&mut self, record: &CheckRecord, make: impl FnOnce() -> Option<Told>) {
        let key = FlowKey::of(record);
        if self.kinds.contains_key(&key) || self.kinds.len() >= FLOWS_MOST as usize {
            return;
        }
        if let Some(told) = make() {
            self.kinds.insert(key, Kind { told, taken: 0 });
        }
    }

    /// How many were handed over in all; the kernel's counters have the sum.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Hands over what was held back since the last time: how it is told, how many. Removes idle buckets.
    pub fn sweep(&mut self, now_boot_ns: u64, mut take: impl FnMut(&Told, u64)) {
        let keys: Vec<_> = self.flows.keys().flatten().collect();
        let mut removed = HashSet::new();
        for key in keys {
            let Ok(per_cpu) = self.flows.get(&key, 0) else { continue };
            let counted: u64 = per_cpu.iter().map(|PodFlow(flow)| flow.counted).sum();
            let full_at = per_cpu.iter().map(|PodFlow(flow)| flow.full_at_ns).max().unwrap_or(0);
            let idle = full_at.saturating_add(IDLE_NS) < now_boot_ns;
            if let Some(kind) = self.kinds.get_mut(&key.0)
                && counted > kind.taken
            {
                let new = counted - kind.taken;
                take(&kind.told, new);
                kind.taken = counted;
                self.taken += new;
            }
            if idle && self.flows.remove(&key).is_ok() {
                removed.insert(key.0);
            }
        }
        self.kinds.retain(|key, _| !removed.contains(key));
    }
}
