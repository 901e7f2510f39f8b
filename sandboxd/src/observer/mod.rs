//! Watches the kernel take its decisions: every capability check in a syscall of mounting or of namespaces,
//! whose it was, and why it was denied.
//!
//! ```text
//!              no feature ──▶ NotBuiltIn         (the daemon serves all the same)
//!  start ──┬── configured off ──▶ Disabled
//!          ├── no rung of the ladder loads ──▶ Unavailable, each step with its Degradation
//!          └── Running ── the reader fails ──▶ Running, with a Degradation
//!
//!  kernel ─▶ ring buffer ─▶ reader thread ─▶ attribution ─▶ reason ─▶ history, subscribers
//! ```
//!
//! A check is made inside a syscall, before that has a result. Where results are read too (trampolines, or on
//! request), a check waits for its syscall's result and carries it, and a mount that was refused without a denied
//! check (too revealing) is recorded when it happens. Elsewhere a denied check is near certain to be what made
//! its syscall fail (those known not to are called incidental), and whoever saw an EPERM without one asks
//! [`Observer::explain_failure`], which then looks at the mount table.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sandboxd_ebpf::Counters;
use tokio::sync::{broadcast, watch};

pub mod attribution;
#[cfg(feature = "observer")]
mod btf;
pub mod check;
pub mod covering;
pub mod explain;
mod history;
#[cfg(feature = "observer")]
mod loader;
pub mod names;
#[cfg(feature = "observer")]
mod opened;
pub mod ownership;
#[cfg(feature = "observer")]
mod reader;
pub mod reason;
mod results;
pub mod status;
mod wire;

pub use attribution::{Attribution, NetnsMade, PodKeys, ProcessKey};
pub use check::{Check, Verdict};
pub use covering::{Covering, covering_mounts};
pub use explain::Explanation;
pub use history::CheckFilter;
pub use reason::Reason;
pub use status::{Degradation, ResultsThrough, Rung, State, Status, SyscallResults};

use crate::pod::model::PodId;
use history::History;

/// How the observer is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserverSettings {
    pub enabled: bool,
    /// Checks kept for history and explanation; one takes about 400 bytes.
    pub history: usize,
    /// Ways to see the checks, tried in this order.
    pub rungs: Vec<Rung>,
    pub results: SyscallResults,
}

impl Default for ObserverSettings {
    fn default() -> Self {
        Self { enabled: true, history: 4096, rungs: Rung::LADDER.to_vec(), results: SyscallResults::Auto }
    }
}

/// Checks a subscriber may lag behind before it misses some (and is told how many).
const SUBSCRIBER_LAG: usize = 1024;

/// A handle; clones share one observer. The program is detached when the last one goes.
#[derive(Debug, Clone)]
pub struct Observer {
    shared: Arc<Shared>,
    #[cfg(feature = "observer")]
    reader: Option<Arc<reader::Reader>>,
}

/// What the reader writes and the handles read.
#[derive(Debug)]
struct Shared {
    state: State,
    results: Option<ResultsThrough>,
    degradations: Mutex<Vec<Degradation>>,
    attribution: Arc<Attribution>,
    history: Mutex<History>,
    subscribers: broadcast::Sender<Arc<Check>>,
    /// Told once after each batch.
    batches: watch::Sender<()>,
    pods: Mutex<HashMap<PodId, PodCounts>>,
    seen: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
}

/// Counted since the pod was first seen, whatever the history forgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodCounts {
    pub allowed: u64,
    /// Denied by a check that decides, or refused without a denied check.
    pub denied: u64,
}

/// Pods whose checks are counted; beyond it those are dropped that attribution has forgotten.
const PODS_COUNTED: usize = 4096;

impl Observer {
    /// Loads the program and starts reading. Never fails: a daemon that sees nothing still serves, and
    /// [`Observer::status`] says what is not seen and why.
    #[must_use]
    pub fn start(settings: &ObserverSettings, attribution: Arc<Attribution>) -> Self {
        let shared = move |state, results, degradations: Vec<Degradation>| {
            degradations.iter().for_each(Degradation::log);
            Arc::new(Shared {
                state,
                results,
                degradations: Mutex::new(degradations),
                attribution,
                history: Mutex::new(History::new(settings.history)),
                subscribers: broadcast::Sender::new(SUBSCRIBER_LAG),
                batches: watch::Sender::new(()),
                pods: Mutex::default(),
                seen: AtomicU64::new(0),
                allowed: AtomicU64::new(0),
                denied: AtomicU64::new(0),
            })
        };
        if !settings.enabled {
            return Self::blind(shared(State::Disabled, None, Vec::new()));
        }
        #[cfg(not(feature = "observer"))]
        return Self::blind(shared(State::NotBuiltIn, None, Vec::new()));
        #[cfg(feature = "observer")]
        match loader::attach(&settings.rungs, settings.results) {
            Err(steps) => Self::blind(shared(State::Unavailable, None, steps)),
            Ok((attached, steps)) => {
                let shared = shared(State::Running(attached.rung), attached.results, steps);
                match reader::Reader::start(attached, shared.clone()) {
                    Ok(reader) => Self { shared, reader: Some(Arc::new(reader)) },
                    Err(error) => {
                        shared.degrade(Degradation::ReaderGone { problem: error.to_string() });
                        Self { shared, reader: None }
                    }
                }
            }
        }
    }

    fn blind(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            #[cfg(feature = "observer")]
            reader: None,
        }
    }

    /// What is seen now, with the counters of kernel and reader.
    #[must_use]
    pub fn status(&self) -> Status {
        let state = self.shared.state;
        let degradations = lock(&self.shared.degradations).clone();
        // Before the kernel's: whatever was seen by now has been produced.
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let (seen, allowed, denied) =
            (count(&self.shared.seen), count(&self.shared.allowed), count(&self.shared.denied));
        Status {
            state,
            results: self.shared.results,
            message: Status::sentence(state, self.shared.results, &degradations),
            kernel: self.counters(),
            seen,
            allowed,
            denied,
            degradations,
        }
    }

    /// Checks from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Check>> {
        self.shared.subscribers.subscribe()
    }

    /// The recorded checks that the filter takes, newest last.
    #[must_use]
    pub fn history(&self, filter: &CheckFilter) -> Vec<Arc<Check>> {
        let newest_first: Vec<_> = lock(&self.shared.history).newest_first().cloned().collect();
        history::select(newest_first.into_iter().map(|check| self.shared.attributed(check)), filter)
    }

    /// How many were recorded and have left the history.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        lock(&self.shared.history).forgotten()
    }

    #[must_use]
    pub fn check(&self, seq: u64) -> Option<Arc<Check>> {
        let check = lock(&self.shared.history).get(seq)?;
        Some(self.shared.attributed(check))
    }

    /// How many of a pod's checks were allowed, and how many were not.
    #[must_use]
    pub fn counts(&self, pod: &PodId) -> PodCounts {
        lock(&self.shared.pods).get(pod).copied().unwrap_or_default()
    }

    /// A recorded check in words.
    #[must_use]
    pub fn explain(&self, seq: u64) -> Option<Explanation> {
        Some(explain::explain(&*self.check(seq)?, &self.shared.attribution))
    }

    /// The check behind an EPERM of a process (or of its child or thread) at or after `since_ns`
    /// (nanoseconds since the epoch): the last decisive denial, or, where there is none, a mount of sysfs
    /// or proc that passed all checks and must have been too revealing. Waits at most `patience` for what
    /// is still in the ring buffer. The caller vouches that the process is a pod's.
    pub async fn explain_failure(
        &self,
        pid: i32,
        since_ns: i64,
        patience: Duration,
    ) -> Option<(Arc<Check>, Explanation)> {
        self.caught_up(patience).await;
        if let Some(check) = self.last(pid, since_ns, |check| {
            check.verdict == Verdict::Denied && check.reason.as_ref().is_some_and(Reason::is_decisive)
        }) {
            let check = vouched(&check);
            let told = explain::explain(&check, &self.shared.attribution);
            return Some((check, told));
        }
        self.explain_eperm(pid, since_ns)
    }

    /// For an EPERM that no check was denied for: when the process's last new mount of sysfs or proc passed
    /// its checks from inside a user namespace, it was refused as too revealing. Records that as a check of
    /// its own (verdict Refused), and names the mounts in the way while the process, or its parent, is
    /// still there to be looked at.
    #[must_use]
    pub fn explain_eperm(&self, pid: i32, since_ns: i64) -> Option<(Arc<Check>, Explanation)> {
        // Where results are read it is in the stream already.
        let check = match self.last(pid, since_ns, |check| check.verdict == Verdict::Refused) {
            Some(known) => vouched(&known),
            None => {
                let passed = self.last(pid, since_ns, results::passed_for_a_new_mount)?;
                self.shared.refuse(&vouched(&passed), true)?
            }
        };
        let told = explain::explain(&check, &self.shared.attribution);
        Some((check, told))
    }

    fn last(&self, pid: i32, since_ns: i64, wanted: impl Fn(&Check) -> bool) -> Option<Arc<Check>> {
        let history = lock(&self.shared.history);
        let check = history
            .newest_first()
            // Checks that wait for a result overtake each other.
            .filter(|check| check.time_ns >= since_ns)
            .find(|check| check.is_of(pid) && wanted(check))
            .cloned();
        drop(history);
        check.map(|check| self.shared.attributed(check))
    }

    /// Waits until everything the kernel has produced by now was read. `false`: not within `patience`.
    pub async fn caught_up(&self, patience: Duration) -> bool {
        // The ring is read in order: once as many were read as were produced and not lost by now, so were
        // all those of syscalls that have returned by now.
        let Counters { produced, lost, .. } = self.counters();
        let mut batches = self.shared.batches.subscribe();
        let all_read = async {
            while self.shared.seen.load(Ordering::Acquire) < produced.saturating_sub(lost) {
                if batches.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::time::timeout(patience, all_read).await.is_ok()
    }

    fn counters(&self) -> Counters {
        #[cfg(feature = "observer")]
        if let Some(reader) = &self.reader {
            return reader.counters();
        }
        Counters::default()
    }
}

impl Shared {
    /// Keeps a check and tells the subscribers.
    fn record(&self, make: impl FnOnce(u64) -> Option<Check>) -> Option<Arc<Check>> {
        let check = lock(&self.history).push(make)?;
        self.count(&check);
        // An error means that nobody listens.
        let _ = self.subscribers.send(check.clone());
        Some(check)
    }

    /// Records that a mount which passed all of its checks was refused as too revealing.
    fn refuse(&self, passed: &Check, is_pods: bool) -> Option<Arc<Check>> {
        let fs_type: Box<str> = passed.new_fs_type()?.into();
        let mut covering = covering_mounts(passed.pid, &fs_type);
        if covering == Covering::Gone
            && let Some(parent) = passed.ppid
        {
            covering = covering_mounts(parent, &fs_type);
        }
        let mut refused = passed.clone();
        refused.verdict = Verdict::Refused;
        refused.reason = Some(Reason::TooRevealing { fs_type, covering }.for_pod(is_pods));
        self.record(move |seq| Some(Check { seq, ..refused }))
    }

    fn count(&self, check: &Check) {
        let Some(pod) = &check.pod else { return };
        let mut pods = lock(&self.pods);
        if pods.len() >= PODS_COUNTED && !pods.contains_key(&pod.id) {
            pods.retain(|id, _| self.attribution.knows(id));
        }
        let counts = pods.entry(pod.id.clone()).or_default();
        match check.verdict {
            Verdict::Allowed => counts.allowed += 1,
            // A check the syscall gets along without is no denial an operator should look at.
            Verdict::Denied if !check.reason.as_ref().is_some_and(Reason::is_decisive) => {}
            Verdict::Denied | Verdict::Refused => counts.denied += 1,
        }
    }

    /// The check with its pod, where that has become known since: a pod's first checks are made before the
    /// daemon has heard of its namespaces.
    fn attributed(&self, check: Arc<Check>) -> Arc<Check> {
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
    fn degrade(&self, step: Degradation) {
        step.log();
        lock(&self.degradations).push(step);
    }
}

/// The check of a process that the caller knows to be a pod's, whatever attribution knew of it.
fn vouched(check: &Arc<Check>) -> Arc<Check> {
    match &check.reason {
        Some(reason @ Reason::NotAPodProcess(_)) => {
            Arc::new(Check { reason: Some(reason.kernels().clone()), ..Check::clone(check) })
        }
        _ => check.clone(),
    }
}

/// A poisoned lock guards data that each writer leaves whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
