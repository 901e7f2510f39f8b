//! What is published of every pod: written by its driver alone, read by everybody without waiting.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;

use super::error::PodError;
use super::model::{Pod, PodId, PodState};
use super::spec::Metadata;

/// Changes a slow subscriber may lag behind before it is told that it missed some.
const CHANGES: usize = 1024;

/// How many failed pods are kept for the console to explain.
const FAILED_KEPT: usize = 32;

/// What subscribers hear.
#[derive(Debug, Clone)]
pub enum PodChange {
    Upsert(Arc<Pod>),
    Removed(PodId),
}

/// All published pods and the names they hold.
#[derive(Debug)]
pub struct Store {
    inner: RwLock<Inner>,
    changes: broadcast::Sender<PodChange>,
}

#[derive(Debug, Default)]
struct Inner {
    pods: BTreeMap<PodId, Arc<Pod>>,
    names: HashMap<Metadata, PodId>,
    failed: VecDeque<PodId>,
}

impl Default for Store {
    fn default() -> Self {
        Self { inner: RwLock::default(), changes: broadcast::channel(CHANGES).0 }
    }
}

impl Store {
    /// Takes a pod's name until the reservation is dropped.
    pub(super) fn reserve(self: &Arc<Self>, name: &Metadata, id: &PodId) -> Result<Reservation, PodError> {
        let mut inner = self.write();
        if let Some(by) = inner.names.get(name) {
            return Err(PodError::NameReserved {
                name: format!(
                    "{}/{} (uid {}, attempt {})",
                    name.namespace, name.name, name.uid, name.attempt
                ),
                by: by.clone(),
            });
        }
        inner.names.insert(name.clone(), id.clone());
        Ok(Reservation { store: Arc::clone(self), name: name.clone() })
    }

    /// Publishes a pod's newest state.
    pub(crate) fn publish(&self, pod: Pod) {
        let pod = Arc::new(pod);
        let mut inner = self.write();
        let mut gone = None;
        if pod.state == PodState::Failed {
            inner.failed.push_back(pod.id.clone());
            if inner.failed.len() > FAILED_KEPT
                && let Some(oldest) = inner.failed.pop_front()
            {
                inner.pods.remove(&oldest);
                gone = Some(oldest);
            }
        }
        inner.pods.insert(pod.id.clone(), Arc::clone(&pod));
        // Sent under the lock, so that a subscriber who reads the list and then the changes sees no
        // older state after a newer one. Nobody listening is fine.
        if let Some(oldest) = gone {
            let _ = self.changes.send(PodChange::Removed(oldest));
        }
        let _ = self.changes.send(PodChange::Upsert(pod));
    }

    /// Takes a pod off the list.
    pub(crate) fn remove(&self, id: &PodId) {
        let mut inner = self.write();
        if inner.pods.remove(id).is_some() {
            inner.failed.retain(|f| f != id);
            let _ = self.changes.send(PodChange::Removed(id.clone()));
        }
    }

    /// A snapshot, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Pod>> {
        let mut pods: Vec<_> = self.read().pods.values().cloned().collect();
        pods.sort_by(|a, b| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
        pods
    }

    /// The list and the changes after it, with no gap between the two.
    #[must_use]
    pub fn list_and_subscribe(&self) -> (Vec<Arc<Pod>>, broadcast::Receiver<PodChange>) {
        let inner = self.read();
        (inner.pods.values().cloned().collect(), self.changes.subscribe())
    }

    /// One pod by id or unique prefix. A whole id is never ambiguous.
    ///
    /// # Errors
    /// When the prefix names several pods.
    pub fn find(&self, id: &str) -> Result<Option<Arc<Pod>>, PodError> {
        let inner = self.read();
        let mut hits = inner
            .pods
            .range(PodId::from_string(id.to_owned())..)
            .take_while(|(key, _)| !id.is_empty() && key.as_str().starts_with(id))
            .map(|(_, pod)| pod);
        let Some(first) = hits.next() else { return Ok(None) };
        if first.id.as_str() == id {
            return Ok(Some(Arc::clone(first)));
        }
        match hits.count() {
            0 => Ok(Some(Arc::clone(first))),
            more => Err(PodError::AmbiguousId { prefix: id.to_owned(), count: more + 1 }),
        }
    }

    /// Changes from now on.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<PodChange> {
        self.changes.subscribe()
    }

    // A panic while the lock is held can only have happened between whole inserts: the maps are sound.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A taken name. Dropping it gives the name back.
#[derive(Debug)]
pub(super) struct Reservation {
    store: Arc<Store>,
    name: Metadata,
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.store.write().names.remove(&self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;

    #[test]
    fn a_name_is_held_once_and_given_back() {
        let store = Arc::new(Store::default());
        let (a, b) = (test_pod("web"), test_pod("web"));
        let held = store.reserve(&a.spec.metadata, &a.id).unwrap();
        let refused = store.reserve(&b.spec.metadata, &b.id);
        assert!(matches!(refused, Err(PodError::NameReserved { by, .. }) if by == a.id));
        let mut next = b.spec.metadata.clone();
        next.attempt += 1;
        let _other = store.reserve(&next, &b.id).unwrap();
        drop(held);
        assert!(store.reserve(&b.spec.metadata, &b.id).is_ok());
    }

    #[test]
    fn finds_by_unique_prefix_only() {
        let store = Store::default();
        for id in ["aa11", "aa12", "bb", "bb1"] {
            store.publish(Pod { id: PodId::from_string(id.into()), ..test_pod(id) });
        }
        let found = |id: &str| store.find(id).map(|p| p.map(|p| p.id.to_string()));
        assert_eq!(found("aa11").unwrap().as_deref(), Some("aa11"));
        assert_eq!(found("bb").unwrap().as_deref(), Some("bb"), "a whole id beats a longer one");
        assert_eq!(found("cc").unwrap(), None);
        assert_eq!(found("").unwrap(), None, "the empty prefix names nothing");
        assert!(matches!(found("aa"), Err(PodError::AmbiguousId { count: 2, .. })));
    }

    #[test]
    fn failed_pods_are_bounded() {
        let store = Store::default();
        let mut changes = store.subscribe();
        for n in 0..FAILED_KEPT + 3 {
            store.publish(Pod { state: PodState::Failed, ..test_pod(&n.to_string()) });
        }
        assert_eq!(store.list().len(), FAILED_KEPT);
        let mut removed = 0;
        while let Ok(change) = changes.try_recv() {
            removed += usize::from(matches!(change, PodChange::Removed(_)));
        }
        assert_eq!(removed, 3);
    }
}
