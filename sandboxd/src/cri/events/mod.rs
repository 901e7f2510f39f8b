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

mod tracker;

use std::collections::HashMap;
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

use self::tracker::{Happened, Tracker};
use super::translate;
use crate::container::model::Container;
use crate::container::store::ContainerChange;
use crate::pod::model::{Pod, PodId};
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
            // Pods first: the event of a container has its pod's status.
            let happened = tokio::select! {
                biased;
                change = self.pod_changes.recv() => match change {
                    Ok(PodChange::Upsert(pod)) => self.pod(pod),
                    Ok(PodChange::Removed(id)) => self.pod_removed(&id),
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
        let is_new = !self.tracker.knows(pod.id.as_str());
        let mut happened = if is_new { Vec::new() } else { self.containers_so_far() };
        happened.extend(self.tracker.pod(&pod));
        // A pod of which nothing was told has no end to tell of.
        if self.tracker.knows(pod.id.as_str()) {
            self.last.insert(pod.id.clone(), pod);
        }
        happened
    }

    /// A pod ends after its containers, and so do the events: what happened to containers up to here comes first.
    fn containers_so_far(&mut self) -> Vec<Happened> {
        use broadcast::error::TryRecvError;
        let mut happened = Vec::new();
        loop {
            match self.container_changes.try_recv() {
                Ok(ContainerChange::Upsert(container)) => happened.extend(self.tracker.container(&container)),
                Ok(ContainerChange::Removed(id)) => happened.extend(self.tracker.removed(id.as_str())),
                Err(TryRecvError::Lagged(_)) => happened.extend(self.compare()),
                Err(TryRecvError::Empty | TryRecvError::Closed) => return happened,
            }
        }
    }

    fn pod_removed(&mut self, id: &PodId) -> Vec<Happened> {
        let mut happened = self.containers_so_far();
        happened.extend(self.tracker.removed(id.as_str()));
        happened
    }

    fn compare(&mut self) -> Vec<Happened> {
        tracing::warn!("changes came faster than their events were made: comparing with the lists");
        let (pods, pod_changes) = self.pods.list_and_subscribe();
        let (containers, container_changes) = self.containers.list_and_subscribe();
        (self.pod_changes, self.container_changes) = (pod_changes, container_changes);
        let happened = self.tracker.all(&pods, &containers);
        let known = pods.into_iter().filter(|pod| self.tracker.knows(pod.id.as_str()));
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
    use crate::container::model::ContainerState;
    use crate::pod::model::{PodState, test_pod};
    use cri::ContainerEventType as T;

    #[derive(Debug)]
    struct Changes(broadcast::Sender<ContainerChange>);

    impl ContainerSource for Changes {
        fn list_and_subscribe(&self) -> (Vec<Arc<Container>>, broadcast::Receiver<ContainerChange>) {
            (Vec::new(), self.0.subscribe())
        }
        fn statuses(&self, pod: &PodId) -> Vec<cri::ContainerStatus> {
            vec![cri::ContainerStatus { id: format!("c of {pod}"), ..Default::default() }]
        }
    }

    /// Whichever of the two stores is looked at first.
    #[tokio::test]
    async fn a_pod_begins_before_its_containers_and_ends_after_them() {
        let store = Arc::new(Store::default());
        let changes = broadcast::channel(16).0;
        let events = Events::follow(Arc::clone(&store), Arc::new(Changes(changes.clone())));
        let mut stream = events.stream();
        let pod = Pod { state: PodState::Ready, ..test_pod("p") };
        let mut container = Container { pod: pod.id.clone(), ..crate::container::fake::container() };
        let id = container.id.clone();
        for _ in 0..50 {
            store.publish(pod.clone());
            for state in [ContainerState::Running, ContainerState::Exited] {
                container.state = state;
                changes.send(ContainerChange::Upsert(Arc::new(container.clone()))).unwrap();
            }
            store.publish(Pod { state: PodState::NotReady, ..pod.clone() });
            changes.send(ContainerChange::Removed(id.clone())).unwrap();
            store.remove(&pod.id);
            let mut heard = Vec::new();
            while heard.len() < 8 {
                let event = stream.next().await.unwrap().unwrap();
                assert_eq!(event.pod_sandbox_status.as_ref().unwrap().id, pod.id.as_str());
                heard.push((event.container_id == pod.id.as_str(), event.container_event_type()));
            }
            let place = |of| heard.iter().position(|event| *event == of).unwrap();
            assert!(place((true, T::ContainerStartedEvent)) < place((false, T::ContainerCreatedEvent)));
            assert!(place((false, T::ContainerStoppedEvent)) < place((true, T::ContainerStoppedEvent)));
            assert!(place((false, T::ContainerDeletedEvent)) < place((true, T::ContainerDeletedEvent)));
        }
    }

    #[tokio::test]
    async fn subscribers_hear_of_pods_or_that_they_were_too_slow() {
        let store = Arc::new(Store::default());
        let containers = Arc::new(Changes(broadcast::channel(4).0));
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
