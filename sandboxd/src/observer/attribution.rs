//! Whose check it was: pods by the inodes of their namespaces, then by the pids known to the daemon.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::check::{Check, PodRef};
use crate::pod::model::{FlowKind, NamespaceInfo, NsInode, NsKind, Pod, PodId};

/// A process of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessKey {
    /// In the host's pid namespace.
    pub pid: i32,
    /// "shim", "infra", or a container's name.
    pub role: String,
}

/// Who made a pod's network namespace, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetnsMade {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// "sandboxd, before the pod's user namespace (flow network-first)".
    pub by: String,
}

/// What a pod is known by. Partial keys are welcome: a pod that is being made is known by its shim's pid
/// before it has a namespace, and by the network namespace made for it before it has a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodKeys {
    pub id: PodId,
    /// "namespace/name".
    pub name: String,
    pub flow: FlowKind,
    /// When its making began, nanoseconds since the Unix epoch. Earlier checks are not its own: the kernel
    /// gives the inode of a namespace, like a pid, to a later one again.
    pub created_at_ns: i64,
    /// Those shared with the host are not keys.
    pub namespaces: Vec<NamespaceInfo>,
    pub processes: Vec<ProcessKey>,
    pub netns_made: Option<NetnsMade>,
}

impl PodKeys {
    /// The keys in a pod's record. Only pods of their own: a host-network pod has no netns key.
    #[must_use]
    pub fn of(pod: &Pod) -> Self {
        let process =
            |pid: Option<i32>, role: &str| pid.map(|pid| ProcessKey { pid, role: role.to_string() });
        let metadata = &pod.spec.metadata;
        let own_netns = pod.namespace(NsKind::Net).is_some_and(|ns| !ns.host);
        let by = match pod.flow {
            FlowKind::RuntimeFirst => "sandboxd's runtime, together with the pod's user namespace",
            FlowKind::NetworkFirst => "sandboxd, before the pod's user namespace (flow network-first)",
        };
        Self {
            id: pod.id.clone(),
            name: format!("{}/{}", metadata.namespace, metadata.name),
            flow: pod.flow,
            created_at_ns: pod.created_at_ns,
            namespaces: pod.namespaces.clone(),
            processes: [process(pod.shim_pid, "shim"), process(pod.infra_pid, "infra")]
                .into_iter()
                .flatten()
                .collect(),
            netns_made: own_netns.then(|| NetnsMade { at_ns: pod.created_at_ns, by: by.to_string() }),
        }
    }

    /// The inode of the pod's own namespace of a kind.
    #[must_use]
    pub fn own(&self, kind: NsKind) -> Option<NsInode> {
        self.namespaces.iter().find(|ns| ns.kind == kind && !ns.host).map(|ns| ns.inode)
    }
}

#[derive(Debug, Default)]
struct Index {
    pods: HashMap<PodId, Arc<PodKeys>>,
    /// Inodes of nsfs are unique across kinds.
    by_inode: HashMap<NsInode, Arc<PodKeys>>,
    by_pid: HashMap<i32, Arc<PodKeys>>,
}

impl Index {
    fn forget(&mut self, id: &PodId) {
        if self.pods.remove(id).is_some() {
            self.by_inode.retain(|_, pod| pod.id != *id);
            self.by_pid.retain(|_, pod| pod.id != *id);
        }
    }
}

/// The pods of this node as the observer knows them; shared between the flow, which tells, and the reader,
/// which asks.
#[derive(Debug, Default)]
pub struct Attribution(RwLock<Index>);

impl Attribution {
    /// Adds a pod, or replaces what is known of it.
    pub fn upsert(&self, keys: PodKeys) {
        let keys = Arc::new(keys);
        let mut index = self.0.write().unwrap_or_else(PoisonError::into_inner);
        index.forget(&keys.id);
        for ns in keys.namespaces.iter().filter(|ns| !ns.host) {
            index.by_inode.insert(ns.inode, keys.clone());
        }
        for process in &keys.processes {
            index.by_pid.insert(process.pid, keys.clone());
        }
        index.pods.insert(keys.id.clone(), keys);
    }

    /// Whether the pod is there.
    #[must_use]
    pub fn knows(&self, id: &PodId) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).pods.contains_key(id)
    }

    pub fn remove(&self, id: &PodId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget(id);
    }

    /// The pod that has this namespace of its own.
    #[must_use]
    pub fn pod_of_namespace(&self, inode: NsInode) -> Option<Arc<PodKeys>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_inode.get(&inode).cloned()
    }

    /// The pod of which this is a known process.
    #[must_use]
    pub fn pod_of_process(&self, pid: i32) -> Option<Arc<PodKeys>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).by_pid.get(&pid).cloned()
    }

    /// The pod of a check: the caller's namespaces first, the most telling ones before; then its pid; then
    /// its parent's, which finds the first process of a pod whose shim alone is known.
    #[must_use]
    pub fn of_check(&self, check: &Check) -> Option<PodRef> {
        let index = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let inodes = [check.caller_userns, check.net.inode, check.pidns.inode, check.mnt.inode];
        let by_inode = inodes.into_iter().flatten().find_map(|inode| index.by_inode.get(&inode));
        let by_pid =
            || [Some(check.pid), check.ppid].into_iter().flatten().find_map(|pid| index.by_pid.get(&pid));
        let keys = by_inode.or_else(by_pid).filter(|keys| check.time_ns >= keys.created_at_ns)?;
        let role = |pid: i32| keys.processes.iter().find(|p| p.pid == pid).map(|p| p.role.as_str());
        // A shim's own child is the infra container before the daemon has heard of its pid.
        let child = || check.ppid.and_then(role).filter(|parent| *parent == "shim").map(|_| "infra");
        let role = role(check.pid).or_else(child);
        Some(PodRef {
            id: keys.id.clone(),
            name: keys.name.as_str().into(),
            container: role.unwrap_or_default().into(),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::check::tests::{check, record};
    use super::*;

    pub fn keys(id: &str, namespaces: &[(NsKind, u64, bool)], pids: &[(i32, &str)]) -> PodKeys {
        PodKeys {
            id: PodId::from_string(id.to_string()),
            name: format!("default/{id}"),
            flow: FlowKind::RuntimeFirst,
            created_at_ns: 0,
            namespaces: namespaces
                .iter()
                .map(|&(kind, inode, host)| NamespaceInfo {
                    kind,
                    inode: NsInode(inode),
                    owner: None,
                    host,
                    pin: None,
                })
                .collect(),
            processes: pids.iter().map(|&(pid, role)| ProcessKey { pid, role: role.to_string() }).collect(),
            netns_made: None,
        }
    }

    #[test]
    fn namespaces_come_before_pids() {
        let known = Attribution::default();
        known.upsert(keys("by-pid", &[], &[(42, "infra")]));
        assert_eq!(&*known.of_check(&check(&record())).unwrap().name, "default/by-pid");
        known.upsert(keys("by-netns", &[(NsKind::Net, 200, false)], &[]));
        assert_eq!(&*known.of_check(&check(&record())).unwrap().name, "default/by-netns");
    }

    #[test]
    fn the_parents_pid_finds_a_pod_being_made() {
        let known = Attribution::default();
        known.upsert(keys("new", &[], &[(41, "shim")]));
        let found = known.of_check(&check(&record())).unwrap();
        assert_eq!((&*found.name, &*found.container), ("default/new", "infra"));
    }

    #[test]
    fn the_hosts_namespaces_are_nobodys() {
        let known = Attribution::default();
        known.upsert(keys("host-network", &[(NsKind::Net, 200, true)], &[]));
        assert_eq!(known.of_check(&check(&record())), None);
    }

    #[test]
    fn what_is_replaced_or_removed_is_forgotten() {
        let known = Attribution::default();
        known.upsert(keys("a", &[(NsKind::Net, 200, false)], &[(42, "infra")]));
        known.upsert(keys("a", &[(NsKind::Net, 201, false)], &[]));
        assert_eq!(known.of_check(&check(&record())), None);
        assert!(known.pod_of_namespace(NsInode(201)).is_some());
        known.remove(&PodId::from_string("a".to_string()));
        assert_eq!(known.pod_of_namespace(NsInode(201)), None);
    }

    #[test]
    fn what_was_before_a_pod_is_not_its_own() {
        let known = Attribution::default();
        let keys = keys("a", &[(NsKind::User, 100, false)], &[]);
        known.upsert(PodKeys { created_at_ns: 1_001, ..keys.clone() });
        assert_eq!(known.of_check(&check(&record())), None, "its inode was another's at 1,000");
        known.upsert(PodKeys { created_at_ns: 1_000, ..keys });
        assert!(known.of_check(&check(&record())).is_some());
    }

    #[test]
    fn the_container_is_the_pids_role() {
        let known = Attribution::default();
        known.upsert(keys("a", &[(NsKind::User, 100, false)], &[(42, "web")]));
        assert_eq!(&*known.of_check(&check(&record())).unwrap().container, "web");
    }
}
