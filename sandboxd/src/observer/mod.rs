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
//! request), a check waits for its syscall's result and carries it, and a call that failed without a denied check is
//! recorded when it ends, with its reason ([`failure`]). Elsewhere a denied check is near certain to be what made
//! its syscall fail (those known not to are called incidental), and whoever saw an EPERM without one asks
//! [`Observer::explain_failure`], which then looks at the mount table.

#![cfg_attr(
    not(feature = "observer"),
    allow(dead_code, reason = "without the program nothing is read, and what sorts it is not called")
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sandboxd_ebpf::Counters;
use tokio::sync::{broadcast, watch};

pub mod attribution;
#[cfg(feature = "observer")]
mod btf;
pub mod check;
pub mod covering;
pub mod explain;
pub mod failure;
mod follow;
#[cfg(feature = "observer")]
mod held;
mod history;
pub mod inventory;
#[cfg(feature = "observer")]
mod loader;
mod lsm;
pub mod names;
#[cfg(feature = "observer")]
mod opened;
pub mod ownership;
#[cfg(feature = "observer")]
mod reader;
pub mod reason;
mod results;
#[cfg(feature = "observer")]
mod sampling;
mod shared;
#[cfg(feature = "observer")]
mod sieve;
pub mod status;
mod tally;
#[cfg(feature = "observer")]
mod usage;
mod wire;

pub use attribution::{Attribution, ContainerKeys, NetnsMade, PodKeys, ProcessKey};
pub use check::{Check, Verdict};
pub use covering::{Covering, covering_mounts};
pub use explain::Explanation;
pub use follow::follow_containers;
pub use history::{Bounds, CheckFilter};
pub use reason::Reason;
pub use status::{Degradation, ResultsThrough, Rung, State, Status, SyscallResults};
pub use tally::{AllCapabilities, CapabilityCount, CapabilityCounts, PodCounts};

use crate::container::model::ContainerId;
use crate::pod::model::{NsInode, PodId};
use crate::pod::now_ns;
use shared::{Shared, lock};

/// How the observer is to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserverSettings {
    pub enabled: bool,
    /// What is kept for history and explanation; a check takes about 600 bytes.
    pub history: Bounds,
    /// Ways to see the checks, tried in this order.
    pub rungs: Vec<Rung>,
    /// Count all checks of the containers, not only those in syscalls of mounting and of namespaces.
    pub all_capabilities: bool,
    pub results: SyscallResults,
}

impl Default for ObserverSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            history: Bounds::default(),
            rungs: Rung::LADDER.to_vec(),
            all_capabilities: false,
            results: SyscallResults::Auto,
        }
    }
}

/// A handle; clones share one observer. The program is detached when the last one goes.
#[derive(Debug, Clone)]
pub struct Observer {
    shared: Arc<Shared>,
    #[cfg(feature = "observer")]
    reader: Option<Arc<reader::Reader>>,
}

impl Observer {
    /// Loads the program and starts reading. Never fails: a daemon that sees nothing still serves, and
    /// [`Observer::status`] says what is not seen and why.
    #[must_use]
    pub fn start(settings: &ObserverSettings, attribution: Arc<Attribution>) -> Self {
        let shared = move |state, results, degradations: Vec<Degradation>| {
            degradations.iter().for_each(Degradation::log);
            Arc::new(Shared::new(settings.history, attribution, state, results, degradations))
        };
        if !settings.enabled {
            return Self::blind(shared(State::Disabled, None, Vec::new()));
        }
        #[cfg(not(feature = "observer"))]
        return Self::blind(shared(State::NotBuiltIn, None, Vec::new()));
        #[cfg(feature = "observer")]
        match loader::attach(&settings.rungs, settings.results, settings.all_capabilities) {
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
        let degradations = self.shared.degradations.borrow().clone();
        // Before the kernel's: whatever was seen by now has been produced.
        let count = |counter: &AtomicU64| counter.load(Ordering::Acquire);
        let (seen, sampled_out) = (count(&self.shared.seen), count(&self.shared.sampled_out));
        let (allowed, denied) = (count(&self.shared.allowed), count(&self.shared.denied));
        let failed = count(&self.shared.failed);
        let kernel = self.counters();
        let (kept, bytes, forgotten) = {
            let mut history = lock(&self.shared.history);
            history.forget_older(now_ns());
            (history.kept(), history.bytes(), history.forgotten())
        };
        Status {
            state,
            results: self.shared.results,
            message: Status::sentence(state, self.shared.results, &degradations),
            kernel,
            seen,
            sampled_out: sampled_out + kernel.held(),
            allowed: allowed + kernel.held_allowed,
            denied: denied + kernel.held_denied,
            failed: failed + kernel.held_failed,
            kept,
            history_bytes: bytes,
            forgotten,
            degradations,
        }
    }

    /// The steps down: those of the start, and each that appears later.
    #[must_use]
    pub fn degradations(&self) -> watch::Receiver<Vec<Degradation>> {
        self.shared.degradations.subscribe()
    }

    /// Checks from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Arc<Check>> {
        self.shared.subscribers.subscribe()
    }

    /// The pods of which checks were only counted since the last time, told at most once a second: their counts
    /// have moved without a check that subscribers hear of.
    #[must_use]
    pub fn sampled(&self) -> watch::Receiver<Arc<Vec<PodId>>> {
        self.shared.sampled.subscribe()
    }

    /// The recorded checks that the filter takes, newest last.
    #[must_use]
    pub fn history(&self, filter: &CheckFilter) -> Vec<Arc<Check>> {
        let newest_first: Vec<_> = {
            let mut history = lock(&self.shared.history);
            history.forget_older(now_ns());
            history.newest_first().cloned().collect()
        };
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
        lock(&self.shared.tally).pod(pod)
    }

    /// How a container asked for capabilities, as far as the recorded syscalls show.
    #[must_use]
    pub fn capabilities(&self, pod: &PodId, container: &ContainerId) -> CapabilityCounts {
        lock(&self.shared.tally).container(pod, container)
    }

    /// Counts all checks made in a container's mount namespace from now on. `false`: not asked for.
    pub fn watch_container(&self, id: &ContainerId, mntns: NsInode) -> bool {
        #[cfg(feature = "observer")]
        if let Some(mut usage) = self.reader.as_ref().and_then(|reader| reader.usage()) {
            return usage.watch(id, mntns);
        }
        let _ = (id, mntns);
        false
    }

    /// The container has ended: its namespace may be another's from now on. What was counted stays.
    pub fn unwatch_container(&self, id: &ContainerId) {
        #[cfg(feature = "observer")]
        if let Some(mut usage) = self.reader.as_ref().and_then(|reader| reader.usage()) {
            usage.unwatch(id);
        }
        let _ = id;
    }

    pub fn forget_container(&self, id: &ContainerId) {
        #[cfg(feature = "observer")]
        if let Some(mut usage) = self.reader.as_ref().and_then(|reader| reader.usage()) {
            usage.forget(id);
        }
        let _ = id;
    }

    /// All checks of a container, whatever the syscall, and since when; `None` where they are not counted.
    #[must_use]
    pub fn all_capabilities(&self, id: &ContainerId) -> Option<AllCapabilities> {
        #[cfg(feature = "observer")]
        if let Some(usage) = self.reader.as_ref().and_then(|reader| reader.usage()) {
            return usage.of(id);
        }
        let _ = id;
        None
    }

    /// As [`Observer::capabilities`], of the processes of a pod that are no container's: "infra", "shim", or "".
    #[must_use]
    pub fn capabilities_of_role(&self, pod: &PodId, role: &str) -> CapabilityCounts {
        lock(&self.shared.tally).role(pod, role)
    }

    /// All checks by verdict and code of the reason (empty for what was allowed), kept one by one or not.
    #[must_use]
    pub fn reasons(&self) -> Vec<(&'static str, &'static str, u64)> {
        lock(&self.shared.tally).reasons()
    }

    /// The pods that checks are attributed to.
    #[must_use]
    pub fn attribution(&self) -> &Attribution {
        &self.shared.attribution
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
        let counters = self.counters();
        let reported = counters.produced.saturating_sub(counters.lost + counters.held());
        let mut batches = self.shared.batches.subscribe();
        let all_read = async {
            while self.shared.read() < reported {
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

/// The check of a process that the caller knows to be a pod's, whatever attribution knew of it.
fn vouched(check: &Arc<Check>) -> Arc<Check> {
    match &check.reason {
        Some(reason @ Reason::NotAPodProcess(_)) => {
            Arc::new(Check { reason: Some(reason.kernels().clone()), ..Check::clone(check) })
        }
        _ => check.clone(),
    }
}
