//! From a record to what is kept of it: attributed, then kept as a check or only counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, Timespec, clock_gettime};
use sandboxd_ebpf::{CheckRecord, Syscall, valid};

use super::Verdict as Ended;
use super::attribution::{Caller, Known};
use super::check::Check;
use super::failure;
use super::held::HeldBack;
use super::opened::OpenedTypes;
use super::reason::Reason;
use super::results::{self, Held};
use super::sampling::{self, Sampler};
use super::shared::{Shared, lock, too_revealing};
use super::tally::{Kept, Told};
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
    back: Option<HeldBack>,
    /// Checks that wait for their syscall's result, where results are read.
    waiting: Option<Held>,
    /// When the kernel's buckets were read, and whether they may have something new.
    swept: Option<Instant>,
    unswept: bool,
    /// Pods of which checks were only counted and nobody was told.
    untold: Vec<PodId>,
    told_at: Option<Instant>,
}

impl Sieve {
    pub fn new(shared: Arc<Shared>, back: impl Into<Option<HeldBack>>, results: bool) -> Self {
        Self {
            shared,
            opened: OpenedTypes::default(),
            sampler: Sampler::default(),
            back: back.into(),
            waiting: results.then(Held::default),
            swept: None,
            unswept: false,
            untold: Vec::new(),
            told_at: None,
        }
    }

    /// Takes the records that `next` gives, at most a batch; `Some(None)` is one of another version of the object.
    /// `false`: there were no more.
    pub fn take(&mut self, mut next: impl FnMut() -> Option<Option<CheckRecord>>) -> bool {
        let shared = self.shared.clone();
        let boot_to_epoch_ns = now(ClockId::Realtime).saturating_sub(now(ClockId::Boottime));
        let known = shared.attribution.known();
        let (mut seen, mut sampled_out, mut more) = (0, 0, true);
        for _ in 0..BATCH {
            let Some(record) = next() else {
                more = false;
                break;
            };
            let one = match record.map(|record| (record, record.result())) {
                Some((record, Some(errno))) => {
                    let returned = self.returned(&record, errno);
                    seen += returned.len() as u64;
                    let last = returned.last().cloned();
                    returned.into_iter().for_each(|check| keep(&self.shared, check));
                    if !record.is_failure() {
                        continue;
                    }
                    self.failed(record, last.as_ref(), &known, boot_to_epoch_ns)
                }
                Some((record, None)) => self.one(record, &known, boot_to_epoch_ns),
                None => Verdict::Keep(1),
            };
            match one {
                Verdict::Keep(kept) => seen += kept,
                Verdict::Count => sampled_out += 1,
            }
        }
        drop(known);
        self.unswept |= self.back.is_some() && seen + sampled_out > 0;
        self.count(boot_to_epoch_ns);
        // Last: whoever sees the counts finds the checks.
        shared.sampled_out.fetch_add(sampled_out, Ordering::Release);
        self.in_time();
        self.told(seen, sampled_out);
        more
    }

    fn told(&self, seen: u64, sampled_out: u64) {
        if seen + sampled_out > 0 {
            self.shared.seen.fetch_add(seen, Ordering::Release);
            self.shared.batches.send_replace(());
        }
    }

    /// What is done when its time has come, whether checks follow or not.
    pub fn in_time(&mut self) {
        let late = self.waiting.as_mut().map(|waiting| waiting.overdue(Instant::now())).unwrap_or_default();
        self.keep_all(late);
        self.sweep();
    }

    /// No more comes.
    pub fn finish(&mut self) {
        let rest = self.waiting.as_mut().map(Held::all).unwrap_or_default();
        self.keep_all(rest);
    }

    fn keep_all(&self, checks: Vec<Check>) {
        let count = checks.len() as u64;
        checks.into_iter().for_each(|check| keep(&self.shared, check));
        self.told(count, 0);
    }

    /// How long nothing needs to be done if nothing comes; `None`: for ever.
    pub fn patience(&self) -> Option<Timespec> {
        let until = |limit: Duration| Timespec::try_from(limit).ok();
        if self.waiting.as_ref().is_some_and(|waiting| !waiting.is_empty()) {
            return until(Held::LONGEST);
        }
        if self.unswept || !self.untold.is_empty() { until(TELL_EVERY) } else { None }
    }

    /// A syscall has returned: its checks are complete.
    fn returned(&mut self, record: &CheckRecord, errno: i32) -> Vec<Check> {
        let (Some(waiting), Some(syscall)) = (&mut self.waiting, Syscall::from_raw(record.syscall)) else {
            return Vec::new();
        };
        waiting.returned(record.tid.cast_signed(), syscall, errno)
    }

    /// A syscall has failed without a denied check; `last` is the last that was asked, if it was kept.
    fn failed(
        &mut self,
        mut record: CheckRecord,
        last: Option<&Check>,
        known: &Known<'_>,
        boot_to_epoch_ns: i64,
    ) -> Verdict {
        self.opened.follow(&mut record);
        let caller = caller(&record, boot_to_epoch_ns);
        let shared = self.shared.clone();
        let tell = || {
            let mut check = Check::from_record(&record, 0, boot_to_epoch_ns)?;
            check.pod = known.pod(&caller);
            if let Some(last) = last {
                check.capability = last.capability;
                check.target_userns = last.target_userns;
                (check.target_parent, check.target_uid) = (last.target_parent, last.target_uid);
            }
            let reason = if results::is_too_revealing(&check, &record) {
                check.verdict = Ended::Refused;
                too_revealing(&check)?
            } else {
                let failure = failure::of(&record, &check, shared.results);
                check.verdict = failure.verdict();
                Reason::Failed(failure)
            };
            check.reason = Some(reason.for_pod(check.pod.is_some()));
            Some(check)
        };
        self.admitted(&record, &caller, known, tell).map_or(Verdict::Count, |failed| {
            failed.into_iter().for_each(|failed| keep(&shared, failed));
            Verdict::Keep(1)
        })
    }

    /// Makes a check of what is to be kept. `None`: only counted; `Some(None)`: of another version of the object.
    fn admitted(
        &mut self,
        record: &CheckRecord,
        caller: &Caller,
        known: &Known<'_>,
        make: impl Fn() -> Option<Check>,
    ) -> Option<Option<Check>> {
        let tell = || make().map(|check| Told::of(&check));
        if let Some(back) = &mut self.back {
            back.learn(record, tell);
        }
        let shared = &self.shared;
        let beyond = |told: Told, _| shared.count(&told, 1, caller.time_ns, Kept::SampledOut);
        match self.sampler.admit(record, known.place(caller), tell, beyond) {
            sampling::Verdict::Count => None,
            sampling::Verdict::Keep => Some(make()),
        }
    }

    fn one(&mut self, mut record: CheckRecord, known: &Known<'_>, boot_to_epoch_ns: i64) -> Verdict {
        self.opened.follow(&mut record);
        let caller = caller(&record, boot_to_epoch_ns);
        let make = || {
            let mut check = Check::from_record(&record, 0, boot_to_epoch_ns)?;
            check.pod = known.pod(&caller);
            check.reason = Reason::of(&check).map(|reason| reason.for_pod(check.pod.is_some()));
            Some(check)
        };
        let Some(kept) = self.admitted(&record, &caller, known, make) else { return Verdict::Count };
        let Some(check) = kept else { return Verdict::Keep(1) };
        let shared = &self.shared;
        match &mut self.waiting {
            Some(waiting) if results::is_reported(check.syscall) => {
                let pushed_out = waiting.hold(check, Instant::now());
                let kept = u64::from(pushed_out.is_some());
                pushed_out.into_iter().for_each(|check| keep(shared, check));
                Verdict::Keep(kept)
            }
            _ => {
                keep(shared, check);
                Verdict::Keep(1)
            }
        }
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

    /// At most once a second: counts what the kernel held back, and says of which pods checks were only counted.
    fn sweep(&mut self) {
        let Self { shared, back, swept, unswept, untold, .. } = self;
        let due = *unswept && swept.is_none_or(|at| at.elapsed() >= TELL_EVERY);
        if let Some(back) = back.as_mut().filter(|_| due) {
            let before = back.taken();
            let now_boot_ns = u64::try_from(now(ClockId::Boottime)).unwrap_or(0);
            let now_ns = now(ClockId::Realtime);
            back.sweep(now_boot_ns, |told, n| {
                // The verdicts' sums have it from the kernel's own counters.
                lock(&shared.tally).add(told, n, now_ns, Kept::SampledOut);
                note(untold, told);
            });
            // Whoever still floods does so after this, too.
            (*swept, *unswept) = (Some(Instant::now()), back.taken() > before);
        }
        if !self.untold.is_empty() && self.told_at.is_none_or(|at| at.elapsed() >= TELL_EVERY) {
            self.told_at = Some(Instant::now());
            self.shared.sampled.send_replace(Arc::new(std::mem::take(&mut self.untold)));
        }
    }
}

/// What became of a record.
enum Verdict {
    /// So many checks were kept: itself, or one that waited and made room for it.
    Keep(u64),
    Count,
}

/// Keeps a check that nothing more is to be said about.
fn keep(shared: &Shared, check: Check) {
    shared.record(Kept::OneByOne, |seq| Some(Check { seq, ..check }));
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

#[cfg(test)]
mod tests;
