//! Whose check it was: pods by the inodes of their namespaces, then by the pids known to the daemon.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::check::{Check, PodRef};
use crate::container::model::ContainerId;
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

/// What a container is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerKeys {
    pub id: ContainerId,
    pub pod: PodId,
    pub name: String,
    /// As [`PodKeys::created_at_ns`].
    pub created_at_ns: i64,
    /// Of its first process, in the host's pid namespace.
    pub pid: Option<i32>,
    /// Its mount namespace, which its children and what is executed in it share.
    pub mntns: Option<NsInode>,
}

/// A number for what is known, for as long as it is: cheaper to look up and to keep than an id.
pub(super) type Number = u64;

#[derive(Debug, Clone)]
struct KnownPod {
    number: Number,
    keys: Arc<PodKeys>,
    name: Arc<str>,
}

#[derive(Debug, Clone)]
struct KnownContainer {
    number: Number,
    keys: Arc<ContainerKeys>,
    name: Arc<str>,
}

#[derive(Debug, Default)]
struct Index {
    pods: HashMap<PodId, KnownPod>,
    /// Inodes of nsfs are unique across kinds.
    by_inode: HashMap<NsInode, KnownPod>,
    by_pid: HashMap<i32, KnownPod>,
    containers: HashMap<ContainerId, KnownContainer>,
    container_by_mntns: HashMap<NsInode, KnownContainer>,
    container_by_pid: HashMap<i32, KnownContainer>,
    last_number: Number,
}

impl Index {
    fn forget(&mut self, id: &PodId) {
        if self.pods.remove(id).is_some() {
            self.by_inode.retain(|_, pod| pod.keys.id != *id);
            self.by_pid.retain(|_, pod| pod.keys.id != *id);
        }
    }

    fn forget_container(&mut self, id: &ContainerId) {
        if let Some(known) = self.containers.remove(id) {
            let number = known.number;
            self.container_by_mntns.retain(|_, container| container.number != number);
            self.container_by_pid.retain(|_, container| container.number != number);
        }
    }

    fn next_number(&mut self) -> Number {
        self.last_number += 1;
        self.last_number
    }

    /// The container's mount namespace before its pid; then the parent's pid, for a child in a mount namespace of
    /// its own.
    fn container(&self, caller: &Caller) -> Option<&KnownContainer> {
        let pids = [Some(caller.pid), caller.ppid].into_iter().flatten();
        let by_mntns = caller.mntns.and_then(|inode| self.container_by_mntns.get(&inode));
        let found = by_mntns.or_else(|| pids.into_iter().find_map(|pid| self.container_by_pid.get(&pid)));
        found.filter(|known| caller.time_ns >= known.keys.created_at_ns)
    }

    /// The caller's namespaces first, the most telling ones before; then its pid; then its parent's, which finds
    /// the first process of a pod whose shim alone is known; then its container.
    fn pod(&self, caller: &Caller, container: Option<&KnownContainer>) -> Option<&KnownPod> {
        let inodes = [caller.userns, caller.netns, caller.pidns, caller.mntns];
        let by_inode = inodes.into_iter().flatten().find_map(|inode| self.by_inode.get(&inode));
        let pids = || [Some(caller.pid), caller.ppid].into_iter().flatten();
        let by_pid = || pids().find_map(|pid| self.by_pid.get(&pid));
        let by_container = || container.and_then(|known| self.pods.get(&known.keys.pod));
        let found = by_inode.or_else(by_pid).or_else(by_container);
        found.filter(|known| caller.time_ns >= known.keys.created_at_ns)
    }
}

/// What tells whose a check is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caller {
    pub time_ns: i64,
    pub pid: i32,
    pub ppid: Option<i32>,
    pub userns: Option<NsInode>,
    pub netns: Option<NsInode>,
    pub pidns: Option<NsInode>,
    pub mntns: Option<NsInode>,
}

impl Caller {
    pub fn of(check: &Check) -> Self {
        Self {
            time_ns: check.time_ns,
            pid: check.pid,
            ppid: check.ppid,
            userns: check.caller_userns,
            netns: check.net.inode,
            pidns: check.pidns.inode,
            mntns: check.mnt.inode,
        }
    }
}

/// Whose a check is, as numbers: found without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub pod: Number,
    pub container: Option<Number>,
}

/// The pods of this node as the observer knows them; shared between the flow, which tells, and the reader,
/// which asks.
#[derive(Debug, Default)]
pub struct Attribution(RwLock<Index>);

/// What is known, for some questions in a row.
pub(super) struct Known<'a>(RwLockReadGuard<'a, Index>);

impl Known<'_> {
    pub fn place(&self, caller: &Caller) -> Option<Place> {
        let container = self.0.container(caller);
        let pod = self.0.pod(caller, container)?;
        let container = container.filter(|known| known.keys.pod == pod.keys.id).map(|known| known.number);
        Some(Place { pod: pod.number, container })
    }

    pub fn pod(&self, caller: &Caller) -> Option<PodRef> {
        let container = self.0.container(caller);
        let known = self.0.pod(caller, container)?;
        let keys = &known.keys;
        let role = |pid: i32| keys.processes.iter().find(|p| p.pid == pid).map(|p| p.role.as_str());
        // A shim's own child is the infra container before the daemon has heard of its pid; from then on it may be
        // any container's, or an exec's.
        let is_known = keys.processes.iter().any(|p| p.role == "infra");
        let parent = || caller.ppid.and_then(role).filter(|_| !is_known);
        let child = || parent().filter(|parent| *parent == "shim").map(|_| "infra");
        let container = container.filter(|container| container.keys.pod == keys.id);
        Some(PodRef {
            id: keys.id.clone(),
            name: known.name.clone(),
            container: match container {
                Some(container) => container.name.clone(),
                None => role(caller.pid).or_else(child).unwrap_or_default().into(),
            },
            container_id: container.map(|container| container.keys.id.clone()),
        })
    }
}

impl Attribution {
    /// Adds a pod, or replaces what is known of it.
    pub fn upsert(&self, keys: PodKeys) {
        let mut index = self.write();
        let number = index.pods.get(&keys.id).map(|known| known.number);
        let number = number.unwrap_or_else(|| index.next_number());
        index.forget(&keys.id);
        let known = KnownPod { number, name: keys.name.as_str().into(), keys: Arc::new(keys) };
        for ns in known.keys.namespaces.iter().filter(|ns| !ns.host) {
            index.by_inode.insert(ns.inode, known.clone());
        }
        for process in &known.keys.processes {
            index.by_pid.insert(process.pid, known.clone());
        }
        index.pods.insert(known.keys.id.clone(), known);
    }

    /// Adds a container of a pod, or replaces what is known of it.
    pub fn upsert_container(&self, keys: ContainerKeys) {
        let mut index = self.write();
        let number = index.containers.get(&keys.id).map(|known| known.number);
        let number = number.unwrap_or_else(|| index.next_number());
        index.forget_container(&keys.id);
        let known = KnownContainer { number, name: keys.name.as_str().into(), keys: Arc::new(keys) };
        if let Some(mntns) = known.keys.mntns {
            index.container_by_mntns.insert(mntns, known.clone());
        }
        if let Some(pid) = known.keys.pid {
            index.container_by_pid.insert(pid, known.clone());
        }
        index.containers.insert(known.keys.id.clone(), known);
    }

    pub fn remove_container(&self, id: &ContainerId) {
        self.write().forget_container(id);
    }

    pub fn retain_containers(&self, there: impl Fn(&ContainerId) -> bool) {
        let mut index = self.write();
        let gone: Vec<_> = index.containers.keys().filter(|id| !there(id)).cloned().collect();
        for id in gone {
            index.forget_container(&id);
        }
    }

    /// What is known of a container.
    #[must_use]
    pub fn container(&self, id: &ContainerId) -> Option<Arc<ContainerKeys>> {
        self.read().containers.get(id).map(|known| known.keys.clone())
    }

    /// Whether the pod is there.
    #[must_use]
    pub fn knows(&self, id: &PodId) -> bool {
        self.read().pods.contains_key(id)
    }

    pub fn remove(&self, id: &PodId) {
        self.write().forget(id);
    }

    /// The pod that has this namespace of its own.
    #[must_use]
    pub fn pod_of_namespace(&self, inode: NsInode) -> Option<Arc<PodKeys>> {
        self.read().by_inode.get(&inode).map(|known| known.keys.clone())
    }

    /// The pod of which this is a known process.
    #[must_use]
    pub fn pod_of_process(&self, pid: i32) -> Option<Arc<PodKeys>> {
        self.read().by_pid.get(&pid).map(|known| known.keys.clone())
    }

    /// The pod and the container of a check.
    #[must_use]
    pub fn of_check(&self, check: &Check) -> Option<PodRef> {
        self.known().pod(&Caller::of(check))
    }

    /// For many questions under one lock: those who tell wait meanwhile.
    pub(super) fn known(&self) -> Known<'_> {
        Known(self.read())
    }

    // Only whole inserts and removals happen under the lock.
    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
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
        // Another child of the shim's, in namespaces of its own: an exec, and nobody knows whose.
        known.upsert(keys("new", &[], &[(41, "shim"), (7, "infra")]));
        let found = known.of_check(&check(&record())).unwrap();
        assert_eq!((&*found.name, &*found.container), ("default/new", ""));
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

    fn container(mntns: u64, pid: i32) -> ContainerKeys {
        ContainerKeys {
            id: ContainerId::from_string("c1".to_string()),
            pod: PodId::from_string("a".to_string()),
            name: "web".to_string(),
            created_at_ns: 0,
            pid: Some(pid),
            mntns: Some(NsInode(mntns)),
        }
    }

    #[test]
    fn a_container_is_its_mount_namespace_whoever_is_in_it() {
        let known = Attribution::default();
        known.upsert(keys("a", &[(NsKind::Net, 200, true)], &[]));
        assert_eq!(known.of_check(&check(&record())), None, "the pod has nothing of its own");
        known.upsert_container(container(300, 7));
        let found = known.of_check(&check(&record())).unwrap();
        assert_eq!((&*found.name, &*found.container), ("default/a", "web"));
        assert_eq!(found.container_id.unwrap().as_str(), "c1");
        known.remove_container(&ContainerId::from_string("c1".to_string()));
        assert_eq!(known.of_check(&check(&record())), None);
    }

    #[test]
    fn a_child_that_unshared_its_mounts_is_found_by_its_parent() {
        let known = Attribution::default();
        known.upsert(keys("a", &[(NsKind::User, 100, false)], &[]));
        known.upsert_container(container(999, 41));
        assert_eq!(&*known.of_check(&check(&record())).unwrap().container, "web");
    }

    #[test]
    fn numbers_stay_while_a_pod_is_known() {
        let known = Attribution::default();
        let place = || known.known().place(&Caller::of(&check(&record())));
        known.upsert(keys("a", &[(NsKind::User, 100, false)], &[]));
        let first = place().unwrap();
        known.upsert(keys("a", &[(NsKind::User, 100, false)], &[(7, "infra")]));
        assert_eq!(place(), Some(first));
        known.remove(&PodId::from_string("a".to_string()));
        known.upsert(keys("b", &[(NsKind::User, 100, false)], &[]));
        assert_ne!(place(), Some(first));
    }
}
