//! A pod in the words of the console protocol.

use sandboxd_api::console as wire;

use crate::pod::model::{FlowKind, NamespaceInfo, NsInode, NsKind, Pod, PodState, Step, Sysfs};
use crate::pod::spec::IdMap;

/// The host's own namespaces, by which others are told from them.
#[derive(Debug, Clone, Copy, Default)]
pub struct HostNamespaces {
    pub user: NsInode,
    pub net: NsInode,
    pub mnt: NsInode,
    pub pid: NsInode,
}

/// The whole pod, as one message.
pub(super) fn pod(pod: &Pod, host: HostNamespaces, checks: wire::CheckCounts) -> wire::Pod {
    let metadata = &pod.spec.metadata;
    wire::Pod {
        id: pod.id.to_string(),
        name: metadata.name.clone(),
        namespace: metadata.namespace.clone(),
        uid: metadata.uid.clone(),
        attempt: metadata.attempt,
        state: state(pod.state).into(),
        handler: pod.spec.handler.clone(),
        flow: pod.flow.name().to_owned(),
        created_at_ns: pod.created_at_ns,
        hostname: pod.spec.hostname.clone(),
        labels: pod.spec.labels.clone().into_iter().collect(),
        ips: pod.ips.iter().map(ToString::to_string).collect(),
        netns_path: pod.netns_path.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        namespaces: pod.namespaces.iter().map(|n| namespace(pod, n, host)).collect(),
        uid_map: pod.spec.namespaces.user.iter().flat_map(|m| &m.uids).map(id_range).collect(),
        gid_map: pod.spec.namespaces.user.iter().flat_map(|m| &m.gids).map(id_range).collect(),
        sysfs: Some(sysfs(&pod.sysfs)),
        checks: Some(checks),
        processes: processes(pod),
        timeline: Some(timeline(pod.flow, &pod.steps)),
        cgroup: pod.cgroup.clone(),
        error: pod.error.clone().unwrap_or_default(),
        explanation: pod.explanation.clone().map(Into::into),
    }
}

fn state(state: PodState) -> wire::pod::State {
    match state {
        PodState::Creating => wire::pod::State::Creating,
        PodState::Ready => wire::pod::State::Ready,
        PodState::NotReady => wire::pod::State::NotReady,
        PodState::Stopping => wire::pod::State::Stopping,
        PodState::Failed => wire::pod::State::Failed,
    }
}

fn namespace(pod: &Pod, info: &NamespaceInfo, host: HostNamespaces) -> wire::Namespace {
    let own = pod.namespace(NsKind::User).filter(|n| !n.host).map(|n| n.inode);
    let owner = match info.owner {
        None => wire::namespace::Owner::Unspecified,
        Some(inode) if Some(inode) == own => wire::namespace::Owner::Pod,
        Some(inode) if inode == host.user => wire::namespace::Owner::Init,
        Some(_) => wire::namespace::Owner::Other,
    };
    // Only the netns decides over sysfs, and only a pod with a user namespace needs to own it.
    let wrong_owner = info.kind == NsKind::Net
        && !info.host
        && pod.spec.namespaces.user.is_some()
        && owner != wire::namespace::Owner::Pod;
    wire::Namespace {
        kind: info.kind.name().to_owned(),
        inode: info.inode.0,
        owner_inode: info.owner.map_or(0, |o| o.0),
        owner: owner.into(),
        host: info.host,
        pin: info.pin.as_ref().map(|p| p.display().to_string()).unwrap_or_default(),
        wrong_owner,
    }
}

fn id_range(map: &IdMap) -> wire::IdRange {
    wire::IdRange { container_id: map.container_id, host_id: map.host_id, length: map.length }
}

fn sysfs(sysfs: &Sysfs) -> wire::Sysfs {
    let (verdict, message) = match sysfs {
        Sysfs::Unknown => (wire::sysfs::Verdict::Unspecified, String::new()),
        Sysfs::Mounted => (wire::sysfs::Verdict::Mounted, String::new()),
        Sysfs::BindReadOnly => (wire::sysfs::Verdict::BindReadOnly, String::new()),
        Sysfs::Denied(why) => (wire::sysfs::Verdict::Denied, why.clone()),
    };
    wire::Sysfs { verdict: verdict.into(), message }
}

fn processes(pod: &Pod) -> Vec<wire::Process> {
    let process = |pid: Option<i32>, comm: &str, role: &str| {
        pid.map(|pid| wire::Process { pid, comm: comm.to_owned(), role: role.to_owned() })
    };
    [process(pod.shim_pid, "sandboxd-shim", "shim"), process(pod.infra_pid, "pause", "infra")]
        .into_iter()
        .flatten()
        .collect()
}

/// The steps of the flow. The total counts from the first step's start to the last one's end.
pub(super) fn timeline(flow: FlowKind, steps: &[Step]) -> wire::Timeline {
    let nanos = |d: std::time::Duration| u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
    let total_ns = steps.iter().map(|s| nanos(s.duration)).sum();
    let steps = steps
        .iter()
        .map(|step| wire::Step {
            name: step.name.name().to_owned(),
            started_at_ns: step.started_at_ns,
            duration_ns: nanos(step.duration),
            cni_ns: nanos(step.cni),
            detail: String::new(),
            error: step.error.clone().unwrap_or_default(),
        })
        .collect();
    wire::Timeline { flow: flow.name().to_owned(), steps, total_ns }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;

    fn with_netns_owner(owner: u64) -> wire::Pod {
        let mut pod_ = test_pod("web");
        for (kind, inode, owner) in [(NsKind::User, 7, 1), (NsKind::Net, 8, owner)] {
            let (inode, owner) = (NsInode(inode), Some(NsInode(owner)));
            pod_.namespaces.push(NamespaceInfo { kind, inode, owner, host: false, pin: None });
        }
        let host = HostNamespaces { user: NsInode(1), ..HostNamespaces::default() };
        pod(&pod_, host, wire::CheckCounts::default())
    }

    #[test]
    fn a_netns_of_the_pods_own_userns_is_right() {
        let pod = with_netns_owner(7);
        assert_eq!(pod.namespaces[1].owner(), wire::namespace::Owner::Pod);
        assert!(!pod.namespaces[1].wrong_owner);
        assert!(!pod.namespaces[0].wrong_owner, "the userns itself is init's, as it must be");
    }

    #[test]
    fn a_netns_of_another_owner_is_wrong() {
        let pod = with_netns_owner(1);
        assert_eq!(pod.namespaces[1].owner(), wire::namespace::Owner::Init);
        assert!(pod.namespaces[1].wrong_owner);
        assert_eq!(with_netns_owner(9).namespaces[1].owner(), wire::namespace::Owner::Other);
    }
}
