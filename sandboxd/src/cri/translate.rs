//! [`Pod`] to the wire.

use sandboxd_api::cri;

use crate::pod::model::{Pod, PodState};
use crate::pod::spec::{IdMap, IpcMode, Metadata, Namespaces, NetworkMode, PidMode};

/// Whether CRI shows a pod in this state: from RunPodSandbox's success to RemovePodSandbox.
pub fn shown(state: PodState) -> bool {
    match state {
        PodState::Ready | PodState::NotReady | PodState::Stopping => true,
        PodState::Creating | PodState::Failed => false,
    }
}

/// CRI knows two states. A pod that is being stopped takes no new containers: not ready.
pub fn state(state: PodState) -> cri::PodSandboxState {
    match state {
        PodState::Ready => cri::PodSandboxState::SandboxReady,
        PodState::Creating | PodState::NotReady | PodState::Stopping | PodState::Failed => {
            cri::PodSandboxState::SandboxNotready
        }
    }
}

fn metadata(m: &Metadata) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: m.name.clone(),
        uid: m.uid.clone(),
        namespace: m.namespace.clone(),
        attempt: m.attempt,
    }
}

/// The item of ListPodSandbox and StreamPodSandboxes.
pub fn item(pod: &Pod) -> cri::PodSandbox {
    cri::PodSandbox {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.spec.metadata)),
        state: state(pod.state).into(),
        created_at: pod.created_at_ns,
        labels: pod.spec.labels.clone().into_iter().collect(),
        annotations: pod.spec.annotations.clone().into_iter().collect(),
        runtime_handler: pod.spec.runtime_handler.clone(),
    }
}

/// The status of PodSandboxStatus.
pub fn status(pod: &Pod) -> cri::PodSandboxStatus {
    cri::PodSandboxStatus {
        id: pod.id.to_string(),
        metadata: Some(metadata(&pod.spec.metadata)),
        state: state(pod.state).into(),
        created_at: pod.created_at_ns,
        network: Some(network(pod)),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace { options: Some(namespace_options(&pod.spec.namespaces)) }),
        }),
        labels: pod.spec.labels.clone().into_iter().collect(),
        annotations: pod.spec.annotations.clone().into_iter().collect(),
        runtime_handler: pod.spec.runtime_handler.clone(),
    }
}

/// A pod on the node's network has no address of its own: kubelet puts the node's in.
fn network(pod: &Pod) -> cri::PodSandboxNetworkStatus {
    let mut ips = match pod.spec.namespaces.network {
        NetworkMode::Pod => pod.ips.as_slice(),
        NetworkMode::Node => &[],
    }
    .iter()
    .map(ToString::to_string);
    cri::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| cri::PodIp { ip }).collect(),
    }
}

fn namespace_options(n: &Namespaces) -> cri::NamespaceOption {
    use cri::NamespaceMode::{Container, Node, Pod};
    let userns = match &n.user {
        Some(user) => cri::UserNamespace {
            mode: Pod.into(),
            uids: user.uids.iter().map(mapping).collect(),
            gids: user.gids.iter().map(mapping).collect(),
        },
        None => cri::UserNamespace { mode: Node.into(), uids: Vec::new(), gids: Vec::new() },
    };
    cri::NamespaceOption {
        network: match n.network {
            NetworkMode::Pod => Pod,
            NetworkMode::Node => Node,
        }
        .into(),
        pid: match n.pid {
            PidMode::Pod => Pod,
            PidMode::Container => Container,
            PidMode::Node => Node,
        }
        .into(),
        ipc: match n.ipc {
            IpcMode::Pod => Pod,
            IpcMode::Node => Node,
        }
        .into(),
        target_id: String::new(),
        userns_options: Some(userns),
    }
}

pub(super) fn mapping(m: &IdMap) -> cri::IdMapping {
    cri::IdMapping { host_id: m.host_id, container_id: m.container_id, length: m.length }
}
