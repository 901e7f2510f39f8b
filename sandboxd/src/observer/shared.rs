//! What the reader writes and the handles read: state, history, counts, and those who listen.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{broadcast, watch};

use super::attribution::Attribution;
use super::check::{Check, Verdict};
use super::covering::{Covering, covering_mounts};
use super::history::{Bounds, History};
use super::reason::Reason;
use super::status::{Degradation, ResultsThrough, State};
use super::tally::{Kept, Tally, Told};
use crate::pod::model::PodId;

/// Checks a subscriber may lag behind before it misses some (and is told how many).
const SUBSCRIBER_LAG: usize = 1024;

/// One for all handles and the reader.
#[derive(Debug)]
pub(super) struct Shared {
    pub state: State,
    pub results: Option<ResultsThrough>,
    /// Grows when one appears while it runs.
    pub degradations: watch::Sender<Vec<Degradation>>,
    pub attribution: Arc<Attribution>,
    pub history: Mutex<History>,
    pub subscribers: broadcast::Sender<Arc<Check>>,
    /// Told once after each batch.
    pub batches: watch::Sender<()>,
    /// Told which pods had checks that were only counted, at most once a second.
    pub sampled: watch::Sender<Arc<Vec<PodId>>>,
    pub tally: Mutex<Tally>,
    /// Kept one by one.
    pub seen: AtomicU64,
    pub sampled_out: AtomicU64,
    pub allowed: AtomicU64,
    pub denied: AtomicU64,
    /// Without a denied check.
    pub failed: AtomicU64,
}

impl Shared {
    pub fn new(
        history: Bounds,
        attribution: Arc<Attribution>,
        state: State,
        results: Option<ResultsThrough>,
        degradations: Vec<Degradation>,
    ) -> Self {
        Self {
            state,
            results,
            degradations: watch::Sender::new(degradations),
            attribution,
            history: Mutex::new(History::new(history)),
            subscribers: broadcast::Sender::new(SUBSCRIBER_LAG),
            batches: watch::Sender::new(()),
            sampled: watch::Sender::new(Arc::default()),
            tally: Mutex::default(),
            seen: AtomicU64::new(0),
            sampled_out: AtomicU64::new(0),
            allowed: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Taken from the ring.
    pub fn read(&self) -> u64 {
        self.seen.load(Ordering::Acquire) + self.sampled_out.load(Ordering::Acquire)
    }

    /// Keeps a check and tells the subscribers.
    pub fn record(&self, kept: Kept, make: impl FnOnce(u64) -> Option<Check>) -> Option<Arc<Check>> {
        let check = lock(&self.history).push(make)?;
        self.count(&Told::of(&check), 1, check.time_ns, kept);
        // An error means that nobody listens.
        let _ = self.subscribers.send(check.clone());
        Some(check)
    }

    /// Records that a mount which passed all of its checks was refused as too revealing.
    pub fn refuse(&self, passed: &Check, is_pods: bool) -> Option<Arc<Check>> {
        let reason = too_revealing(passed)?.for_pod(is_pods);
        let refused = Check { verdict: Verdict::Refused, reason: Some(reason), ..passed.clone() };
        self.record(Kept::Concluded, move |seq| Some(Check { seq, ..refused }))
    }

    pub fn count(&self, told: &Told, n: u64, last_ns: i64, kept: Kept) {
        lock(&self.tally).add(told, n, last_ns, kept);
        let of_verdict = match told.verdict {
            Verdict::Allowed => &self.allowed,
            Verdict::Denied => &self.denied,
            // The one that passed was counted.
            Verdict::Refused | Verdict::Failed if kept == Kept::Concluded => return,
            Verdict::Refused | Verdict::Failed => &self.failed,
        };
        of_verdict.fetch_add(n, Ordering::Relaxed);
    }

    /// The check with its pod, where that has become known since: a pod's first checks are made before the
    /// daemon has heard of its namespaces.
    pub fn attributed(&self, check: Arc<Check>) -> Arc<Check> {
        if check.pod.is_some() {
            return check;
        }
        let Some(pod) = self.attribution.of_check(&check) else { return check };
        let mut known = Check::clone(&check);
        known.pod = Some(pod);
        known.reason = known.reason.map(|reason| reason.for_pod(true));
        Arc::new(known)
    }

    #[cfg(feature = "observer")]
    pub fn degrade(&self, step: Degradation) {
        step.log();
        self.degradations.send_modify(|all| all.push(step));
    }
}

/// What is in the way of a new mount of sysfs or proc, while the process or its parent is there to be looked at.
pub(super) fn too_revealing(mount: &Check) -> Option<Reason> {
    let fs_type: Box<str> = mount.new_fs_type()?.into();
    let mut covering = covering_mounts(mount.pid, &fs_type);
    if covering == Covering::Gone
        && let Some(parent) = mount.ppid
    {
        covering = covering_mounts(parent, &fs_type);
    }
    Some(Reason::TooRevealing { fs_type, covering })
}

/// A poisoned lock guards data that each writer leaves whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
