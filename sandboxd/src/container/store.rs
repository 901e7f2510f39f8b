//! What is published of the containers: snapshots, changes, reserved names.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::broadcast;

use super::error::ContainerError;
use super::model::{Container, ContainerId};
use super::spec::Metadata;
use crate::pod::model::PodId;

/// Changes a subscriber may lag behind before it misses some.
const CHANGES: usize = 1024;

/// A change of the list.
#[derive(Debug, Clone)]
pub enum ContainerChange {
    Upsert(Arc<Container>),
    Removed(ContainerId),
}

/// The containers as everybody sees them.
#[derive(Debug)]
pub struct Store {
    inner: RwLock<Inner>,
    changes: broadcast::Sender<ContainerChange>,
}

#[derive(Debug, Default)]
struct Inner {
    containers: BTreeMap<ContainerId, Arc<Container>>,
    names: HashMap<(PodId, Metadata), ContainerId>,
}

impl Default for Store {
    fn default() -> Self {
        Self { inner: RwLock::default(), changes: broadcast::Sender::new(CHANGES) }
    }
}

impl Store {
    /// Takes a container's name until the reservation is dropped.
    pub(super) fn reserve(
        self: &Arc<Self>,
        pod: &PodId,
        metadata: &Metadata,
        id: &ContainerId,
    ) -> Result<Reservation, ContainerError> {
        let mut inner = self.write();
        let key = (pod.clone(), metadata.clone());
        if let Some(by) = inner.names.get(&key) {
            return Err(ContainerError::NameReserved {
                pod: pod.clone(),
                name: metadata.name.clone(),
                attempt: metadata.attempt,
                by: by.clone(),
            });
        }
        inner.names.insert(key.clone(), id.clone());
        Ok(Reservation { store: Arc::clone(self), key })
    }

    /// Publishes a container's newest state.
    pub(crate) fn publish(&self, container: Container) {
        let container = Arc::new(container);
        let mut inner = self.write();
        inner.containers.insert(container.id.clone(), Arc::clone(&container));
        // Under the lock, so that a subscriber sees no older state after a newer one. Nobody listening is fine.
        let _ = self.changes.send(ContainerChange::Upsert(container));
    }

    /// Takes a container off the list.
    pub(crate) fn remove(&self, id: &ContainerId) {
        let mut inner = self.write();
        if inner.containers.remove(id).is_some() {
            let _ = self.changes.send(ContainerChange::Removed(id.clone()));
        }
    }

    /// A snapshot, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Container>> {
        let mut all: Vec<_> = self.read().containers.values().cloned().collect();
        all.sort_by(|a, b| (a.created_at_ns, &a.id).cmp(&(b.created_at_ns, &b.id)));
        all
    }

    /// The list and the changes after it, with no gap between the two.
    #[must_use]
    pub fn list_and_subscribe(&self) -> (Vec<Arc<Container>>, broadcast::Receiver<ContainerChange>) {
        let inner = self.read();
        (inner.containers.values().cloned().collect(), self.changes.subscribe())
    }

    /// Those of a pod, in no order.
    #[must_use]
    pub fn of_pod(&self, pod: &PodId) -> Vec<Arc<Container>> {
        self.read().containers.values().filter(|container| container.pod == *pod).cloned().collect()
    }

    /// One container by id or unique prefix. A whole id is never ambiguous.
    ///
    /// # Errors
    /// When the prefix names several.
    pub fn find(&self, id: &str) -> Result<Option<Arc<Container>>, ContainerError> {
        let inner = self.read();
        let mut hits = inner
            .containers
            .range(ContainerId::from_string(id.to_owned())..)
            .take_while(|(key, _)| !id.is_empty() && key.as_str().starts_with(id))
            .map(|(_, container)| container);
        let Some(first) = hits.next() else { return Ok(None) };
        if first.id.as_str() == id {
            return Ok(Some(Arc::clone(first)));
        }
        match hits.count() {
            0 => Ok(Some(Arc::clone(first))),
            more => Err(ContainerError::AmbiguousId { prefix: id.to_owned(), count: more + 1 }),
        }
    }

    // A panic while the lock is held can only have happened between whole inserts: the maps are sound.
    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// A taken name. Dropping it gives the name back.
#[derive(Debug)]
pub(super) struct Reservation {
    store: Arc<Store>,
    key: (PodId, Metadata),
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.store.write().names.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::fake::container;

    #[test]
    fn a_name_is_taken_until_it_is_given_back() {
        let store = Arc::new(Store::default());
        let first = container();
        let metadata = first.spec.metadata.clone();
        let taken = store.reserve(&first.pod, &metadata, &first.id).unwrap();
        let other = ContainerId::random().unwrap();
        let refused = store.reserve(&first.pod, &metadata, &other).unwrap_err();
        assert!(matches!(&refused, ContainerError::NameReserved { by, .. } if *by == first.id), "{refused}");
        let next = Metadata { attempt: 1, ..metadata.clone() };
        store.reserve(&first.pod, &next, &other).unwrap();
        store.reserve(&PodId::random().unwrap(), &metadata, &other).unwrap();
        drop(taken);
        store.reserve(&first.pod, &metadata, &other).unwrap();
    }

    #[test]
    fn a_prefix_names_one_or_is_refused() {
        let store = Store::default();
        for id in ["aab", "aac", "aa"] {
            store.publish(Container { id: ContainerId::from_string(id.into()), ..container() });
        }
        assert_eq!(store.find("aab").unwrap().unwrap().id.as_str(), "aab");
        assert_eq!(store.find("aa").unwrap().unwrap().id.as_str(), "aa", "a whole id");
        assert!(matches!(store.find("a"), Err(ContainerError::AmbiguousId { count: 3, .. })));
        assert!(store.find("b").unwrap().is_none());
        assert!(store.find("").unwrap().is_none());
    }

    #[test]
    fn changes_follow_the_list_without_a_gap() {
        let store = Store::default();
        let first = container();
        store.publish(first.clone());
        let (listed, mut changes) = store.list_and_subscribe();
        assert_eq!(listed.len(), 1);
        store.remove(&first.id);
        store.remove(&first.id);
        assert!(matches!(changes.try_recv(), Ok(ContainerChange::Removed(id)) if id == first.id));
        assert!(changes.try_recv().is_err(), "one removal is one change");
    }
}
