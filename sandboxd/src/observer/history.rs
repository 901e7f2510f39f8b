//! The newest checks, kept within bounds of number, memory and age.

use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::check::{Check, Verdict};
use crate::pod::model::{NsInode, PodId};

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
            && (!self.denied_only || is_denial(check.verdict))
            && self.pod.as_ref().is_none_or(of_pod)
            && self.reason.as_ref().is_none_or(for_reason)
            && self.pid.is_none_or(|pid| check.is_of(pid))
    }
}

/// Whether somebody said no.
fn is_denial(verdict: Verdict) -> bool {
    matches!(verdict, Verdict::Denied | Verdict::Refused)
}

/// How much is remembered: what any of the three has no room for is forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub checks: usize,
    /// Memory, about.
    pub bytes: usize,
    pub age: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { checks: 4096, bytes: 8 << 20, age: Duration::from_secs(24 * 60 * 60) }
    }
}

/// Whose room a check takes: a pod's, or that of the processes of a user namespace that no pod has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Whose {
    Pod(PodId),
    Userns(Option<NsInode>),
}

impl Whose {
    fn of(check: &Check) -> Self {
        check.pod.as_ref().map_or(Self::Userns(check.caller_userns), |pod| Self::Pod(pod.id.clone()))
    }
}

/// Checks of one verdict, a queue for each that made them.
#[derive(Debug, Default)]
struct Side {
    queues: HashMap<Whose, VecDeque<Arc<Check>>>,
    len: usize,
}

impl Side {
    fn push(&mut self, check: Arc<Check>) {
        self.queues.entry(Whose::of(&check)).or_default().push_back(check);
        self.len += 1;
    }

    /// The oldest of whoever has most: a flood pushes out its own.
    fn pop(&mut self) -> Option<Arc<Check>> {
        let oldest = |queue: &VecDeque<Arc<Check>>| queue.front().map(|check| std::cmp::Reverse(check.seq));
        let most = self.queues.iter().max_by_key(|(_, queue)| (queue.len(), oldest(queue)));
        let whose = most.map(|(whose, _)| whose.clone())?;
        self.pop_of(&whose)
    }

    fn pop_of(&mut self, whose: &Whose) -> Option<Arc<Check>> {
        let queue = self.queues.get_mut(whose)?;
        let check = queue.pop_front();
        if queue.is_empty() {
            self.queues.remove(whose);
        }
        self.len -= usize::from(check.is_some());
        check
    }

    /// One that is older than `since_ns`.
    fn pop_older(&mut self, since_ns: i64) -> Option<Arc<Check>> {
        let old = |queue: &VecDeque<Arc<Check>>| queue.front().is_some_and(|check| check.time_ns < since_ns);
        let whose = self.queues.iter().find(|(_, queue)| old(queue)).map(|(whose, _)| whose.clone())?;
        self.pop_of(&whose)
    }

    fn get(&self, seq: u64) -> Option<Arc<Check>> {
        self.queues.values().find_map(|queue| {
            let at = queue.binary_search_by_key(&seq, |check| check.seq).ok()?;
            queue.get(at).cloned()
        })
    }
}

/// The newest checks, each with its number. Allowed ones are many and go first, so that they do not push out
/// the denials somebody will ask about; those take up to half of the room then. Of either, those go first of
/// which one pod (or user namespace) has most.
#[derive(Debug)]
pub(super) struct History {
    /// Allowed, and failed for an ordinary reason.
    allowed: Side,
    /// Denied and refused.
    denied: Side,
    bounds: Bounds,
    bytes: usize,
    next_seq: u64,
}

impl History {
    pub fn new(bounds: Bounds) -> Self {
        let bounds = Bounds { checks: bounds.checks.max(1), ..bounds };
        Self { allowed: Side::default(), denied: Side::default(), bounds, bytes: 0, next_seq: 1 }
    }

    /// Keeps what `make` makes of the next number.
    pub fn push(&mut self, make: impl FnOnce(u64) -> Option<Check>) -> Option<Arc<Check>> {
        let check = Arc::new(make(self.next_seq)?);
        self.next_seq += 1;
        let bytes = check.footprint();
        while self.len() > 0 && (self.len() >= self.bounds.checks || self.bytes + bytes > self.bounds.bytes) {
            self.forget_one();
        }
        self.bytes += bytes;
        let side = if is_denial(check.verdict) { &mut self.denied } else { &mut self.allowed };
        side.push(check.clone());
        Some(check)
    }

    fn forget_one(&mut self) {
        let denials_first = self.allowed.len == 0 || self.denied.len > self.len() / 2;
        let side = if denials_first { &mut self.denied } else { &mut self.allowed };
        if let Some(check) = side.pop() {
            self.bytes -= check.footprint();
        }
    }

    /// Forgets what is older than the bounds have it. An idle history is asked to by whoever reads it.
    pub fn forget_older(&mut self, now_ns: i64) {
        let since_ns = now_ns.saturating_sub(i64::try_from(self.bounds.age.as_nanos()).unwrap_or(i64::MAX));
        for side in [&mut self.allowed, &mut self.denied] {
            while let Some(check) = side.pop_older(since_ns) {
                self.bytes -= check.footprint();
            }
        }
    }

    fn len(&self) -> usize {
        self.allowed.len + self.denied.len
    }

    /// Memory of what is kept, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn kept(&self) -> usize {
        self.len()
    }

    /// Recorded, and gone.
    pub fn forgotten(&self) -> u64 {
        self.next_seq - 1 - self.len() as u64
    }

    pub fn get(&self, seq: u64) -> Option<Arc<Check>> {
        self.denied.get(seq).or_else(|| self.allowed.get(seq))
    }

    /// From the newest to the oldest.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<Check>> {
        let queues = self.denied.queues.values().chain(self.allowed.queues.values());
        let mut rest: Vec<_> = queues.map(|queue| queue.iter().rev().peekable()).collect();
        // The heads, by number: a queue's next one takes the place of the one taken.
        let mut heads: BinaryHeap<(u64, usize)> =
            rest.iter_mut().enumerate().filter_map(|(at, queue)| Some((queue.peek()?.seq, at))).collect();
        std::iter::from_fn(move || {
            let (_, at) = heads.pop()?;
            let queue = rest.get_mut(at)?;
            let check = queue.next()?;
            if let Some(next) = queue.peek() {
                heads.push((next.seq, at));
            }
            Some(check)
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
    use super::super::check::PodRef;
    use super::super::check::tests::{check, record};
    use super::super::reason::Reason;
    use super::*;

    fn full() -> History {
        let mut history = History::new(Bounds { checks: 3, ..Bounds::default() });
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
        let mut history = History::new(Bounds { checks: 4, ..Bounds::default() });
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
    fn of_pod(history: &mut History, pod: &str, verdict: Verdict) -> u64 {
        let pod = PodRef {
            id: PodId::from_string(pod.to_string()),
            name: pod.into(),
            container: "infra".into(),
            container_id: None,
        };
        let made = history.push(|seq| {
            let time_ns = i64::try_from(seq).unwrap();
            Some(Check { seq, time_ns, verdict, pod: Some(pod), ..check(&record()) })
        });
        made.unwrap().seq
    }

    #[test]
    fn a_flood_pushes_out_its_own() {
        let mut history = History::new(Bounds { checks: 100, ..Bounds::default() });
        let quiet: Vec<_> = (0..20).map(|_| of_pod(&mut history, "quiet", Verdict::Denied)).collect();
        for _ in 0..10_000 {
            of_pod(&mut history, "flood", Verdict::Denied);
        }
        assert!(quiet.iter().all(|seq| history.get(*seq).is_some()));
        assert_eq!((history.kept(), history.forgotten()), (100, 10_020 - 100));
        let seqs: Vec<_> = history.newest_first().map(|check| check.seq).collect();
        assert!(seqs.windows(2).all(|pair| pair[0] > pair[1]), "{seqs:?}");
        assert_eq!(seqs.len(), 100);
    }

    #[test]
    fn memory_is_bounded_whatever_the_number() {
        let one = check(&record()).footprint();
        assert!((256..1024).contains(&one), "{one}");
        let bounds = Bounds { bytes: 64 << 10, checks: usize::MAX, ..Bounds::default() };
        let mut history = History::new(bounds);
        for n in 0..5_000 {
            of_pod(&mut history, &format!("pod{}", n % 7), Verdict::Denied);
            assert!(history.bytes() <= bounds.bytes);
        }
        assert!(history.kept() > 50 && history.kept() < 5_000, "{}", history.kept());
        let sum: usize = history.newest_first().map(|check| check.footprint()).sum();
        assert_eq!(history.bytes(), sum);
    }

    #[test]
    fn what_is_too_old_is_forgotten() {
        let mut history = History::new(Bounds { age: Duration::from_nanos(10), ..Bounds::default() });
        for n in 1..=30 {
            of_pod(&mut history, "a", if n % 2 == 0 { Verdict::Allowed } else { Verdict::Denied });
        }
        history.forget_older(30);
        let kept: Vec<_> = history.newest_first().map(|check| check.seq).collect();
        assert_eq!(kept, (20..=30).rev().collect::<Vec<_>>());
        assert_eq!(history.forgotten(), 19);
        history.forget_older(1_000);
        assert_eq!((history.kept(), history.bytes(), history.forgotten()), (0, 0, 30));
    }
}
