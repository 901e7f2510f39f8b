//! Holds back who makes very many checks, before they reach the ring buffer: there they would take the room of
//! others. What is held back is counted for each that is alike, and read by the daemon.

use aya_ebpf::btf_maps::PerCpuHashMap;
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_map;
use sandboxd_ebpf::{FLOW_BURST, FLOW_EACH_NS, FLOWS_MOST, Flow, FlowKey};

/// The daemon removes what has become idle. With no room for a new one there is no limit to it: the ring's losses
/// are counted, too.
#[btf_map]
static FLOWS: PerCpuHashMap<FlowKey, Flow, { FLOWS_MOST as usize }> = PerCpuHashMap::new();

/// Whether a check may be reported. If not, it was counted.
#[inline(always)]
pub fn admit(key: &FlowKey) -> bool {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let Some(flow) = FLOWS.get_ptr_mut(key) else {
        let _ = FLOWS.insert(key, Flow { full_at_ns: now + FLOW_EACH_NS, counted: 0 }, 0);
        return true;
    };
    // SAFETY: the verifier has seen the null check; the map is per CPU and tracing programs are not preempted by
    // themselves, so nobody else writes this slot.
    let flow = unsafe { &mut *flow };
    let full_at = if flow.full_at_ns > now { flow.full_at_ns } else { now };
    if full_at - now > FLOW_BURST * FLOW_EACH_NS {
        flow.counted += 1;
        return false;
    }
    flow.full_at_ns = full_at + FLOW_EACH_NS;
    true
}
