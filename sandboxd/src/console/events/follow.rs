//! Follows the stores of pods and containers and the network's readiness, and tells what changed.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sandboxd_api::console as api;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::watch;

use super::{Events, Happened, Kind, Named, Severity, words};
use crate::container::ContainerChange;
use crate::container::model::{Container, ContainerId, ContainerState};
use crate::container::store::Store as Containers;
use crate::network::NetworkStatus;
use crate::pod::PodChange;
use crate::pod::model::{Pod, PodId, PodState};
use crate::pod::store::Store as Pods;

/// What is followed.
#[derive(Debug)]
pub struct Follow {
    pub pods: Arc<Pods>,
    pub containers: Arc<Containers>,
    pub network: watch::Receiver<NetworkStatus>,
    /// How the node does less than it could.
    pub degradations: Vec<api::Degradation>,
}

impl Follow {
    /// Events from now on. What is there already was adopted.
    #[must_use]
    pub fn start(self) -> Arc<Events> {
        let events = Arc::new(Events::default());
        let Self { pods, containers, network, degradations } = self;
        let (pod_list, pod_changes) = pods.list_and_subscribe();
        let (container_list, container_changes) = containers.list_and_subscribe();
        let mut tracker = Tracker::default();
        tracker.adopt(&pod_list, &container_list).into_iter().for_each(|happened| events.tell(happened));
        for degradation in degradations {
            events.tell(Happened {
                kind: Kind::Degraded,
                severity: Severity::Warning,
                pod: None,
                container: None,
                message: format!("{}: {}", degradation.name, degradation.message),
            });
        }
        let follower = Follower {
            events: Arc::clone(&events),
            pods,
            containers,
            pod_changes,
            container_changes,
            tracker,
        };
        // Subscribed to before this returns: whoever makes a pod afterwards makes an event.
        tokio::spawn(follower.follow(network));
        events
    }
}

/// What is known to have happened.
#[derive(Debug, Default)]
struct Tracker {
    pods: HashMap<PodId, Arc<Pod>>,
    containers: HashMap<ContainerId, Arc<Container>>,
}

impl Tracker {
    fn adopt(&mut self, pods: &[Arc<Pod>], containers: &[Arc<Container>]) -> Vec<Happened> {
        let mut happened = vec![Happened {
            kind: Kind::DaemonStarted,
            severity: Severity::Normal,
            pod: None,
            container: None,
            message: words::started(pods.len(), containers.len()),
        }];
        for pod in pods {
            let inside = containers.iter().filter(|container| container.pod == pod.id).count();
            happened.push(of_pod(pod, Kind::Adopted, Severity::Normal, words::adopted(pod, inside)));
        }
        self.pods = pods.iter().map(|pod| (pod.id.clone(), Arc::clone(pod))).collect();
        self.containers = containers.iter().map(|it| (it.id.clone(), Arc::clone(it))).collect();
        happened
    }

    fn pod(&mut self, pod: &Arc<Pod>) -> Vec<Happened> {
        use PodState::{Creating, Failed, NotReady, Ready, Stopping};
        let before = self.pods.insert(pod.id.clone(), Arc::clone(pod)).map(|pod| pod.state);
        let mut happened = Vec::new();
        if before.is_none() {
            happened.push(of_pod(pod, Kind::PodCreated, Severity::Normal, words::created(pod)));
        }
        match (before, pod.state) {
            (None | Some(Creating), Ready) => {
                happened.push(of_pod(pod, Kind::PodReady, Severity::Normal, words::ready(pod)));
            }
            (None | Some(Creating), Failed) => {
                happened.push(of_pod(pod, Kind::PodFailed, Severity::Warning, words::failed(pod)));
            }
            (None | Some(Creating | Ready | Stopping), NotReady) => {
                let asked = before == Some(Stopping);
                let severity = if asked { Severity::Normal } else { Severity::Warning };
                happened.push(of_pod(pod, Kind::PodStopped, severity, words::stopped(pod, asked)));
            }
            _ => {}
        }
        happened
    }

    fn pod_removed(&mut self, id: &PodId) -> Vec<Happened> {
        match self.pods.remove(id) {
            // Undone when it failed; what goes now is the memory of it.
            Some(pod) if pod.state == PodState::Failed => Vec::new(),
            Some(pod) => vec![of_pod(&pod, Kind::PodRemoved, Severity::Normal, "removed".to_owned())],
            None => Vec::new(),
        }
    }

    fn container(&mut self, container: &Arc<Container>) -> Vec<Happened> {
        use ContainerState::{Created, Exited, Running, Unknown};
        let before = self
            .containers
            .insert(container.id.clone(), Arc::clone(container))
            .map(|it| (it.state, it.ended.is_some()));
        let of = |kind, severity, message| self.of_container(container, kind, severity, message);
        let mut happened = Vec::new();
        if before.is_none() {
            happened.push(of(Kind::ContainerCreated, Severity::Normal, words::container_created(container)));
        }
        let was_started = matches!(before, Some((Running | Exited | Unknown, _)));
        if !was_started && container.started_at_ns.is_some() {
            happened.push(of(Kind::ContainerStarted, Severity::Normal, words::container_started(container)));
        }
        let Some(ended) = container.ended.as_ref().filter(|_| container.state != Created) else {
            return happened;
        };
        if before.is_some_and(|(_, ended)| ended) {
            return happened;
        }
        if ended.oom_killed {
            happened.push(of(Kind::ContainerOomKilled, Severity::Warning, words::oom_killed(container)));
        }
        let well = ended.exit == crate::runtime::Exit::Code(0) || self.is_ending(&container.pod);
        let severity = if well { Severity::Normal } else { Severity::Warning };
        happened.push(of(Kind::ContainerExited, severity, words::container_exited(container, ended)));
        happened
    }

    fn container_removed(&mut self, id: &ContainerId) -> Vec<Happened> {
        let Some(container) = self.containers.remove(id) else { return Vec::new() };
        let removed = "removed".to_owned();
        vec![self.of_container(&container, Kind::ContainerRemoved, Severity::Normal, removed)]
    }

    /// Whatever differs from these lists.
    fn all(&mut self, pods: &[Arc<Pod>], containers: &[Arc<Container>]) -> Vec<Happened> {
        let here: HashSet<&PodId> = pods.iter().map(|pod| &pod.id).collect();
        let inside: HashSet<&ContainerId> = containers.iter().map(|container| &container.id).collect();
        let lost: Vec<ContainerId> =
            self.containers.keys().filter(|id| !inside.contains(id)).cloned().collect();
        let gone: Vec<PodId> = self.pods.keys().filter(|id| !here.contains(id)).cloned().collect();
        let mut happened: Vec<_> = lost.iter().flat_map(|id| self.container_removed(id)).collect();
        happened.extend(gone.iter().flat_map(|id| self.pod_removed(id)));
        happened.extend(pods.iter().flat_map(|pod| self.pod(pod)));
        happened.extend(containers.iter().flat_map(|container| self.container(container)));
        happened
    }

    /// Somebody is stopping the pod, or it has ended: the ends of its containers are no surprise.
    fn is_ending(&self, pod: &PodId) -> bool {
        self.pods.get(pod).is_none_or(|pod| matches!(pod.state, PodState::Stopping | PodState::NotReady))
    }

    fn of_container(
        &self,
        container: &Container,
        kind: Kind,
        severity: Severity,
        message: String,
    ) -> Happened {
        let unknown = || Named { id: container.pod.to_string(), name: String::new() };
        let pod = self.pods.get(&container.pod).map_or_else(unknown, |pod| Named::from(&**pod));
        Happened { kind, severity, pod: Some(pod), container: Some(container.into()), message }
    }
}

fn of_pod(pod: &Pod, kind: Kind, severity: Severity, message: String) -> Happened {
    Happened { kind, severity, pod: Some(pod.into()), container: None, message }
}

fn of_network(status: &NetworkStatus) -> Happened {
    let (kind, severity) = match status.ready {
        true => (Kind::NetworkReady, Severity::Normal),
        false => (Kind::NetworkLost, Severity::Warning),
    };
    Happened { kind, severity, pod: None, container: None, message: words::network(status) }
}

/// Turns changes into events.
struct Follower {
    events: Arc<Events>,
    pods: Arc<Pods>,
    containers: Arc<Containers>,
    pod_changes: broadcast::Receiver<PodChange>,
    container_changes: broadcast::Receiver<ContainerChange>,
    tracker: Tracker,
}

impl Follower {
    async fn follow(mut self, mut network: watch::Receiver<NetworkStatus>) {
        let mut was_ready = network.borrow_and_update().clone();
        self.tell(vec![of_network(&was_ready)]);
        loop {
            tokio::select! {
                // Pods first: a container's events come after its pod's.
                biased;
                change = self.pod_changes.recv() => match change {
                    Ok(change) => self.pod(change),
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => self.compare(),
                },
                change = self.container_changes.recv() => match change {
                    Ok(change) => self.container(change),
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => self.compare(),
                },
                changed = network.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let now = network.borrow_and_update().clone();
                    // A ready network with another remark is no news.
                    if now.ready != was_ready.ready || (!now.ready && now != was_ready) {
                        self.tell(vec![of_network(&now)]);
                    }
                    was_ready = now;
                }
            }
        }
    }

    fn pod(&mut self, change: PodChange) {
        let happened = match change {
            PodChange::Upsert(pod) => self.tracker.pod(&pod),
            PodChange::Removed(id) => {
                // Its containers went before it, on a channel of their own.
                self.waiting_containers();
                self.tracker.pod_removed(&id)
            }
        };
        self.tell(happened);
    }

    fn waiting_containers(&mut self) {
        loop {
            match self.container_changes.try_recv() {
                Ok(change) => {
                    let happened = self.tracker.container_change(change);
                    self.tell(happened);
                }
                Err(TryRecvError::Lagged(_)) => return self.compare(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn container(&mut self, change: ContainerChange) {
        // Its pod was ready before it was made: told of between the looks at the two channels.
        if let ContainerChange::Upsert(container) = &change
            && self.tracker.pods.get(&container.pod).is_none_or(|pod| pod.state == PodState::Creating)
        {
            self.waiting_pods();
        }
        let happened = self.tracker.container_change(change);
        self.tell(happened);
    }

    fn waiting_pods(&mut self) {
        loop {
            match self.pod_changes.try_recv() {
                Ok(PodChange::Upsert(pod)) => {
                    let happened = self.tracker.pod(&pod);
                    self.tell(happened);
                }
                Ok(PodChange::Removed(id)) => {
                    let happened = self.tracker.pod_removed(&id);
                    self.tell(happened);
                }
                Err(TryRecvError::Lagged(_)) => return self.compare(),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return,
            }
        }
    }

    fn compare(&mut self) {
        tracing::warn!("changes came faster than the console's events were made: comparing with the lists");
        let (pods, pod_changes) = self.pods.list_and_subscribe();
        let (containers, container_changes) = self.containers.list_and_subscribe();
        (self.pod_changes, self.container_changes) = (pod_changes, container_changes);
        let happened = self.tracker.all(&pods, &containers);
        self.tell(happened);
    }

    fn tell(&self, happened: Vec<Happened>) {
        happened.into_iter().for_each(|happened| self.events.tell(happened));
    }
}

impl Tracker {
    fn container_change(&mut self, change: ContainerChange) -> Vec<Happened> {
        match change {
            ContainerChange::Upsert(container) => self.container(&container),
            ContainerChange::Removed(id) => self.container_removed(&id),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::fake;
    use crate::container::model::Ended;
    use crate::pod::model::test_pod;
    use crate::runtime::Exit;

    fn kinds(happened: &[Happened]) -> Vec<&'static str> {
        happened.iter().map(|happened| happened.kind.name()).collect()
    }

    #[test]
    fn a_pods_life_is_told_once() {
        let mut tracker = Tracker::default();
        let pod = test_pod("a");
        let mut tell = |state| {
            let told = tracker.pod(&Arc::new(Pod { state, ..pod.clone() }));
            (kinds(&told), told.last().map(|happened| happened.severity))
        };
        assert_eq!(tell(PodState::Creating).0, ["pod-created"]);
        assert!(tell(PodState::Creating).0.is_empty());
        assert_eq!(tell(PodState::Ready).0, ["pod-ready"]);
        assert!(tell(PodState::Stopping).0.is_empty());
        assert_eq!(tell(PodState::NotReady), (vec!["pod-stopped"], Some(Severity::Normal)));
        assert!(tell(PodState::NotReady).0.is_empty());
        assert_eq!(kinds(&tracker.pod_removed(&pod.id)), ["pod-removed"]);
        assert!(tracker.pod_removed(&pod.id).is_empty());
    }

    #[test]
    fn a_pod_that_ends_by_itself_and_one_that_fails_are_warnings() {
        let mut tracker = Tracker::default();
        let pod = Pod { state: PodState::Ready, ..test_pod("a") };
        tracker.pod(&Arc::new(pod.clone()));
        let told = tracker.pod(&Arc::new(Pod { state: PodState::NotReady, ..pod }));
        assert_eq!((kinds(&told), told[0].severity), (vec!["pod-stopped"], Severity::Warning));
        let failed = Pod { state: PodState::Failed, error: Some("no address".into()), ..test_pod("b") };
        let told = tracker.pod(&Arc::new(failed.clone()));
        assert_eq!(kinds(&told), ["pod-created", "pod-failed"]);
        assert_eq!((told[1].severity, told[1].message.as_str()), (Severity::Warning, "no address"));
        assert!(tracker.pod_removed(&failed.id).is_empty(), "it was undone long ago");
    }

    #[test]
    fn a_containers_life_has_words_for_its_end() {
        let mut tracker = Tracker::default();
        let mut it = fake::container();
        let pod = Pod { id: it.pod.clone(), state: PodState::Ready, ..test_pod("a") };
        tracker.pod(&Arc::new(pod.clone()));
        assert_eq!(kinds(&tracker.container(&Arc::new(it.clone()))), ["container-created"]);
        it.state = ContainerState::Running;
        it.started_at_ns = Some(1);
        let told = tracker.container(&Arc::new(it.clone()));
        assert_eq!(kinds(&told), ["container-started"]);
        assert_eq!(told[0].pod.as_ref().unwrap().name, "default/a");
        assert!(tracker.container(&Arc::new(it.clone())).is_empty(), "new limits are no news");
        it.state = ContainerState::Exited;
        it.ended = Some(Ended { exit: Exit::Signal(9), at_ns: 2, oom_killed: true, message: String::new() });
        let told = tracker.container(&Arc::new(it.clone()));
        assert_eq!(kinds(&told), ["container-oom-killed", "container-exited"]);
        assert!(told.iter().all(|happened| happened.severity == Severity::Warning));
        assert_eq!(kinds(&tracker.container_removed(&it.id)), ["container-removed"]);

        // The same end in a pod that is being stopped is no warning; and all of a life at once has all its events.
        tracker.pod(&Arc::new(Pod { state: PodState::Stopping, ..pod }));
        it.ended = Some(Ended { exit: Exit::Signal(9), at_ns: 2, oom_killed: false, message: String::new() });
        let told = tracker.container(&Arc::new(it));
        assert_eq!(kinds(&told), ["container-created", "container-started", "container-exited"]);
        assert_eq!(told[2].severity, Severity::Normal);
    }

    #[tokio::test]
    async fn containers_go_before_their_pod_on_whatever_channel() {
        let (pods, containers) = (Arc::new(Pods::default()), Arc::new(Containers::default()));
        let status = NetworkStatus { ready: true, reason: String::new(), message: String::new() };
        let (network, watched) = watch::channel(status.clone());
        let events = Follow {
            pods: Arc::clone(&pods),
            containers: Arc::clone(&containers),
            network: watched,
            degradations: Vec::new(),
        }
        .start();
        let (_, mut news) = events.recent_and_subscribe(0);
        // All of it before the follower has its first turn.
        let it = fake::container();
        let pod = Pod { id: it.pod.clone(), state: PodState::Ready, ..test_pod("a") };
        pods.publish(pod.clone());
        containers.publish(it.clone());
        containers.remove(&it.id);
        pods.remove(&pod.id);
        let expected = [
            "network-ready",
            "pod-created",
            "pod-ready",
            "container-created",
            "container-removed",
            "pod-removed",
        ];
        for kind in expected {
            assert_eq!(news.recv().await.unwrap().kind, kind);
        }
        network.send_replace(NetworkStatus { ready: false, reason: "PluginMissing".into(), ..status });
        let lost = news.recv().await.unwrap();
        assert_eq!(lost.kind, "network-lost");
        assert!(lost.message.contains("PluginMissing"), "{lost:?}");
    }
}
