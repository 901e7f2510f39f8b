//! Follows the stores of pods and containers, the network's readiness and the observer's degradations, and tells what
//! changed.

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
use crate::observer::Degradation;
use crate::pod::PodChange;
use crate::pod::model::{Pod, PodId, PodState};
use crate::pod::store::Store as Pods;

/// What is followed.
#[derive(Debug)]
pub struct Follow {
    pub pods: Arc<Pods>,
    pub containers: Arc<Containers>,
    pub network: watch::Receiver<NetworkStatus>,
    /// How the node does less than it could: what was found at the start.
    pub degradations: Vec<api::Degradation>,
    /// How the observer does, also what appears while it runs.
    pub observer: watch::Receiver<Vec<Degradation>>,
}

impl Follow {
    /// Events from now on. What is there already was adopted.
    #[must_use]
    pub fn start(self) -> Arc<Events> {
        let events = Arc::new(Events::default());
        let Self { pods, containers, network, degradations, mut observer } = self;
        let (pod_list, pod_changes) = pods.list_and_subscribe();
        let (container_list, container_changes) = containers.list_and_subscribe();
        let mut tracker = Tracker::default();
        tracker.adopt(&pod_list, &container_list).into_iter().for_each(|happened| events.tell(happened));
        degradations.iter().for_each(|step| events.tell(of_degradation(step)));
        let degraded = tell_new(&events, &mut observer, 0);
        let follower = Follower {
            events: Arc::clone(&events),
            pods,
            containers,
            pod_changes,
            container_changes,
            observer,
            degraded,
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

fn of_degradation(step: &api::Degradation) -> Happened {
    Happened {
        kind: Kind::Degraded,
        severity: Severity::Warning,
        pod: None,
        container: None,
        message: format!("{}: {}", step.name, step.message),
    }
}

/// Tells of the degradations after the first `told`; how many there are.
fn tell_new(events: &Events, steps: &mut watch::Receiver<Vec<Degradation>>, told: usize) -> usize {
    let steps = steps.borrow_and_update();
    steps.iter().skip(told).for_each(|step| events.tell(of_degradation(&step.into())));
    steps.len()
}

/// Turns changes into events.
struct Follower {
    events: Arc<Events>,
    pods: Arc<Pods>,
    containers: Arc<Containers>,
    pod_changes: broadcast::Receiver<PodChange>,
    container_changes: broadcast::Receiver<ContainerChange>,
    observer: watch::Receiver<Vec<Degradation>>,
    /// How many of the observer's degradations were told of.
    degraded: usize,
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
                changed = self.observer.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.degraded = tell_new(&self.events, &mut self.observer, self.degraded);
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
mod tests;
