//! Answers that are not in the stream: namespaces of the node, capabilities, usage.

use sandboxd_api::console::{
    CapabilityUse, ContainerCapabilities, GetUsageResponse, HostNamespace, ListCapabilitiesResponse,
    ListNamespacesResponse, Snapshot, Usage, host_namespace,
};

use crate::world;

pub(crate) fn namespaces(snapshot: &Snapshot) -> ListNamespacesResponse {
    let of = |pod: &sandboxd_api::console::Pod| {
        let name = format!("{}/{}", pod.namespace, pod.name);
        let id = pod.id.clone();
        let one = move |space: &sandboxd_api::console::Namespace| HostNamespace {
            kind: space.kind.clone(),
            inode: space.inode,
            owner_inode: space.owner_inode,
            state: host_namespace::State::InUse.into(),
            process_count: 2,
            pod_id: id.clone(),
            pod_name: name.clone(),
            wrong_owner: space.wrong_owner,
            ..HostNamespace::default()
        };
        pod.namespaces.iter().map(one).collect::<Vec<_>>()
    };
    ListNamespacesResponse {
        namespaces: snapshot.pods.iter().flat_map(of).collect(),
        read_at_ns: world::now_ns(),
        took_ns: 1_000_000,
        degradations: Vec::new(),
    }
}

pub(crate) fn capabilities(snapshot: &Snapshot, pod: &str) -> ListCapabilitiesResponse {
    let of = |pod: &sandboxd_api::console::Pod| ContainerCapabilities {
        pod_id: pod.id.clone(),
        pod_name: format!("{}/{}", pod.namespace, pod.name),
        container: "main".into(),
        userns: true,
        capabilities: vec![CapabilityUse {
            capability: 21,
            name: "CAP_SYS_ADMIN".into(),
            denied: 3,
            ..CapabilityUse::default()
        }],
        ..ContainerCapabilities::default()
    };
    let pods = snapshot.pods.iter().filter(|one| one.id.starts_with(pod));
    ListCapabilitiesResponse { containers: pods.map(of).collect(), ..Default::default() }
}

pub(crate) fn usage(snapshot: &Snapshot, pod: &str) -> GetUsageResponse {
    let time_ns = world::now_ns();
    // Half a core each, so that what a console makes of two answers can be told.
    let cpu_ns = u64::try_from(time_ns).unwrap_or(0) / 2;
    let one =
        |id: &str| Usage { id: id.to_owned(), cpu_ns, memory_bytes: 12 << 20, pids: 3, ..Usage::default() };
    let pods = snapshot.pods.iter().filter(|one| one.id.starts_with(pod));
    let containers = snapshot.containers.iter().filter(|one| one.pod_id.starts_with(pod));
    GetUsageResponse {
        time_ns,
        pods: pods.map(|pod| one(&pod.id)).collect(),
        containers: containers.map(|container| one(&container.id)).collect(),
    }
}
