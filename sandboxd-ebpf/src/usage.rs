//! Counts every capability check of the containers, whatever syscall it is made in: on request only, for it costs
//! each check of the machine a look-up.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::{HashMap, PerCpuHashMap};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::btf_map;
use sandboxd_ebpf::{MEMORY_CALLS_MOST, USAGE_MOST, Usage, UsageKey, WATCHED_MOST};

use crate::kernel::{self, Ptr, Typed};

/// Not 0: on.
#[unsafe(no_mangle)]
static ALL_CAPABILITIES: Global<u32> = Global::new(0);

/// The numbers of the system calls that map memory.
#[unsafe(no_mangle)]
static MEMORY_CALLS: Global<[u32; MEMORY_CALLS_MOST]> = Global::new([u32::MAX; MEMORY_CALLS_MOST]);

/// The mount namespaces of the containers; the daemon writes them.
#[btf_map]
static WATCHED: HashMap<u32, u32, { WATCHED_MOST as usize }> = HashMap::new();

#[btf_map]
static USAGE: PerCpuHashMap<UsageKey, Usage, { USAGE_MOST as usize }> = PerCpuHashMap::new();

#[inline(always)]
pub fn is_on() -> bool {
    ALL_CAPABILITIES.load() != 0
}

/// Outside of a syscall (the stack grows at a fault) the number is -1, and memory is the reason, too.
#[inline(always)]
pub fn maps_memory(number: u64) -> bool {
    number == u64::MAX || MEMORY_CALLS.load().iter().any(|call| u64::from(*call) == number)
}

#[inline(always)]
pub fn count(task: Ptr<Typed>, capability: u32, ret: i32) {
    let Some(mntns) = kernel::inum(kernel::mntns(task), kernel::MNT_NS.load()) else { return };
    if WATCHED.get_ptr(mntns).is_none() {
        return;
    }
    let key = UsageKey { mntns, what: UsageKey::what(capability, ret != 0) };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    match USAGE.get_ptr_mut(&key) {
        Some(usage) => {
            // SAFETY: the verifier has seen the null check; the map is per CPU and tracing programs are not
            // preempted by themselves, so nobody else writes this slot.
            let usage = unsafe { &mut *usage };
            usage.count += 1;
            usage.last_ns = now;
        }
        // The map has room for the capabilities that as many containers use as may be watched.
        None => drop(USAGE.insert(&key, Usage { count: 1, last_ns: now }, 0)),
    }
}
