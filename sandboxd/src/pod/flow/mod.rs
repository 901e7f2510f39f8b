//! The sandbox flow: the order in which a pod comes to be, and back.
//!
//! ```text
//!             Reserved      name and id taken, journal begun
//!                │  files, CNI lease (its fsync overlaps the next step)
//!            Configured ─────────────────────┐ network-first handlers only:
//!                │  the runtime makes ALL    │ netns and CNI before the userns,
//!                │  namespaces, user first   ▼ the order of containerd issue 6908
//!                │                      EarlyNetwork
//!             Created  ◀─────────────────────┘ the runtime joins that netns: a pod with a
//!                │  NS_GET_USERNS: the netns     userns fails here, on mounting sysfs
//!                │  must be the pod's own
//!                │  lo up, CNI ADD; meanwhile the cgroup is filled
//!            Networked
//!                │  the cgroup namespace (its root is the cgroup of that moment), exec of the pause
//!             Started ──▶ Ready   published
//! ```
//!
//! Each state consumes the one before it and knows how to undo its own side effects; undoing goes back
//! through all of them, last first. Before each side effect the journal says which step comes, so that a
//! daemon killed in between finds out at its next start what to undo (`super::recover`).

mod configured;
mod created;
mod early;
mod effects;
mod networked;
mod ready;
mod reserved;
mod rooms;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(super) use effects::Effects;
pub(super) use ready::Ready;
pub(super) use reserved::Reserved;
pub use rooms::{PodDefaults, Rooms};

use super::error::PodError;
use super::model::{FlowKind, NsKind, Pod, PodState, Step, StepName};
use super::store::{Reservation, Store};
use crate::runtime::Runtime;

/// The namespaces that are pinned: what CNI works on, and who owns it. Both outlive the infra container, so
/// that an address can be given back after it. Everything else of the pod goes with its last process.
pub(super) const PINNED: [NsKind; 2] = [NsKind::User, NsKind::Net];

/// What every state carries on to the next.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) effects: Arc<dyn Effects>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) store: Arc<Store>,
    pub(super) pod: Pod,
    pub(super) name: Reservation,
    /// An undo failed whose only trace is the journal (the process, the cgroup): the entry stays, for the
    /// next start to try again.
    pub(super) unfinished: bool,
}

/// A pod that did not come to be. Everything that was made is undone.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) pod: Pod,
    pub(super) error: PodError,
}

/// Runs the whole flow. `cancelled` is asked between the steps: a caller who has gone has the pod undone.
pub(super) async fn make(base: Base, cancelled: impl Fn() -> bool) -> Result<Ready, Box<Failure>> {
    let flow = base.pod.flow;
    let reserved = Reserved::begin(base).await?;
    let configured = reserved.configure().await?;
    let created = match flow {
        FlowKind::RuntimeFirst => configured.create().await?,
        FlowKind::NetworkFirst => configured.network_first().await?.create().await?,
    };
    if cancelled() {
        return Err(created.abandon().await);
    }
    let networked = created.network().await?;
    if cancelled() {
        return Err(networked.abandon().await);
    }
    networked.start().await
}

impl Base {
    fn dir(&self) -> PathBuf {
        self.effects.dir(&self.pod.id)
    }

    fn pin_path(&self, kind: NsKind) -> PathBuf {
        pin_path(&self.dir(), kind)
    }

    /// Publishes the pod as it is now.
    fn publish(&self) {
        self.store.publish(self.pod.clone());
    }

    /// Notes a step that was made, and shows it.
    fn done(&mut self, timer: Timer) {
        self.pod.steps.push(timer.step(None));
        self.publish();
    }

    /// Notes a step that failed.
    fn failed(&mut self, timer: Timer, error: &PodError) {
        self.pod.steps.push(timer.step(Some(chain(error))));
    }

    fn into_failure(mut self, error: PodError) -> Box<Failure> {
        self.pod.state = PodState::Failed;
        self.pod.error = Some(chain(&error));
        self.pod.shim_pid = None;
        self.pod.infra_pid = None;
        self.pod.netns_path = None;
        self.publish();
        drop(self.name);
        Box::new(Failure { pod: self.pod, error })
    }
}

/// Where a pod's namespace is pinned.
pub(super) fn pin_path(dir: &std::path::Path, kind: NsKind) -> PathBuf {
    dir.join("ns").join(kind.name())
}

/// Measures one step.
#[derive(Debug, Clone, Copy)]
struct Timer {
    name: StepName,
    started_at_ns: i64,
    started: Instant,
    cni: Duration,
}

impl Timer {
    fn start(name: StepName) -> Self {
        Self { name, started_at_ns: now_ns(), started: Instant::now(), cni: Duration::ZERO }
    }

    fn step(&self, error: Option<String>) -> Step {
        Step {
            name: self.name,
            started_at_ns: self.started_at_ns,
            duration: self.started.elapsed(),
            cni: self.cni,
            error,
        }
    }
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn now_ns() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// An error and all its sources, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}

/// An undo that failed is said and passed over: the next one is still made, and what was not undone stays
/// in the journal or in its lease, to be tried again.
fn undone<E: std::error::Error>(pod: &Pod, what: &str, result: Result<(), E>) -> bool {
    match result {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(pod = %pod.id, error = chain(&error), "undo: {what} failed");
            false
        }
    }
}
