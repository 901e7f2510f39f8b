//! GetContainerEvents: what happens to pods and containers, as kubelet's evented PLEG hears it.
//!
//! ```text
//!   pod store ────────┐
//!                     ├─▶ Tracker: which change is an event ──▶ broadcast ──▶ a stream for each subscriber
//!   container store ──┘
//! ```
//!
//! A pod's events carry the pod's id in place of a container's, as containerd sends them. Nothing is
//! replayed: a subscriber lists first what there is. One that is too slow is told so and its stream ends;
//! an event that is silently missing would leave kubelet with a state that never changes.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::Arc;

use futures_util::StreamExt;
use sandboxd_api::cri;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tonic::Status;

use super::translate;
use crate::container::model::{Container, ContainerState};
use crate::container::store::ContainerChange;
use crate::pod::model::{Pod, PodId, PodState};
use crate::pod::store::Store;
use crate::pod::{PodChange, now_ns};

/// Events that a subscriber may lag behind.
const EVENTS: usize = 1024;

type Event = Arc<cri::ContainerEventResponse>;
pub type EventStream = Pin<Box<dyn Stream<Item = Result<cri::ContainerEventResponse, Status>> + Send>>;

/// What this asks of the container room.
pub trait ContainerSource: Send + Sync + std::fmt::Debug + 'static {
    /// The list and the changes after it, with no gap between the two.
    fn list_and_subscribe(&self) -> (Vec<Arc<Container>>, broadcast::Receiver<ContainerChange>);
    /// The statuses of a pod's containers, as ContainerStatus has them.
    fn statuses(&self, pod: &PodId) -> Vec<cri::ContainerStatus>;
}

/// How far a pod or container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Created,
    Started,
    Stopped,
}

/// Something that happened.
#[derive(Debug, PartialEq, Eq)]
struct Happened {
    /// Of a container, or of the pod itself.
    id: String,
    pod: PodId,
    kind: cri::ContainerEventType,
}

/// What is known to have happened.
#[derive(Debug, Default)]
struct Tracker {
    known: HashMap<String, (PodId, Phase)>,
}

impl Tracker {
    fn pod(&mut self, pod: &Pod) -> Vec<Happened> {
        // A pod that is still being made, or was undone, is none of CRI's.
        let phase = match pod.state {
            PodState::Creating | PodState::Failed => return Vec::new(),
            PodState::Ready => Phase::Started,
            // On its way: its processes may live.
            PodState::Stopping if self.known.contains_key(pod.id.as_str()) => return Vec::new(),
            PodState::Stopping | PodState::NotReady => Phase::Stopped,
        };
        self.reached(pod.id.as_str(), &pod.id, phase)
    }

    fn container(&mut self, container: &Container) -> Vec<Happened> {
        let phase = match container.state {
            ContainerState::Created => Phase::Created,
            ContainerState::Running => Phase::Started,
            ContainerState::Exited | ContainerState::Unknown => Phase::Stopped,
        };
        self.reached(container.id.as_str(), &container.pod, phase)
    }

    /// The events up to a phase. A container whose start failed was never started.
    fn reached(&mut self, id: &str, pod: &PodId, phase: Phase) -> Vec<Happened> {
        use cri::ContainerEventType as T;
        let before = self.known.insert(id.to_owned(), (pod.clone(), phase)).map(|(_, phase)| phase);
        let mut kinds = Vec::new();
        if before.is_none() {
            kinds.push(T::ContainerCreatedEvent);
        }
        if phase == Phase::Started && before < Some(Phase::Started) {
            kinds.push(T::ContainerStartedEvent);
        }
        if phase == Phase::Stopped && before < Some(Phase::Stopped) {
            kinds.push(T::ContainerStoppedEvent);
        }
        kinds.into_iter().map(|kind| Happened { id: id.to_owned(), pod: pod.clone(), kind }).collect()
    }

    fn removed(&mut self, id: &str) -> Vec<Happened> {
        use cri::ContainerEventType as T;
        let Some((pod, phase)) = self.known.remove(id) else { return Vec::new() };
        let mut kinds = vec![T::ContainerDeletedEvent];
        if phase == Phase::Started {
            kinds.insert(0, T::ContainerStoppedEvent);
        }
        kinds.into_iter().map(|kind| Happened { id: id.to_owned(), pod: pod.clone(), kind }).collect()
    }

    /// Whatever differs from these lists.
    fn all(&mut self, pods: &[Arc<Pod>], containers: &[Arc<Container>]) -> Vec<Happened> {
        let listed: HashSet<&str> =
            pods.iter().map(|p| p.id.as_str()).chain(containers.iter().map(|c| c.id.as_str())).collect();
        let gone: Vec<String> =
            self.known.keys().filter(|id| !listed.contains(id.as_str())).cloned().collect();
        let mut happened: Vec<_> = gone.iter().flat_map(|id| self.removed(id)).collect();
        happened.extend(pods.iter().flat_map(|pod| self.pod(pod)));
        happened.extend(containers.iter().flat_map(|container| self.container(container)));
        happened
    }
}

/// Where subscribers come to. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Events {
    sender: broadcast::Sender<Event>,
}

impl Events {
    /// Follows both stores from now on. What is there already has no events.
    #[must_use]
    pub fn follow(pods: Arc<Store>, containers: Arc<dyn ContainerSource>) -> Self {
        let sender = broadcast::channel(EVENTS).0;
        let events = Self { sender: sender.clone() };
        // Subscribed to before this returns: whoever lists afterwards misses nothing.
        tokio::spawn(Follower::new(sender, pods, containers).follow());
        events
    }

    /// The events from now on, until the subscriber is too slow for them.
    #[must_use]
    pub fn stream(&self) -> EventStream {
        let events = BroadcastStream::new(self.sender.subscribe());
        let events = events.scan(false, |ended, event| {
            let event = match event {
                _ if *ended => None,
                Ok(event) => Some(Ok(Arc::unwrap_or_clone(event))),
                Err(BroadcastStreamRecvError::Lagged(missed)) => {
                    *ended = true;
                    let text =
                        format!("{missed} events were not read in time: list again, then subscribe again");
                    Some(Err(Status::data_loss(text)))
                }
            };
            std::future::ready(event)
        });
        Box::pin(events)
    }
}

/// Turns changes into events.
struct Follower {
    sender: broadcast::Sender<Event>,
    pods: Arc<Store>,
    containers: Arc<dyn ContainerSource>,
    pod_changes: broadcast::Receiver<PodChange>,
    container_changes: broadcast::Receiver<ContainerChange>,
    tracker: Tracker,
    /// The newest of each pod, also for the events of its end.
    last: HashMap<PodId, Arc<Pod>>,
}

impl Follower {
    fn new(sender: broadcast::Sender<Event>, pods: Arc<Store>, containers: Arc<dyn ContainerSource>) -> Self {
        let (pod_list, pod_changes) = pods.list_and_subscribe();
        let (container_list, container_changes) = containers.list_and_subscribe();
        let mut tracker = Tracker::default();
        tracker.all(&pod_list, &container_list);
        let last = pod_list.into_iter().map(|pod| (pod.id.clone(), pod)).collect();
        Self { sender, pods, containers, pod_changes, container_changes, tracker, last }
    }

    async fn follow(mut self) {
        loop {
            let happened = tokio::select! {
                change = self.pod_changes.recv() => match change {
                    Ok(PodChange::Upsert(pod)) => self.pod(pod),
                    Ok(PodChange::Removed(id)) => self.tracker.removed(id.as_str()),
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => self.compare(),
                },
                change = self.container_changes.recv() => match change {
                    Ok(ContainerChange::Upsert(container)) => self.tracker.container(&container),
                    Ok(ContainerChange::Removed(id)) => self.tracker.removed(id.as_str()),
                    Err(RecvError::Closed) => return,
                    Err(RecvError::Lagged(_)) => self.compare(),
                },
            };
            happened.into_iter().for_each(|happened| self.tell(happened));
        }
    }

    fn pod(&mut self, pod: Arc<Pod>) -> Vec<Happened> {
        let happened = self.tracker.pod(&pod);
        // A pod of which nothing was told has no end to tell of.
        if self.tracker.known.contains_key(pod.id.as_str()) {
            self.last.insert(pod.id.clone(), pod);
        }
        happened
    }

    fn compare(&mut self) -> Vec<Happened> {
        tracing::warn!("changes came faster than their events were made: comparing with the lists");
        let (pods, pod_changes) = self.pods.list_and_subscribe();
        let (containers, container_changes) = self.containers.list_and_subscribe();
        (self.pod_changes, self.container_changes) = (pod_changes, container_changes);
        let happened = self.tracker.all(&pods, &containers);
        let known = pods.into_iter().filter(|pod| self.tracker.known.contains_key(pod.id.as_str()));
        self.last.extend(known.map(|pod| (pod.id.clone(), pod)));
        happened
    }

    fn tell(&mut self, happened: Happened) {
        let gone = happened.id == happened.pod.as_str()
            && happened.kind == cri::ContainerEventType::ContainerDeletedEvent;
        let pod = if gone { self.last.remove(&happened.pod) } else { self.last.get(&happened.pod).cloned() };
        if self.sender.receiver_count() > 0 {
            // An error says that the last subscriber has just gone.
            let _ = self.sender.send(Arc::new(event(happened, pod.as_deref(), &*self.containers)));
        }
    }
}

fn event(
    happened: Happened,
    pod: Option<&Pod>,
    containers: &dyn ContainerSource,
) -> cri::ContainerEventResponse {
    cri::ContainerEventResponse {
        container_id: happened.id,
        container_event_type: happened.kind.into(),
        created_at: now_ns(),
        pod_sandbox_status: pod.map(translate::status),
        containers_statuses: containers.statuses(&happened.pod),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;
    use cri::ContainerEventType as T;

    #[derive(Debug)]
    struct NoContainers(broadcast::Sender<ContainerChange>);

    impl ContainerSource for NoContainers {
        fn list_and_subscribe(&self) -> (Vec<Arc<Container>>, broadcast::Receiver<ContainerChange>) {
            (Vec::new(), self.0.subscribe())
        }
        fn statuses(&self, pod: &PodId) -> Vec<cri::ContainerStatus> {
            vec![cri::ContainerStatus { id: format!("c of {pod}"), ..Default::default() }]
        }
    }

    fn kinds(happened: &[Happened]) -> Vec<T> {
        happened.iter().map(|h| h.kind).collect()
    }

    #[test]
    fn every_step_is_told_once() {
        let mut tracker = Tracker::default();
        let mut pod = test_pod("a");
        assert_eq!(kinds(&tracker.pod(&pod)), []);
        pod.state = PodState::Ready;
        assert_eq!(kinds(&tracker.pod(&pod)), [T::ContainerCreatedEvent, T::ContainerStartedEvent]);
        assert_eq!(kinds(&tracker.pod(&pod)), []);
        pod.state = PodState::Stopping;
        assert_eq!(kinds(&tracker.pod(&pod)), []);
        pod.state = PodState::NotReady;
        assert_eq!(kinds(&tracker.pod(&pod)), [T::ContainerStoppedEvent]);
        assert_eq!(kinds(&tracker.removed(pod.id.as_str())), [T::ContainerDeletedEvent]);
        assert_eq!(kinds(&tracker.removed(pod.id.as_str())), []);

        let happened = tracker.reached("c", &pod.id, Phase::Created);
        assert_eq!(kinds(&happened), [T::ContainerCreatedEvent]);
        assert_eq!((happened[0].id.as_str(), &happened[0].pod), ("c", &pod.id));
        assert_eq!(kinds(&tracker.reached("c", &pod.id, Phase::Started)), [T::ContainerStartedEvent]);
        assert_eq!(
            kinds(&tracker.removed("c")),
            [T::ContainerStoppedEvent, T::ContainerDeletedEvent],
            "removed by force"
        );
        let failed = tracker.reached("d", &pod.id, Phase::Stopped);
        assert_eq!(kinds(&failed), [T::ContainerCreatedEvent, T::ContainerStoppedEvent]);
        pod.state = PodState::Ready;
        let happened = tracker.all(&[Arc::new(pod)], &[]);
        assert_eq!(
            kinds(&happened),
            [T::ContainerDeletedEvent, T::ContainerCreatedEvent, T::ContainerStartedEvent]
        );
    }

    #[tokio::test]
    async fn subscribers_hear_of_pods_or_that_they_were_too_slow() {
        let store = Arc::new(Store::default());
        let containers = Arc::new(NoContainers(broadcast::channel(4).0));
        let old = Pod { state: PodState::Ready, ..test_pod("old") };
        store.publish(old.clone());
        let events = Events::follow(Arc::clone(&store), containers);
        let mut quick = events.stream();
        let mut slow = events.stream();
        let pod = Pod { state: PodState::Ready, ..test_pod("new") };
        store.publish(pod.clone());
        store.publish(Pod { state: PodState::NotReady, ..pod.clone() });
        store.remove(&pod.id);
        store.remove(&old.id);
        let mut heard = Vec::new();
        for _ in 0..6 {
            let event = quick.next().await.unwrap().unwrap();
            let status = event.pod_sandbox_status.as_ref().unwrap();
            assert_eq!(status.id, event.container_id);
            assert_eq!(event.containers_statuses[0].id, format!("c of {}", event.container_id));
            assert!(event.created_at > 0);
            heard.push((event.container_id == pod.id.as_str(), event.container_event_type()));
        }
        let expected = [
            (true, T::ContainerCreatedEvent),
            (true, T::ContainerStartedEvent),
            (true, T::ContainerStoppedEvent),
            (true, T::ContainerDeletedEvent),
            (false, T::ContainerStoppedEvent),
            (false, T::ContainerDeletedEvent),
        ];
        assert_eq!(heard, expected);
        for n in 0..EVENTS {
            store.publish(Pod { state: PodState::Ready, ..test_pod(&n.to_string()) });
            quick.next().await.unwrap().unwrap();
            quick.next().await.unwrap().unwrap();
        }
        let error = slow.next().await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::DataLoss);
        assert!(slow.next().await.is_none(), "its stream has ended");
    }
}
