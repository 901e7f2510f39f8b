//! What was seen already: a change may come twice, in a snapshot and as a delta, and a pod's message comes with
//! every count of its checks.

use std::collections::{HashMap, HashSet, VecDeque};

use sandboxd_api::console::{Check, Container, Event, Pod, Snapshot};

use super::line::{ContainerLine, Gap, Line, PodLine};
use crate::pod::now_ns;

/// Numbers kept to tell what comes twice: more than a snapshot holds.
const NUMBERS: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The start of the daemon that the numbers are of; `None` before the first snapshot.
    daemon: Option<i64>,
    checks: Numbers,
    events: Numbers,
    pods: HashMap<String, PodLine>,
    containers: HashMap<String, ContainerLine>,
    lost: bool,
}

/// The newest numbers.
#[derive(Debug, Default)]
struct Numbers {
    set: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Numbers {
    /// Whether it is new.
    fn insert(&mut self, number: u64) -> bool {
        if !self.set.insert(number) {
            return false;
        }
        self.order.push_back(number);
        if self.order.len() > NUMBERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
        true
    }
}

impl Seen {
    pub fn check(&mut self, check: Check) -> Option<Line> {
        self.checks.insert(check.seq).then_some(Line::Check(check))
    }

    pub fn event(&mut self, event: Event) -> Option<Line> {
        self.events.insert(event.seq).then_some(Line::Event(event))
    }

    pub fn pod(&mut self, at: i64, pod: &Pod) -> Option<Line> {
        let own = |kind: &str| {
            let namespace = pod.namespaces.iter().find(|ns| ns.kind == kind && !ns.host);
            namespace.map_or(0, |ns| ns.inode)
        };
        let line = PodLine {
            time_ns: 0,
            pod_id: pod.id.clone(),
            pod_name: format!("{}/{}", pod.namespace, pod.name),
            state: pod.state().as_str_name().to_owned(),
            ips: pod.ips.clone(),
            error: pod.error.clone(),
            handler: pod.handler.clone(),
            userns: own("user"),
            netns: own("net"),
        };
        if self.pods.get(&pod.id) == Some(&line) {
            return None;
        }
        self.pods.insert(pod.id.clone(), line.clone());
        Some(Line::Pod(PodLine { time_ns: at, ..line }))
    }

    pub fn pod_removed(&mut self, at: i64, id: &str) -> Option<Line> {
        let line = self.pods.remove(id)?;
        Some(Line::Pod(PodLine { time_ns: at, state: "REMOVED".to_owned(), ..line }))
    }

    pub fn container(&mut self, at: i64, container: &Container) -> Option<Line> {
        let pod_name = self.pods.get(&container.pod_id).map(|pod| pod.pod_name.clone()).unwrap_or_default();
        let line = ContainerLine {
            time_ns: 0,
            container_id: container.id.clone(),
            container: container.name.clone(),
            pod_id: container.pod_id.clone(),
            pod_name,
            state: container.state().as_str_name().to_owned(),
            image: container.image.clone(),
            pid: container.pid,
            exit_code: container.exit_code,
            reason: container.reason.clone(),
        };
        if self.containers.get(&container.id) == Some(&line) {
            return None;
        }
        self.containers.insert(container.id.clone(), line.clone());
        Some(Line::Container(ContainerLine { time_ns: at, ..line }))
    }

    pub fn container_removed(&mut self, at: i64, id: &str) -> Option<Line> {
        let line = self.containers.remove(id)?;
        Some(Line::Container(ContainerLine { time_ns: at, state: "REMOVED".to_owned(), ..line }))
    }

    /// This client was too slow.
    pub fn lagged(&mut self, at: i64, messages: u64) -> Option<Line> {
        let reason = "this client was too slow for all of them".to_owned();
        Some(Line::Gap(Gap { time_ns: at, messages, reason }))
    }

    /// The connection is lost: a gap begins, once.
    pub fn lost(&mut self, why: &str) -> Option<Line> {
        if std::mem::replace(&mut self.lost, true) {
            return None;
        }
        let reason = format!("the connection to the daemon was lost: {why}");
        Some(Line::Gap(Gap { time_ns: now_ns(), messages: 0, reason }))
    }

    /// The lines a snapshot is good for: none for the first, afterwards what is new in it.
    pub fn snapshot(&mut self, snapshot: Snapshot) -> Vec<Line> {
        let daemon = snapshot.node.as_ref().map(|node| node.started_at_ns).unwrap_or_default();
        let first = self.daemon.is_none();
        // A new daemon counts from one again.
        if self.daemon.replace(daemon) != Some(daemon) {
            self.checks = Numbers::default();
            self.events = Numbers::default();
        }
        self.lost = false;
        let at = if snapshot.time_ns == 0 { now_ns() } else { snapshot.time_ns };
        let mut lines: Vec<Line> = Vec::new();
        let pods: HashSet<_> = snapshot.pods.iter().map(|pod| pod.id.clone()).collect();
        let containers: HashSet<_> = snapshot.containers.iter().map(|it| it.id.clone()).collect();
        let gone = |known: Vec<&String>, here: &HashSet<String>| -> Vec<String> {
            known.into_iter().filter(|id| !here.contains(*id)).cloned().collect()
        };
        for id in gone(self.containers.keys().collect(), &containers) {
            lines.extend(self.container_removed(at, &id));
        }
        for id in gone(self.pods.keys().collect(), &pods) {
            lines.extend(self.pod_removed(at, &id));
        }
        lines.extend(snapshot.pods.iter().filter_map(|pod| self.pod(at, pod)));
        lines.extend(snapshot.containers.iter().filter_map(|it| self.container(at, it)));
        lines.extend(snapshot.recent_checks.into_iter().filter_map(|check| self.check(check)));
        lines.extend(snapshot.recent_events.into_iter().filter_map(|event| self.event(event)));
        if first {
            return Vec::new();
        }
        lines.sort_by_key(Line::time_ns);
        lines
    }
}

#[cfg(test)]
mod tests {
    use sandboxd_api::console::Node;

    use super::*;

    fn snapshot(daemon: i64, checks: &[u64], pods: &[&str]) -> Snapshot {
        let node = Node { started_at_ns: daemon, ..Node::default() };
        Snapshot {
            node: Some(node),
            recent_checks: checks.iter().map(|seq| check(*seq)).collect(),
            pods: pods.iter().map(|id| pod(id)).collect(),
            ..Snapshot::default()
        }
    }

    fn check(seq: u64) -> Check {
        Check { seq, time_ns: i64::try_from(seq).unwrap(), ..Check::default() }
    }

    fn pod(id: &str) -> Pod {
        Pod { id: id.into(), name: id.into(), ..Pod::default() }
    }

    fn seqs(lines: &[Line]) -> Vec<u64> {
        lines
            .iter()
            .filter_map(|line| if let Line::Check(check) = line { Some(check.seq) } else { None })
            .collect()
    }

    #[test]
    fn a_later_snapshot_closes_the_gap_and_repeats_nothing() {
        let mut seen = Seen::default();
        assert_eq!(seen.snapshot(snapshot(1, &[1, 2], &["a"])), []);
        assert_eq!(seen.check(check(2)), None, "it was in the snapshot");
        assert!(seen.check(check(4)).is_some() && seen.check(check(3)).is_some(), "in whatever order");
        let lines = seen.snapshot(snapshot(1, &[2, 3, 4, 5, 6], &["b"]));
        assert_eq!(seqs(&lines), [5, 6]);
        let pods: Vec<_> = lines
            .iter()
            .filter_map(
                |l| if let Line::Pod(p) = l { Some((p.pod_id.as_str(), p.state.as_str())) } else { None },
            )
            .collect();
        assert_eq!(pods, [("a", "REMOVED"), ("b", "STATE_UNSPECIFIED")]);
    }

    #[test]
    fn a_new_daemon_counts_from_one_again() {
        let mut seen = Seen::default();
        seen.snapshot(snapshot(1, &[1, 2], &[]));
        assert_eq!(seqs(&seen.snapshot(snapshot(2, &[1], &[]))), [1]);
    }

    #[test]
    fn a_pod_is_a_line_only_when_something_to_be_seen_changed() {
        let mut seen = Seen::default();
        assert!(seen.pod(1, &pod("a")).is_some());
        let counted = Pod { hostname: "x".into(), ..pod("a") };
        assert_eq!(seen.pod(2, &counted), None);
        let failed = Pod { error: "why".into(), ..pod("a") };
        assert!(seen.pod(3, &failed).is_some());
        assert!(seen.pod_removed(4, "a").is_some() && seen.pod_removed(5, "a").is_none());
    }

    #[test]
    fn a_lost_connection_is_one_gap() {
        let mut seen = Seen::default();
        seen.snapshot(snapshot(1, &[], &[]));
        assert!(seen.lost("gone").is_some());
        assert_eq!(seen.lost("still gone"), None);
        seen.snapshot(snapshot(1, &[], &[]));
        assert!(seen.lost("again").is_some());
    }
}
