//! Checks that wait for the result of their syscall.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use sandboxd_ebpf::{CheckRecord, Syscall, call};

use super::check::{Check, INIT, Verdict};

/// Checks of syscalls that have not returned, oldest first.
#[derive(Debug, Default)]
pub(super) struct Held(VecDeque<(Instant, Check)>);

impl Held {
    /// A check is held for so long at most: a mount of a network file system takes its time, and a result may
    /// have found the ring full.
    pub const LONGEST: Duration = Duration::from_millis(500);
    const MOST: usize = 1024;

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a check back; gives the oldest one where there is no room for both.
    pub fn hold(&mut self, check: Check, now: Instant) -> Option<Check> {
        let pushed_out = if self.0.len() == Self::MOST { self.0.pop_front() } else { None };
        self.0.push_back((now, check));
        pushed_out.map(|(_, check)| check)
    }

    /// The checks of a thread whose syscall has returned, with its result. Those of an earlier syscall of the
    /// same thread are among them, without a result: theirs was lost.
    pub fn returned(&mut self, tid: i32, syscall: Syscall, errno: i32) -> Vec<Check> {
        let mut released = Vec::new();
        self.0.retain_mut(|(_, check)| {
            if check.tid != tid {
                return true;
            }
            check.result = (check.syscall == syscall).then_some(errno);
            released.push(check.clone());
            false
        });
        released
    }

    /// Those that have waited too long.
    pub fn overdue(&mut self, now: Instant) -> Vec<Check> {
        let mut late = Vec::new();
        while self.0.front().is_some_and(|(since, _)| now.duration_since(*since) >= Self::LONGEST) {
            late.extend(self.0.pop_front().map(|(_, check)| check));
        }
        late
    }

    /// All of them.
    pub fn all(&mut self) -> Vec<Check> {
        self.0.drain(..).map(|(_, check)| check).collect()
    }
}

/// Whether the result of a syscall comes after its checks.
pub(super) fn is_reported(syscall: Syscall) -> bool {
    syscall.result_program().is_some()
}

/// A failed mount that had passed its checks and was refused all the same: a new sysfs or proc from inside a user
/// namespace, which would have been too revealing.
pub(super) fn is_too_revealing(failed: &Check, record: &CheckRecord) -> bool {
    matches!(failed.syscall, Syscall::Mount | Syscall::Fsmount)
        && failed.result == Some(libc::EPERM)
        && call::count(record.outcome.call, call::ADMIN) > 0
        && is_revealing(failed)
}

/// An allowed check, from inside a user namespace, for a new mount of what may be too revealing.
pub(super) fn passed_for_a_new_mount(check: &Check) -> bool {
    check.verdict == Verdict::Allowed && is_revealing(check)
}

/// A new mount, from inside a user namespace, of what may be too revealing.
fn is_revealing(check: &Check) -> bool {
    matches!(check.new_fs_type(), Some("sysfs" | "proc"))
        && check.mnt.owner.is_some_and(|owner| owner != INIT)
}

#[cfg(test)]
mod tests {
    use sandboxd_ebpf::{INIT_USERNS, Outcome};

    use super::super::check::tests::{check, record};
    use super::super::reason::Reason;
    use super::*;

    fn of(tid: u32, ret: i32) -> Check {
        let mut check = check(&CheckRecord { tid, ret, ..record() });
        check.reason = Reason::of(&check);
        check
    }

    #[test]
    fn a_result_goes_to_the_checks_of_its_syscall() {
        let (mut held, now) = (Held::default(), Instant::now());
        for tid in [1, 2, 1] {
            assert!(held.hold(of(tid, 0), now).is_none());
        }
        let released = held.returned(1, Syscall::Mount, libc::EPERM);
        assert_eq!(
            released.iter().map(|c| (c.tid, c.result)).collect::<Vec<_>>(),
            [(1, Some(libc::EPERM)); 2]
        );
        let lost = held.returned(2, Syscall::Setns, 0);
        assert_eq!(lost.iter().map(|c| c.result).collect::<Vec<_>>(), [None], "another syscall's result");
        assert!(held.is_empty());
    }

    #[test]
    fn nobody_waits_for_ever_nor_in_unbounded_memory() {
        let (mut held, begun) = (Held::default(), Instant::now());
        for _ in 0..Held::MOST {
            assert!(held.hold(of(1, 0), begun).is_none());
        }
        assert!(held.hold(of(2, 0), begun + Held::LONGEST).is_some());
        assert_eq!(held.overdue(begun + Held::LONGEST).len(), Held::MOST - 1);
        assert_eq!(held.all().len(), 1);
    }

    #[test]
    fn a_mount_that_passed_its_checks_was_too_revealing() {
        let passed = Outcome { call: 2 << call::ADMIN | call::FAILURE, ..Outcome::default() };
        let failed = CheckRecord { valid: u32::MAX, outcome: passed, ..record() };
        let is = |record: CheckRecord| is_too_revealing(&check(&record), &record);
        assert!(is(failed));
        assert!(!is(CheckRecord { ret: -libc::EBUSY, ..failed }));
        assert!(!is(CheckRecord { outcome: Outcome::default(), ..failed }), "nothing was asked");
        assert!(!is(CheckRecord { mntns_owner: INIT_USERNS, ..failed }), "the host's");
        assert!(!is(CheckRecord { flags: libc::MS_BIND, ..failed }), "not a new one");
    }
}
