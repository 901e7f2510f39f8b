//! What the console knows of the node: the newest snapshot with the deltas since.
//!
//! ```text
//!            snapshot                     delta
//!  Empty ───────────────▶ Filled ───────────────────▶ Filled
//!                           │ ▲
//!                    lagged │ │ snapshot (checks already held are kept, the gap is counted)
//!                           ▼ │
//!                         Filled, missed += n
//! ```
//!
//! Nothing here draws, and nothing here talks to the daemon: views read it, the feed writes it.

pub mod clean;
pub mod facts;
pub mod filter;
pub mod log;
pub mod sort;

use std::collections::{BTreeMap, VecDeque};

use sandboxd_api::console::{
    Access, Check, Container, Delta, Event, Node, Observer, Pod, Snapshot, WatchResponse, delta,
    watch_response,
};

/// Checks kept here, newest last; older ones stay with the daemon.
pub const CHECK_HISTORY: usize = 10_000;
/// Events kept here, newest last.
pub const EVENT_HISTORY: usize = 2_000;

#[derive(Debug, Default)]
pub struct Model {
    /// What the operator calls the node.
    pub label: String,
    pub node: Node,
    pub observer: Observer,
    pub pods: BTreeMap<String, Pod>,
    pub checks: VecDeque<Check>,
    pub containers: BTreeMap<String, Container>,
    pub events: VecDeque<Event>,
    /// What the daemon lets this console do.
    pub access: Access,
    /// Messages this console was too slow for, over its life.
    pub missed: u64,
    /// Whether a snapshot ever arrived.
    pub filled: bool,
    /// When the newest message was made, by the daemon's clock; 0 before the first.
    pub time_ns: i64,
    /// Grows whenever pods or the node changed, so that what is derived from them is made anew.
    pub revision: u64,
    /// Grows whenever a pod came or went.
    pub membership: u64,
    /// Grows whenever the ownership tree may look different; counts of checks leave it as it is.
    pub shape: u64,
}

impl Model {
    pub fn apply(&mut self, message: WatchResponse) {
        match message.message {
            Some(watch_response::Message::Snapshot(snapshot)) => self.replace(snapshot),
            Some(watch_response::Message::Delta(delta)) => self.change(delta),
            None => {}
        }
    }

    fn replace(&mut self, mut snapshot: Snapshot) {
        clean::snapshot(&mut snapshot);
        self.revision += 1;
        self.membership += 1;
        self.shape += 1;
        self.filled = true;
        self.time_ns = snapshot.time_ns;
        let node = snapshot.node.unwrap_or_default();
        // Sequence numbers begin anew with each daemon.
        if node.started_at_ns != self.node.started_at_ns {
            self.checks.clear();
            self.events.clear();
        }
        self.node = node;
        self.observer = snapshot.observer.unwrap_or_default();
        self.pods = snapshot.pods.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
        for check in snapshot.recent_checks {
            self.push_check(check);
        }
        self.containers = snapshot.containers.into_iter().map(|one| (one.id.clone(), one)).collect();
        for event in snapshot.recent_events {
            self.push_event(event);
        }
        self.access = snapshot.access.unwrap_or_default();
    }

    fn change(&mut self, mut delta: Delta) {
        clean::delta(&mut delta);
        self.time_ns = delta.time_ns;
        match delta.change {
            Some(delta::Change::Pod(pod)) => {
                match self.pods.get(&pod.id) {
                    None => {
                        self.membership += 1;
                        self.shape += 1;
                    }
                    Some(before) => self.shape += u64::from(!same_shape(before, &pod)),
                }
                self.pods.insert(pod.id.clone(), pod);
                self.revision += 1;
            }
            Some(delta::Change::PodRemoved(id)) => {
                self.pods.remove(&id);
                self.revision += 1;
                self.membership += 1;
                self.shape += 1;
            }
            Some(delta::Change::Check(check)) => self.push_check(check),
            Some(delta::Change::Observer(observer)) => self.observer = observer,
            Some(delta::Change::Node(node)) => {
                self.node = node;
                self.revision += 1;
                self.shape += 1;
            }
            Some(delta::Change::Lagged(lagged)) => self.missed += lagged.messages,
            Some(delta::Change::Container(container)) => {
                self.containers.insert(container.id.clone(), container);
                self.revision += 1;
            }
            Some(delta::Change::ContainerRemoved(id)) => {
                self.containers.remove(&id);
                self.revision += 1;
            }
            Some(delta::Change::Event(event)) => self.push_event(event),
            None => {}
        }
    }

    /// Keeps `check` unless it is here already: a fresh snapshot repeats the newest ones.
    fn push_check(&mut self, check: Check) {
        if self.checks.back().is_some_and(|last| check.seq <= last.seq) {
            return;
        }
        if self.checks.len() == CHECK_HISTORY {
            self.checks.pop_front();
        }
        self.checks.push_back(check);
    }

    fn push_event(&mut self, event: Event) {
        if self.events.back().is_some_and(|last| event.seq <= last.seq) {
            return;
        }
        if self.events.len() == EVENT_HISTORY {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }

    /// The kept check with this sequence number.
    pub fn check(&self, seq: u64) -> Option<&Check> {
        let index = self.checks.binary_search_by_key(&seq, |check| check.seq).ok()?;
        self.checks.get(index)
    }

    pub fn pod(&self, id: Option<&str>) -> Option<&Pod> {
        self.pods.get(id?)
    }

    /// The newest kept check of the pod that the kernel did not allow.
    pub fn last_denied(&self, pod_id: &str) -> Option<&Check> {
        self.checks.iter().rev().find(|check| check.pod_id == pod_id && facts::is_denied(check))
    }

    /// The state as one snapshot, as the daemon would send it.
    pub fn snapshot(&self, pods: Vec<Pod>) -> Snapshot {
        Snapshot {
            node: Some(self.node.clone()),
            observer: Some(self.observer.clone()),
            pods,
            recent_checks: self.checks.iter().cloned().collect(),
            time_ns: self.time_ns,
            containers: self.containers.values().cloned().collect(),
            recent_events: self.events.iter().cloned().collect(),
            access: Some(self.access.clone()),
        }
    }
}

/// Whether the tree of a pod looks the same.
fn same_shape(a: &Pod, b: &Pod) -> bool {
    a.state == b.state
        && a.namespaces == b.namespaces
        && a.uid_map == b.uid_map
        && a.processes == b.processes
        && a.ips == b.ips
        && (&a.name, &a.namespace) == (&b.name, &b.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandboxd_api::console::Lagged;

    fn check(seq: u64) -> Check {
        Check { seq, ..Check::default() }
    }

    fn snapshot(started_at_ns: i64, checks: &[u64]) -> WatchResponse {
        WatchResponse {
            message: Some(watch_response::Message::Snapshot(Snapshot {
                node: Some(Node { started_at_ns, ..Node::default() }),
                recent_checks: checks.iter().copied().map(check).collect(),
                ..Snapshot::default()
            })),
        }
    }

    fn delta(change: delta::Change) -> WatchResponse {
        WatchResponse {
            message: Some(watch_response::Message::Delta(Delta { time_ns: 1, change: Some(change) })),
        }
    }

    fn seqs(model: &Model) -> Vec<u64> {
        model.checks.iter().map(|check| check.seq).collect()
    }

    #[test]
    fn a_fresh_snapshot_keeps_the_checks_already_held() {
        let mut model = Model::default();
        model.apply(snapshot(7, &[1, 2, 3]));
        model.apply(delta(delta::Change::Lagged(Lagged { messages: 4 })));
        model.apply(snapshot(7, &[3, 8]));
        assert_eq!(seqs(&model), [1, 2, 3, 8]);
        assert_eq!(model.missed, 4);
        assert!(model.check(8).is_some() && model.check(4).is_none());
    }

    #[test]
    fn a_new_daemon_counts_its_checks_anew() {
        let mut model = Model::default();
        model.apply(snapshot(7, &[500]));
        model.apply(snapshot(9, &[1, 2]));
        assert_eq!(seqs(&model), [1, 2]);
    }

    #[test]
    fn history_is_bounded() {
        let mut model = Model::default();
        for seq in 1..=CHECK_HISTORY as u64 + 5 {
            model.apply(delta(delta::Change::Check(check(seq))));
        }
        assert_eq!(model.checks.len(), CHECK_HISTORY);
        assert_eq!(model.checks.front().unwrap().seq, 6);
    }

    #[test]
    fn pods_come_change_and_go() {
        let mut model = Model::default();
        let pod = |name: &str| Pod { id: "a".into(), name: name.into(), ..Pod::default() };
        model.apply(delta(delta::Change::Pod(pod("one"))));
        model.apply(delta(delta::Change::Pod(pod("two\u{1b}[2J"))));
        assert_eq!(model.pods["a"].name, "two?[2J");
        // Counts change no tree.
        let (shape, revision, mut counted) = (model.shape, model.revision, model.pods["a"].clone());
        counted.checks.get_or_insert_default().denied = 7;
        model.apply(delta(delta::Change::Pod(counted)));
        assert_eq!((model.shape, model.revision), (shape, revision + 1));
        model.apply(delta(delta::Change::PodRemoved("a".into())));
        assert!(model.pods.is_empty());
    }
}
