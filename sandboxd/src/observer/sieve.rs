//! From a record to what is kept of it: attributed, then kept as a check or only counted.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use sandboxd_ebpf::{CheckRecord, valid};

use super::attribution::{Caller, Known};
use super::check::Check;
use super::held::Held;
use super::opened::OpenedTypes;
use super::reason::Reason;
use super::sampling::{Sampler, Verdict};
use super::tally::{Kept, Told};
use super::{Shared, lock};
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
    /// When the kernel's buckets were read, and whether they had anything new.
    swept: Option<(Instant, bool)>,
    /// Pods of which checks were only counted and nobody was told.
    untold: Vec<PodId>,
    told_at: Option<Instant>,
}

impl Sieve {
    pub fn new(shared: Arc<Shared>, held: impl Into<Option<Held>>) -> Self {
        let (opened, sampler) = (OpenedTypes::default(), Sampler::default());
        let held = held.into();
        Self { shared, opened, sampler, held, swept: None, untold: Vec::new(), told_at: None }
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
            match record.map(|record| self.one(record, &known, boot_to_epoch_ns)) {
                Some(Verdict::Count) => sampled_out += 1,
                Some(Verdict::Keep) | None => seen += 1,
            }
        }
        drop(known);
        if seen + sampled_out > 0 {
            self.count(boot_to_epoch_ns);
            self.sweep();
            // Last: whoever sees the counts finds the checks.
            shared.sampled_out.fetch_add(sampled_out, Ordering::Release);
            shared.seen.fetch_add(seen, Ordering::Release);
            shared.batches.send_replace(());
        }
        more
    }

    fn one(&mut self, mut record: CheckRecord, known: &Known<'_>, boot_to_epoch_ns: i64) -> Verdict {
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
        let verdict = self.sampler.admit(&record, place, tell, beyond);
        if verdict == Verdict::Keep {
            shared.record(make);
        }
        verdict
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

    /// Whether there is something to do in a second, also where no check follows.
    pub fn is_busy(&self) -> bool {
        !self.untold.is_empty() || self.swept.is_some_and(|(_, new)| new)
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
