//! From a record to what is kept of it: attributed, then kept as a check or only counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sandboxd_ebpf::{CheckRecord, Syscall, valid};

use super::attribution::{Caller, Known};
use super::check::Check;
use super::held::Held;
use super::opened::OpenedTypes;
use super::reason::Reason;
use super::results::{self, Waiting};
use super::sampling::{Sampler, Verdict};
use super::tally::{Kept, Told};
use super::{ResultsThrough, Shared, lock};
use crate::pod::model::{NsInode, PodId};

/// Records in one go: for so long the pods that are known stay as they are.
const BATCH: usize = 512;
/// How often subscribers hear of what was only counted.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// What is told of: all pods of a node, and some more.
const TOLD_OF: usize = 4096;

pub(super) struct Sieve {
    pub shared: Arc<Shared>,
    opened: OpenedTypes,
    sampler: Sampler,
    held: Option<Held>,
    /// Where results are read.
    waiting: Option<Waiting>,
    /// When the kernel's buckets were read, and whether they had anything new.
    swept: Option<(Instant, bool)>,
    /// Pods of which checks were only counted and nobody was told.
    untold: Vec<PodId>,
    told_at: Option<Instant>,
}

impl Sieve {
    pub fn new(shared: Arc<Shared>, held: impl Into<Option<Held>>, results: Option<ResultsThrough>) -> Self {
        let (opened, sampler) = (OpenedTypes::default(), Sampler::default());
        let (held, waiting) = (held.into(), results.map(|_| Waiting::default()));
        Self { shared, opened, sampler, held, waiting, swept: None, untold: Vec::new(), told_at: None }
    }

    /// Takes the records that `next` gives, at most a batch; `Some(None)` is one of another version of the object.
    /// `false`: there were no more.
    pub fn take(&mut self, mut next: impl FnMut() -> Option<Option<CheckRecord>>) -> bool {
        let shared = self.shared.clone();
        let boot_to_epoch_ns = now(ClockId::Realtime).saturating_sub(now(ClockId::Boottime));
        let known = shared.attribution.known();
        let (mut done, mut more, mut any) = (Done::default(), true, false);
        for _ in 0..BATCH {
            let Some(record) = next() else {
                more = false;
                break;
            };
            any = true;
            match record.map(|record| (record, record.result())) {
                Some((record, Some(errno))) => self.result(&record, errno, &mut done),
                Some((record, None)) => self.one(record, &known, boot_to_epoch_ns, &mut done),
                None => done.seen += 1,
            }
        }
        drop(known);
        self.release_overdue(&mut done);
        if any || done != Done::default() {
            self.count(boot_to_epoch_ns);
            self.sweep();
            // Last: whoever sees the counts finds the checks.
            shared.sampled_out.fetch_add(done.sampled_out, Ordering::Release);
            shared.seen.fetch_add(done.seen, Ordering::Release);
            shared.batches.send_replace(());
        }
        more
    }

    fn one(&mut self, mut record: CheckRecord, known: &Known<'_>, boot_to_epoch_ns: i64, done: &mut Done) {
        self.opened.follow(&mut record);
        let caller = caller(&record, boot_to_epoch_ns);
        let place = known.place(&caller);
        let make = |seq| {
            let mut check = Check::from_record(&record, seq, boot_to_epoch_ns)?;
            check.pod = known.pod(&caller);
            check.reason = Reason::of(&check).map(|reason| reason.for_pod(check.pod.is_some()));
            Some(check)
        };
        let shared = &self.shared;
        let tell = || make(0).map(|check| Told::of(&check));
        if let Some(held) = &mut self.held {
            held.learn(&record, tell);
        }
        let beyond = |told: Told, _| shared.count(&told, 1, caller.time_ns, Kept::SampledOut);
        if self.sampler.admit(&record, place, tell, beyond) == Verdict::Count {
            done.sampled_out += 1;
            return;
        }
        let waits = Syscall::from_raw(record.syscall).is_some_and(results::is_reported);
        match self.waiting.as_mut().filter(|_| waits) {
            Some(waiting) => {
                let pushed_out = make(0).and_then(|check| waiting.hold(check, Instant::now()));
                if let Some(check) = pushed_out {
                    keep(shared, check, done);
                }
            }
            None => {
                shared.record(make);
                done.seen += 1;
            }
        }
    }

    /// A syscall has returned: its checks are complete.
    fn result(&mut self, record: &CheckRecord, errno: i32, done: &mut Done) {
        let (Some(waiting), Some(syscall)) = (&mut self.waiting, Syscall::from_raw(record.syscall)) else {
            return;
        };
        let released = waiting.returned(record.tid.cast_signed(), syscall, errno);
        let passed = results::refused(&released).cloned();
        released.into_iter().for_each(|check| keep(&self.shared, check, done));
        if let Some(passed) = passed {
            self.shared.refuse(&passed, passed.pod.is_some());
        }
    }

    /// Checks whose result does not come are kept without it.
    fn release_overdue(&mut self, done: &mut Done) {
        let late = self.waiting.as_mut().map(|waiting| waiting.overdue(Instant::now())).unwrap_or_default();
        late.into_iter().for_each(|check| keep(&self.shared, check, done));
    }

    /// At the end: nothing waits any more.
    pub fn release_all(&mut self) {
        let mut done = Done::default();
        let rest = self.waiting.as_mut().map(Waiting::all).unwrap_or_default();
        rest.into_iter().for_each(|check| keep(&self.shared, check, &mut done));
        self.shared.seen.fetch_add(done.seen, Ordering::Release);
        self.shared.batches.send_replace(());
    }

    /// Counts what was not kept.
    fn count(&mut self, boot_to_epoch_ns: i64) {
        let Self { shared, sampler, untold, .. } = self;
        sampler.drain(|told, n, last_ns| {
            let last_ns = i64::try_from(last_ns).unwrap_or(i64::MAX).saturating_add(boot_to_epoch_ns);
            shared.count(told, n, last_ns, Kept::SampledOut);
            note(untold, told);
        });
    }

    /// How soon there is something to do, also where no check follows.
    pub fn patience(&self) -> Option<Duration> {
        let waits = self.waiting.as_ref().is_some_and(|waiting| !waiting.is_empty());
        let busy = !self.untold.is_empty() || self.swept.is_some_and(|(_, new)| new);
        if waits { Some(Waiting::LONGEST) } else { busy.then_some(TELL_EVERY) }
    }

    /// At most once a second: counts what the kernel held back, and says of which pods checks were only counted.
    pub fn sweep(&mut self) {
        let Self { shared, held, swept, untold, .. } = self;
        if let Some(held) = held
            && swept.is_none_or(|(at, _)| at.elapsed() >= TELL_EVERY)
        {
            let before = held.taken();
            let now_boot_ns = u64::try_from(now(ClockId::Boottime)).unwrap_or(0);
            let now_ns = now(ClockId::Realtime);
            held.sweep(now_boot_ns, |told, n| {
                lock(&shared.tally).add(told, n, now_ns, Kept::SampledOut, &shared.attribution);
                note(untold, told);
            });
            *swept = Some((Instant::now(), held.taken() > before));
        }
        if !self.untold.is_empty() && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.told_at = Some(Instant::now());
            self.shared.sampled.send_replace(Arc::new(std::mem::take(&mut self.untold)));
        }
    }
}

/// What became of the records of a batch, to be told at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Done {
    seen: u64,
    sampled_out: u64,
}

/// Keeps a check that nothing more is to be said about.
fn keep(shared: &Shared, check: Check, done: &mut Done) {
    shared.record(|seq| Some(Check { seq, ..check }));
    done.seen += 1;
}

fn note(untold: &mut Vec<PodId>, told: &Told) {
    if let Some(pod) = &told.pod
        && untold.len() < TOLD_OF
        && !untold.contains(&pod.id)
    {
        untold.push(pod.id.clone());
    }
}

fn caller(record: &CheckRecord, boot_to_epoch_ns: i64) -> Caller {
    let known = |bit: u32, inode: u32| (record.valid & bit != 0).then_some(NsInode(u64::from(inode)));
    Caller {
        time_ns: i64::try_from(record.time_ns).unwrap_or(i64::MAX).saturating_add(boot_to_epoch_ns),
        pid: record.pid.cast_signed(),
        ppid: (record.valid & valid::PARENT != 0).then_some(record.ppid.cast_signed()),
        userns: known(valid::CALLER_USERNS, record.caller_userns),
        netns: known(valid::NETNS, record.netns),
        pidns: known(valid::PIDNS, record.pidns),
        mntns: known(valid::MNTNS, record.mntns),
    }
}

fn now(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}
