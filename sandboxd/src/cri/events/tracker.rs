//! Which change of a pod or container is an event.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use sandboxd_api::cri;

use crate::container::model::{Container, ContainerState};
use crate::pod::model::{Pod, PodId, PodState};

/// How far a pod or container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Created,
    Started,
    Stopped,
}

/// Something that happened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Happened {
    /// Of a container, or of the pod itself.
    pub id: String,
    pub pod: PodId,
    pub kind: cri::ContainerEventType,
}

/// What is known to have happened.
#[derive(Debug, Default)]
pub(super) struct Tracker {
    known: HashMap<String, (PodId, Phase)>,
}

impl Tracker {
    pub fn pod(&mut self, pod: &Pod) -> Vec<Happened> {
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

    pub fn container(&mut self, container: &Container) -> Vec<Happened> {
        let phase = match container.state {
            ContainerState::Created => Phase::Created,
            ContainerState::Running => Phase::Started,
            ContainerState::Exited | ContainerState::Unknown => Phase::Stopped,
        };
        self.reached(container.id.as_str(), &container.pod, phase)
    }

    pub fn knows(&self, id: &str) -> bool {
        self.known.contains_key(id)
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

    pub fn removed(&mut self, id: &str) -> Vec<Happened> {
        use cri::ContainerEventType as T;
        let Some((pod, phase)) = self.known.remove(id) else { return Vec::new() };
        let mut kinds = vec![T::ContainerDeletedEvent];
        if phase == Phase::Started {
            kinds.insert(0, T::ContainerStoppedEvent);
        }
        kinds.into_iter().map(|kind| Happened { id: id.to_owned(), pod: pod.clone(), kind }).collect()
    }

    /// Whatever differs from these lists.
    pub fn all(&mut self, pods: &[Arc<Pod>], containers: &[Arc<Container>]) -> Vec<Happened> {
        let listed: HashSet<&str> =
            pods.iter().map(|p| p.id.as_str()).chain(containers.iter().map(|c| c.id.as_str())).collect();
        let gone = self.known.iter().filter(|(id, _)| !listed.contains(id.as_str()));
        let mut gone: Vec<_> = gone.map(|(id, (pod, _))| (id == pod.as_str(), id.clone())).collect();
        // A pod goes after its containers.
        gone.sort();
        let mut happened: Vec<_> = gone.iter().flat_map(|(_, id)| self.removed(id)).collect();
        happened.extend(pods.iter().flat_map(|pod| self.pod(pod)));
        happened.extend(containers.iter().flat_map(|container| self.container(container)));
        happened
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;
    use cri::ContainerEventType as T;

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
}
