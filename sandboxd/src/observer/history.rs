//! The newest checks, kept in bounded memory, and those who want to hear of new ones.

use std::collections::VecDeque;
use std::sync::Arc;

use super::check::{Check, Verdict};

/// Which checks; what is not set takes all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckFilter {
    /// A prefix of the pod's id.
    pub pod: Option<String>,
    /// Denied and refused ones.
    pub denied_only: bool,
    pub after_seq: u64,
    /// The code of the reason, the kernel's own or "not-a-pod-process".
    pub reason: Option<String>,
    /// As the caller, its thread or its parent.
    pub pid: Option<i32>,
    /// The newest that many.
    pub limit: usize,
}

impl CheckFilter {
    /// Of a request that names no limit.
    pub const DEFAULT_LIMIT: usize = 1_000;

    fn takes(&self, check: &Check) -> bool {
        let of_pod = |prefix: &String| {
            check.pod.as_ref().is_some_and(|pod| pod.id.as_str().starts_with(prefix.as_str()))
        };
        let for_reason = |code: &String| {
            check.reason.as_ref().is_some_and(|r| r.code() == code || r.kernels().code() == code)
        };
        check.seq > self.after_seq
            && (!self.denied_only || check.verdict != Verdict::Allowed)
            && self.pod.as_ref().is_none_or(of_pod)
            && self.reason.as_ref().is_none_or(for_reason)
            && self.pid.is_none_or(|pid| check.is_of(pid))
    }
}

/// The newest checks in the order of their numbers. Allowed ones are many and go first, so that they do not
/// push out the denials somebody will ask about; those take up to half of the room then.
#[derive(Debug)]
pub(super) struct History {
    allowed: VecDeque<Arc<Check>>,
    /// Denied and refused.
    denied: VecDeque<Arc<Check>>,
    most: usize,
    next_seq: u64,
}

impl History {
    pub fn new(most: usize) -> Self {
        Self { allowed: VecDeque::new(), denied: VecDeque::new(), most: most.max(1), next_seq: 1 }
    }

    /// Keeps what `make` makes of the next number.
    pub fn push(&mut self, make: impl FnOnce(u64) -> Option<Check>) -> Option<Arc<Check>> {
        let check = Arc::new(make(self.next_seq)?);
        self.next_seq += 1;
        if self.len() == self.most {
            self.forget_one();
        }
        let room = if check.verdict == Verdict::Allowed { &mut self.allowed } else { &mut self.denied };
        room.push_back(check.clone());
        Some(check)
    }

    fn forget_one(&mut self) {
        let denials_first = self.allowed.is_empty() || self.denied.len() > self.most / 2;
        let room = if denials_first { &mut self.denied } else { &mut self.allowed };
        room.pop_front();
    }

    fn len(&self) -> usize {
        self.allowed.len() + self.denied.len()
    }

    /// Recorded, and gone.
    pub fn forgotten(&self) -> u64 {
        self.next_seq - 1 - self.len() as u64
    }

    pub fn get(&self, seq: u64) -> Option<Arc<Check>> {
        [&self.denied, &self.allowed].into_iter().find_map(|room| {
            let at = room.binary_search_by_key(&seq, |check| check.seq).ok()?;
            room.get(at).cloned()
        })
    }

    /// From the newest to the oldest.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Check>> {
        let mut allowed = self.allowed.iter().rev().peekable();
        let mut denied = self.denied.iter().rev().peekable();
        std::iter::from_fn(move || {
            let seq = |check: Option<&&Arc<Check>>| check.map(|check| check.seq);
            if seq(denied.peek()) > seq(allowed.peek()) { denied.next() } else { allowed.next() }
        })
    }
}

/// What the filter takes of `newest_first`, oldest first.
pub(super) fn select(
    newest_first: impl Iterator<Item = Arc<Check>>,
    filter: &CheckFilter,
) -> Vec<Arc<Check>> {
    let limit = if filter.limit == 0 { CheckFilter::DEFAULT_LIMIT } else { filter.limit };
    let mut taken: Vec<_> = newest_first.filter(|check| filter.takes(check)).take(limit).collect();
    taken.reverse();
    taken
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{check, record};
    use super::super::reason::Reason;
    use super::*;

    fn full() -> History {
        let mut history = History::new(3);
        for pid in 1..=5 {
            history.push(|seq| {
                let mut check = Check { seq, pid, tid: pid, ..check(&record()) };
                check.reason = Some(Reason::NotAPodProcess(Box::new(Reason::Unknown)));
                if pid == 4 {
                    check.verdict = Verdict::Allowed;
                    check.reason = None;
                }
                Some(check)
            });
        }
        history
    }

    fn pids(filter: &CheckFilter) -> Vec<i32> {
        select(full().newest_first().cloned(), filter).iter().map(|c| c.pid).collect()
    }

    #[test]
    fn the_oldest_go_and_are_counted() {
        let history = full();
        assert_eq!(history.forgotten(), 2);
        let kept = [1, 2, 3, 4, 5, 6].map(|seq| history.get(seq).map(|check| check.pid));
        assert_eq!(kept, [None, None, Some(3), Some(4), Some(5), None]);
    }

    #[test]
    fn allowed_checks_do_not_push_denials_out_nor_denials_all_others() {
        let mut history = History::new(4);
        let mut push = |verdict| {
            history.push(|seq| Some(Check { seq, verdict, ..check(&record()) })).unwrap();
            history.newest_first().map(|check| check.seq).collect::<Vec<_>>()
        };
        push(Verdict::Denied);
        for _ in 0..8 {
            push(Verdict::Allowed);
        }
        assert_eq!(push(Verdict::Allowed), [10, 9, 8, 1]);
        for _ in 0..8 {
            push(Verdict::Refused);
        }
        assert_eq!(push(Verdict::Denied), [19, 18, 17, 10]);
        assert_eq!(push(Verdict::Allowed), [20, 19, 18, 10]);
    }

    #[test]
    fn what_could_not_be_made_takes_no_number() {
        let mut history = full();
        assert!(history.push(|_| None).is_none());
        assert_eq!(history.push(|seq| Some(Check { seq, ..check(&record()) })).unwrap().seq, 6);
    }

    #[test]
    fn filters_are_and_ed_and_the_newest_kept() {
        assert_eq!(pids(&CheckFilter::default()), [3, 4, 5]);
        assert_eq!(pids(&CheckFilter { limit: 1, ..Default::default() }), [5]);
        assert_eq!(pids(&CheckFilter { denied_only: true, ..Default::default() }), [3, 5]);
        assert_eq!(pids(&CheckFilter { after_seq: 4, ..Default::default() }), [5]);
        assert_eq!(pids(&CheckFilter { pid: Some(4), ..Default::default() }), [4]);
        for code in ["unknown", "not-a-pod-process"] {
            let filter = CheckFilter { reason: Some(code.to_string()), ..Default::default() };
            assert_eq!(pids(&filter), [3, 5], "{code}");
        }
        assert_eq!(pids(&CheckFilter { pod: Some(String::new()), ..Default::default() }), Vec::<i32>::new());
    }
}
