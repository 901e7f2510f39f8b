//! What happened in the lives of the pods, the containers and the daemon: a bounded ring that consoles read and
//! follow.
//!
//! ```text
//!  pod store ─────────┐
//!  container store ───┼─▶ Follower ─▶ words ─▶ Events (the newest 4096) ─▶ Watch, ListEvents
//!  network readiness ─┘                           ▲
//!  other rooms ───────────── tell ────────────────┘
//! ```

mod follow;
mod words;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sandboxd_api::console as api;
use tokio::sync::broadcast;

use crate::container::model::Container;
use crate::pod::model::Pod;
use crate::pod::now_ns;

pub use follow::Follow;

/// How many are kept: a node's busy hour, some two megabytes at the most.
const KEPT: usize = 4096;
/// Events a watching client may lag behind before it misses some.
const BEHIND: usize = 1024;
/// A message is one line, and no longer than this many bytes.
const LINE: usize = 480;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    PodCreated,
    PodReady,
    PodFailed,
    PodStopped,
    PodRemoved,
    ContainerCreated,
    ContainerStarted,
    ContainerExited,
    ContainerOomKilled,
    ContainerRemoved,
    DaemonStarted,
    Adopted,
    NetworkReady,
    NetworkLost,
    Degraded,
    NamespaceLeaked,
}

impl Kind {
    /// Stable, as the protocol has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PodCreated => "pod-created",
            Self::PodReady => "pod-ready",
            Self::PodFailed => "pod-failed",
            Self::PodStopped => "pod-stopped",
            Self::PodRemoved => "pod-removed",
            Self::ContainerCreated => "container-created",
            Self::ContainerStarted => "container-started",
            Self::ContainerExited => "container-exited",
            Self::ContainerOomKilled => "container-oom-killed",
            Self::ContainerRemoved => "container-removed",
            Self::DaemonStarted => "daemon-started",
            Self::Adopted => "adopted",
            Self::NetworkReady => "network-ready",
            Self::NetworkLost => "network-lost",
            Self::Degraded => "degraded",
            Self::NamespaceLeaked => "namespace-leaked",
        }
    }
}

/// Whether somebody should look at it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Severity {
    #[default]
    Normal,
    Warning,
}

/// Something that happened, not yet an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    pub kind: Kind,
    pub severity: Severity,
    pub pod: Option<Named>,
    pub container: Option<Named>,
    /// One line.
    pub message: String,
}

/// What it happened to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub id: String,
    /// Of a pod "namespace/name".
    pub name: String,
}

impl From<&Pod> for Named {
    fn from(pod: &Pod) -> Self {
        let metadata = &pod.spec.metadata;
        Self { id: pod.id.to_string(), name: format!("{}/{}", metadata.namespace, metadata.name) }
    }
}

impl From<&Container> for Named {
    fn from(container: &Container) -> Self {
        Self { id: container.id.to_string(), name: container.spec.metadata.name.clone() }
    }
}

/// The events of this daemon's life.
#[derive(Debug)]
pub struct Events {
    ring: Mutex<Ring>,
    sender: broadcast::Sender<Arc<api::Event>>,
}

#[derive(Debug, Default)]
struct Ring {
    /// Oldest first.
    kept: VecDeque<Arc<api::Event>>,
    /// Of the newest.
    seq: u64,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct EventFilter {
    /// A pod's whole id.
    pub pod: Option<String>,
    pub after_seq: u64,
    /// The newest so many.
    pub limit: usize,
}

impl Default for Events {
    fn default() -> Self {
        Self { ring: Mutex::default(), sender: broadcast::Sender::new(BEHIND) }
    }
}

impl Events {
    /// Takes an event in.
    pub fn tell(&self, happened: Happened) {
        let Happened { kind, severity, pod, container, message } = happened;
        let (pod_id, pod_name) = pod.map(|pod| (pod.id, pod.name)).unwrap_or_default();
        let (container_id, container) = container.map(|it| (it.id, it.name)).unwrap_or_default();
        let severity = match severity {
            Severity::Normal => api::event::Severity::Normal,
            Severity::Warning => api::event::Severity::Warning,
        };
        let mut ring = self.ring();
        ring.seq += 1;
        let event = Arc::new(api::Event {
            seq: ring.seq,
            time_ns: now_ns(),
            severity: severity.into(),
            kind: kind.name().to_owned(),
            pod_id,
            pod_name,
            container_id,
            container,
            message: words::line(&message, LINE),
        });
        if ring.kept.len() == KEPT {
            ring.kept.pop_front();
        }
        ring.kept.push_back(Arc::clone(&event));
        // Under the lock: no subscriber sees a newer one first. Nobody listening is fine.
        let _ = self.sender.send(event);
    }

    /// The newest so many, oldest first, and those after them, with no gap between the two.
    pub(super) fn recent_and_subscribe(
        &self,
        recent: usize,
    ) -> (Vec<api::Event>, broadcast::Receiver<Arc<api::Event>>) {
        let ring = self.ring();
        let skipped = ring.kept.len().saturating_sub(recent);
        (ring.kept.iter().skip(skipped).map(|event| (**event).clone()).collect(), self.sender.subscribe())
    }

    /// Those that match, oldest first, and how many this daemon has forgotten.
    #[must_use]
    pub fn list(&self, filter: &EventFilter) -> (Vec<api::Event>, u64) {
        let ring = self.ring();
        let matching = |event: &&Arc<api::Event>| {
            event.seq > filter.after_seq && filter.pod.as_ref().is_none_or(|pod| event.pod_id == *pod)
        };
        let newest = ring.kept.iter().rev().filter(matching).take(filter.limit);
        let mut found: Vec<_> = newest.map(|event| (**event).clone()).collect();
        found.reverse();
        (found, ring.seq - ring.kept.len() as u64)
    }

    // Only whole events are put in under the lock.
    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(message: &str, pod: &str) -> Happened {
        Happened {
            kind: Kind::PodReady,
            severity: Severity::Normal,
            pod: Some(Named { id: pod.into(), name: format!("default/{pod}") }),
            container: None,
            message: message.into(),
        }
    }

    #[test]
    fn the_ring_is_bounded_and_says_what_it_forgot() {
        let events = Events::default();
        for n in 0..KEPT + 3 {
            events.tell(happened(&n.to_string(), if n % 2 == 0 { "even" } else { "odd" }));
        }
        let all = EventFilter { limit: usize::MAX, ..EventFilter::default() };
        let (kept, forgotten) = events.list(&all);
        assert_eq!((kept.len(), forgotten), (KEPT, 3));
        assert_eq!((kept[0].seq, kept[0].message.as_str()), (4, "3"));
        let odd = EventFilter { pod: Some("odd".into()), limit: 2, ..EventFilter::default() };
        let odd: Vec<_> = events.list(&odd).0.into_iter().map(|event| event.seq).collect();
        assert_eq!(odd, [KEPT as u64, KEPT as u64 + 2], "the newest two, oldest first");
        let after = EventFilter { after_seq: KEPT as u64 + 2, ..all };
        assert_eq!(events.list(&after).0.len(), 1);
    }

    #[test]
    fn followers_go_on_where_the_list_ends() {
        let events = Events::default();
        events.tell(happened("first", "a"));
        events.tell(happened("two\nlines", "a"));
        let (recent, mut news) = events.recent_and_subscribe(1);
        assert_eq!(recent.len(), 1);
        assert_eq!(recent[0].message, "two lines");
        events.tell(happened("third", "a"));
        assert_eq!(news.try_recv().unwrap().seq, 3);
        assert!(news.try_recv().is_err());
    }
}
