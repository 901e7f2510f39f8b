//! Tells of leaked namespaces as events, each once.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Sources;
use super::events::{Events, Happened, Kind, Named, Severity};
use crate::observer::inventory::{Found, Inventory};
use crate::pod::model::NsInode;

/// The first look: what an earlier daemon left is undone by then.
const FIRST: Duration = Duration::from_secs(30);
/// A look costs some tens of milliseconds, and nothing hurries.
const EVERY: Duration = Duration::from_secs(300);

/// Which leaks were told of.
#[derive(Debug, Default)]
pub struct Leaks(Mutex<HashSet<NsInode>>);

impl Leaks {
    /// Tells of those that are new. One that ended is forgotten: its number may be another's later.
    pub(super) fn note(&self, inventory: &Inventory, events: &Events) {
        let leaked: Vec<&Found> = inventory.leaked().collect();
        let now = leaked.iter().map(|found| found.inode).collect();
        let before = {
            let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *told, now)
        };
        for found in leaked.into_iter().filter(|found| !before.contains(&found.inode)) {
            events.tell(Happened {
                kind: Kind::NamespaceLeaked,
                severity: Severity::Warning,
                pod: found
                    .pod_id
                    .as_ref()
                    .map(|id| Named { id: id.to_string(), name: found.pod_name.clone() }),
                container: None,
                message: format!("{} namespace {}: {}", found.kind.name(), found.inode, found.message),
            });
        }
    }
}

/// Looks from time to time, for as long as it is polled.
pub async fn watch(sources: Arc<Sources>) {
    tokio::time::sleep(FIRST).await;
    loop {
        let sources = Arc::clone(&sources);
        // Reading notes what is leaked.
        let read = tokio::task::spawn_blocking(move || drop(super::namespaces::read(&sources)));
        if let Err(error) = read.await {
            tracing::warn!(%error, "looking for leaked namespaces did not end");
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::events::EventFilter;
    use crate::observer::inventory::State;
    use crate::pod::model::NsKind;

    fn inventory(leaked: &[u64]) -> Inventory {
        let found = |inode: &u64| Found {
            kind: NsKind::Net,
            inode: NsInode(*inode),
            owner: None,
            owner_uid: None,
            uid_map: Vec::new(),
            state: State::Leaked,
            process_count: 0,
            processes: Vec::new(),
            hold_count: 0,
            holds: Vec::new(),
            pod_id: None,
            pod_name: String::new(),
            wrong_owner: false,
            host: false,
            message: "No process is in it.".to_owned(),
        };
        Inventory {
            namespaces: leaked.iter().map(found).collect(),
            missing: Vec::new(),
            read_at_ns: 0,
            took: Duration::ZERO,
        }
    }

    #[test]
    fn each_leak_is_told_of_once_and_again_when_it_comes_back() {
        let (leaks, events) = (Leaks::default(), Events::default());
        for leaked in [&[7, 8][..], &[7, 8, 9], &[7], &[7, 9]] {
            leaks.note(&inventory(leaked), &events);
        }
        let all = EventFilter { limit: 100, ..EventFilter::default() };
        let told: Vec<_> = events.list(&all).0.into_iter().map(|event| (event.kind, event.message)).collect();
        let inodes: Vec<_> =
            told.iter().filter_map(|(_, message)| message.split([' ', ':']).nth(2)).collect();
        assert_eq!(inodes, ["7", "8", "9", "9"]);
        assert!(told.iter().all(|(kind, _)| kind == "namespace-leaked"), "{told:?}");
    }
}
