//! Which checks are kept one by one, and which are only counted: so that whoever makes many of them neither takes
//! the place of others nor the memory of the daemon.
//!
//! ```text
//!            a bucket for each pod, and for each user namespace that is no pod's; one for what was allowed, one for
//!            what was denied or failed
//!  record ──▶ has a token ──▶ kept: history, subscribers
//!             empty ──▶ a bucket for each kind of its checks has a token ──▶ kept
//!                       empty ──▶ counted: by pod, container, capability, verdict and reason
//! ```
//!
//! The small bucket of a kind lets what is rare through a flood of its own pod, and what is denied is not hidden by how
//! much is allowed: on a node where many pods come and go, that alone is a flood. Nothing here allocates for a check
//! of a kind that was seen before, and both tables are bounded: what has no room in them shares one bucket.

use std::collections::HashMap;

use sandboxd_ebpf::{CheckRecord, FS_TYPE_LEN, Outcome};

use super::attribution::Place;
use super::tally::Told;

/// How many at once, and how many a second from then on.
#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u64,
    per_second: u64,
}

/// A pod's start makes about a hundred; a burst is several of them.
const SOURCE: Rate = Rate { burst: 1_000, per_second: 100 };
const KIND: Rate = Rate { burst: 16, per_second: 1 };
/// Sources that have buckets of their own, and kinds in one.
const SOURCES: usize = 1024;
const KINDS: usize = 32;

/// A token bucket as the time at which it will be full again (GCRA).
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    full_at_ns: u64,
}

impl Bucket {
    fn take(&mut self, now_ns: u64, rate: Rate) -> bool {
        let each = 1_000_000_000 / rate.per_second;
        let full_at = self.full_at_ns.max(now_ns);
        if full_at - now_ns > (rate.burst - 1) * each {
            return false;
        }
        self.full_at_ns = full_at + each;
        true
    }

    fn is_full(&self, now_ns: u64) -> bool {
        self.full_at_ns <= now_ns
    }
}

/// Who makes checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Source {
    Pod(u64),
    /// Inode of a user namespace that no pod has; 0: not known.
    Userns(u32),
    /// Those that came when the table was full.
    Rest,
}

/// Checks that are alike: the same question by the same container with the same answer, and for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Kind {
    place: Option<Place>,
    syscall: u32,
    capability: u32,
    ret: i32,
    valid: u32,
    flags: u64,
    fs_type: [u8; FS_TYPE_LEN],
    /// Caller, target, target's parent; the caller's namespaces and who owns them.
    namespaces: [u32; 9],
    outcome: Outcome,
}

impl Kind {
    fn of(record: &CheckRecord, place: Option<Place>) -> Self {
        Self {
            place,
            syscall: record.syscall,
            capability: record.capability,
            ret: record.ret,
            valid: record.valid,
            flags: record.flags,
            fs_type: record.fs_type,
            namespaces: [
                record.caller_userns,
                record.target_userns,
                record.target_parent,
                record.netns,
                record.mntns,
                record.pidns,
                record.netns_owner,
                record.mntns_owner,
                record.pidns_owner,
            ],
            outcome: record.outcome,
        }
    }
}

#[derive(Debug, Default)]
struct KindState {
    bucket: Bucket,
    /// What such a check is told as; made of the first that is only counted.
    told: Option<Told>,
    pending: u64,
    last_ns: u64,
}

#[derive(Debug, Default)]
struct Flow {
    bucket: Bucket,
    kinds: HashMap<Kind, KindState>,
    last_ns: u64,
}

impl Flow {
    fn is_pending(&self) -> bool {
        self.kinds.values().any(|state| state.pending > 0)
    }
}

/// What is to become of a check.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Keep,
    Count,
}

/// The buckets of all sources.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// By source, and whether it was allowed.
    flows: HashMap<(Source, bool), Flow>,
    pending: bool,
}

impl Sampler {
    /// Decides, and counts what is not to be kept. `tell` makes what is told of a check of a kind not seen before,
    /// `beyond` takes the count of one whose kind has no room.
    pub fn admit(
        &mut self,
        record: &CheckRecord,
        place: Option<Place>,
        tell: impl FnOnce() -> Option<Told>,
        beyond: impl FnOnce(Told, u64),
    ) -> Verdict {
        let now = record.time_ns;
        let source = place.map_or(Source::Userns(record.caller_userns), |place| Source::Pod(place.pod));
        let flow = self.flow((source, record.ret == 0), now);
        flow.last_ns = now;
        if flow.bucket.take(now, SOURCE) {
            return Verdict::Keep;
        }
        let kind = Kind::of(record, place);
        if !flow.kinds.contains_key(&kind) && flow.kinds.len() >= KINDS {
            // Rarely so many: those that wait for nothing make room.
            flow.kinds.retain(|_, state| state.pending > 0 || !state.bucket.is_full(now));
            if flow.kinds.len() >= KINDS {
                if let Some(told) = tell() {
                    beyond(told, now);
                }
                return Verdict::Count;
            }
        }
        let state = flow.kinds.entry(kind).or_default();
        if state.bucket.take(now, KIND) {
            return Verdict::Keep;
        }
        if state.told.is_none() {
            state.told = tell();
        }
        state.pending += 1;
        state.last_ns = now;
        self.pending = true;
        Verdict::Count
    }

    fn flow(&mut self, of: (Source, bool), now: u64) -> &mut Flow {
        let full = self.flows.len() >= SOURCES && !self.flows.contains_key(&of);
        if full {
            self.flows.retain(|_, flow| !flow.bucket.is_full(now) || flow.is_pending());
        }
        let full = full && self.flows.len() >= SOURCES;
        self.flows.entry(if full { (Source::Rest, of.1) } else { of }).or_default()
    }

    /// Hands over what was counted since the last time: what it is told as, how many, and when the last one was
    /// (CLOCK_BOOTTIME).
    pub fn drain(&mut self, mut take: impl FnMut(&Told, u64, u64)) {
        if !std::mem::take(&mut self.pending) {
            return;
        }
        let kinds = self.flows.values_mut().flat_map(|flow| flow.kinds.values_mut());
        for state in kinds.filter(|state| state.pending > 0) {
            if let Some(told) = &state.told {
                take(told, state.pending, state.last_ns);
            }
            state.pending = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use sandboxd_ebpf::Syscall;

    use super::super::check::tests::{check, record};
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn admit(sampler: &mut Sampler, record: &CheckRecord, place: Option<Place>) -> Verdict {
        sampler.admit(record, place, || Told::of(&check(record)).into(), |_, _| {})
    }

    fn pod(number: u64) -> Option<Place> {
        Some(Place { pod: number, container: None })
    }

    fn counted(sampler: &mut Sampler) -> u64 {
        let mut sum = 0;
        sampler.drain(|_, n, _| sum += n);
        sum
    }

    #[test]
    fn a_flood_is_kept_at_its_rate_and_counted_beyond() {
        let mut sampler = Sampler::default();
        let mut kept = 0;
        for n in 0..1_000_000u64 {
            let record = CheckRecord { time_ns: n * SECOND / 100_000, ..record() };
            kept += u64::from(admit(&mut sampler, &record, pod(1)) == Verdict::Keep);
        }
        let most = SOURCE.burst + KIND.burst + 10 * (SOURCE.per_second + KIND.per_second);
        assert!(kept <= most + 2 && kept > most / 2, "{kept} of {most}");
        assert_eq!(kept + counted(&mut sampler), 1_000_000);
        assert_eq!(counted(&mut sampler), 0, "handed over once");
    }

    #[test]
    fn others_and_what_is_rare_pass_a_flood() {
        let mut sampler = Sampler::default();
        for _ in 0..100_000 {
            admit(&mut sampler, &record(), pod(1));
        }
        assert_eq!(admit(&mut sampler, &record(), pod(1)), Verdict::Count);
        assert_eq!(admit(&mut sampler, &record(), pod(2)), Verdict::Keep, "another pod");
        assert_eq!(admit(&mut sampler, &record(), None), Verdict::Keep, "no pod");
        let rare = CheckRecord { syscall: Syscall::Setns as u32, ..record() };
        assert_eq!(admit(&mut sampler, &rare, pod(1)), Verdict::Keep, "another call of the same pod");
        assert_eq!(admit(&mut sampler, &record(), pod(1)), Verdict::Count);
    }

    #[test]
    fn what_is_denied_passes_a_flood_of_kinds_that_are_allowed() {
        let mut sampler = Sampler::default();
        for mntns in 0..100_000 {
            admit(&mut sampler, &CheckRecord { mntns, ret: 0, ..record() }, None);
        }
        assert_eq!(admit(&mut sampler, &CheckRecord { ret: 0, ..record() }, None), Verdict::Count);
        assert_eq!(admit(&mut sampler, &CheckRecord { ret: -1, ..record() }, None), Verdict::Keep);
    }

    #[test]
    fn the_tables_are_bounded_and_counts_are_not_lost() {
        let mut sampler = Sampler::default();
        let (mut kept, mut beyond, mut made) = (0, 0, 0);
        for source in 0..u32::try_from(SOURCES).unwrap() * 3 {
            for _ in 0..3 {
                let record = CheckRecord { caller_userns: source, ..record() };
                let tell = || Some(Told::of(&check(&record)));
                kept += u64::from(sampler.admit(&record, None, tell, |_, _| beyond += 1) == Verdict::Keep);
                made += 1;
            }
        }
        for flags in 0..100_000u64 {
            let record = CheckRecord { flags, ..record() };
            let tell = || Some(Told::of(&check(&record)));
            kept += u64::from(sampler.admit(&record, pod(1), tell, |_, _| beyond += 1) == Verdict::Keep);
            made += 1;
        }
        assert!(sampler.flows.len() <= SOURCES + 2);
        assert!(sampler.flows.values().all(|flow| flow.kinds.len() <= KINDS));
        assert!(beyond > 0);
        assert_eq!(kept + beyond + counted(&mut sampler), made);
    }
}
