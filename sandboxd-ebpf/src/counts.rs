//! What the programs count: how much there was, what was held back of it, and who asked for which capability.

use core::mem::size_of;

use super::{CheckRecord, Outcome, Syscall, call, fd_kind};

/// What one CPU counted. `seen + held + lost == produced`, where `seen` is what the daemon took
/// from the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Counters {
    /// Checks the program wanted to report, and calls that failed without a denied check ([`call::FAILURE`]).
    pub produced: u64,
    /// Of them, those the full ring buffer had no room for.
    pub lost: u64,
    /// Checks of clone and clone3 that belong to copying memory, not to namespaces (one for each mapping
    /// of the process): not reported, not in `produced`.
    pub filtered: u64,
    /// Of `produced`, those held back for their number ([`Flow`]), by verdict.
    pub held_allowed: u64,
    pub held_denied: u64,
    pub held_failed: u64,
}

const _: () = assert!(size_of::<Counters>() == 48);

impl Counters {
    /// Of those produced, what was held back.
    #[must_use]
    pub const fn held(&self) -> u64 {
        self.held_allowed + self.held_denied + self.held_failed
    }
}

/// Checks, or failed calls, that are alike enough to be held back together. The map is [`FLOWS_MAP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct FlowKey {
    pub caller_userns: u32,
    /// Of a failed setns the namespace to join.
    pub target_userns: u32,
    pub netns: u32,
    pub mntns: u32,
    /// [`FlowKey::what`] or [`FlowKey::failed`].
    pub what: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 20);

impl FlowKey {
    #[must_use]
    pub const fn what(syscall: u32, capability: u32, denied: bool) -> u32 {
        (syscall << 16) | (capability << 1) | denied as u32
    }

    /// Of a failed call: what tells one reason from another, and marks it as no check.
    #[must_use]
    pub const fn failed(syscall: u32, flags: u64, errno: i32, outcome: &Outcome) -> u32 {
        const fn bit(is: bool, at: u32) -> u32 {
            (is as u32) << at
        }
        const MS_REMOUNT: u64 = 1 << 5;
        const MS_BIND: u64 = 1 << 12;
        const MS_MOVE: u64 = 1 << 13;
        const MS_REC: u64 = 1 << 14;
        let operation = if syscall == Syscall::Mount as u32 {
            bit(flags & MS_REMOUNT != 0, 26)
                | bit(flags & MS_BIND != 0, 27)
                | bit(flags & MS_MOVE != 0, 28)
                | bit(flags & MS_REC != 0, 29)
        } else {
            // A setns that was asked for another kind than it got.
            bit(syscall == Syscall::Setns as u32 && flags != 0 && flags != outcome.fd_kind as u64, 26)
        };
        let state = bit(outcome.threads > 1, 20)
            | bit(outcome.fs_users > 1, 21)
            | bit(outcome.seccomp != 0, 22)
            | bit(call::count(outcome.call, call::ADMIN) != 0, 23)
            | bit(outcome.call & call::CHROOTED != 0, 24)
            | bit(outcome.call & call::UNMAPPED != 0, 25);
        let fd = if outcome.fd_kind <= fd_kind::OTHER { outcome.fd_kind } else { 0 };
        1 << 31 | operation | state | syscall << 16 | fd << 9 | (errno.cast_unsigned() & 0x1ff)
    }

    /// The key of what was reported.
    #[must_use]
    pub const fn of(record: &CheckRecord) -> Self {
        let (target_userns, what) = if record.is_failure() {
            let outcome = &record.outcome;
            (outcome.fd_inode, Self::failed(record.syscall, record.flags, record.ret.wrapping_neg(), outcome))
        } else {
            (record.target_userns, Self::what(record.syscall, record.capability, record.ret != 0))
        };
        Self {
            caller_userns: record.caller_userns,
            target_userns,
            netns: record.netns,
            mntns: record.mntns,
            what,
        }
    }
}

/// A token bucket on one CPU, and what it held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Flow {
    /// When it will be full again (CLOCK_BOOTTIME).
    pub full_at_ns: u64,
    pub counted: u64,
}

pub const FLOWS_MAP: &str = "FLOWS";
/// Buckets at once.
pub const FLOWS_MOST: u32 = 2048;
/// What one bucket lets through on one CPU: so many at once, and then one each time this has passed.
pub const FLOW_BURST: u64 = 256;
pub const FLOW_EACH_NS: u64 = 2_000_000;

/// A capability that a container asked for, and how that ended. The map is [`USAGE_MAP`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct UsageKey {
    /// The container's mount namespace, one of [`WATCHED_MAP`].
    pub mntns: u32,
    /// [`UsageKey::what`].
    pub what: u32,
}

impl UsageKey {
    #[must_use]
    pub const fn what(capability: u32, denied: bool) -> u32 {
        (capability << 1) | denied as u32
    }
}

/// How often, on one CPU, and when last (CLOCK_BOOTTIME).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Usage {
    pub count: u64,
    pub last_ns: u64,
}

pub const USAGE_MAP: &str = "USAGE";
pub const USAGE_MOST: u32 = 8192;
pub const WATCHED_MAP: &str = "WATCHED";
pub const WATCHED_MOST: u32 = 1024;
/// The global with the numbers of the system calls that map memory, and how many there is room for.
pub const MEMORY_CALLS: &str = "MEMORY_CALLS";
pub const MEMORY_CALLS_MOST: usize = 8;
/// The global that switches the counting of usage on.
pub const ALL_CAPABILITIES: &str = "ALL_CAPABILITIES";
