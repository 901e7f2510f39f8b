//! [`Container`] to the wire.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use sandboxd_api::cri;
use serde_json::{Value, json};

use super::translate::mapping;
use crate::container::exec::exit_code;
use crate::container::model::{Container, ContainerState};
use crate::container::signal;
use crate::container::spec::{ImageRef, Mount, MountSource, Propagation};
use crate::pod::model::PodId;
use crate::pod::spec::Resources;

pub fn state(state: ContainerState) -> cri::ContainerState {
    match state {
        ContainerState::Created => cri::ContainerState::ContainerCreated,
        ContainerState::Running => cri::ContainerState::ContainerRunning,
        ContainerState::Exited => cri::ContainerState::ContainerExited,
        ContainerState::Unknown => cri::ContainerState::ContainerUnknown,
    }
}

fn metadata(container: &Container) -> cri::ContainerMetadata {
    let metadata = &container.spec.metadata;
    cri::ContainerMetadata { name: metadata.name.clone(), attempt: metadata.attempt }
}

fn image(image: &ImageRef) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.image.clone(),
        annotations: image.annotations.clone().into_iter().collect(),
        user_specified_image: image.user_specified_image.clone(),
        runtime_handler: image.runtime_handler.clone(),
        ..cri::ImageSpec::default()
    }
}

/// The item of ListContainers and StreamContainers.
pub fn item(container: &Container) -> cri::Container {
    let spec = &container.spec;
    cri::Container {
        id: container.id.to_string(),
        pod_sandbox_id: container.pod.to_string(),
        metadata: Some(metadata(container)),
        image: Some(image(&spec.image)),
        image_ref: container.image_id.clone(),
        state: state(container.state).into(),
        created_at: container.created_at_ns,
        labels: spec.labels.clone().into_iter().collect(),
        annotations: spec.annotations.clone().into_iter().collect(),
        image_id: container.image_id.clone(),
    }
}

/// Kubelet asks by the image's id, and publishes what it is told as the image of the container.
fn image_name(container: &Container) -> String {
    let names = &container.image_names;
    names.tag.as_ref().or(names.digest.as_ref()).unwrap_or(&container.spec.image.image).clone()
}

/// The statuses of a pod's containers, the newest first: kubelet's evented PLEG takes the first of a name for the one
/// that counts.
pub fn statuses(containers: Vec<Arc<Container>>, pod: &PodId) -> Vec<cri::ContainerStatus> {
    let mut of_pod: Vec<_> = containers.into_iter().filter(|container| container.pod == *pod).collect();
    of_pod.sort_by_key(|container| {
        (Reverse(container.created_at_ns), Reverse(container.spec.metadata.attempt))
    });
    of_pod.iter().map(|container| status(container)).collect()
}

/// The status of ContainerStatus.
pub fn status(container: &Container) -> cri::ContainerStatus {
    let spec = &container.spec;
    let ended = container.ended.as_ref();
    let path = spec.log_path.as_ref();
    cri::ContainerStatus {
        id: container.id.to_string(),
        metadata: Some(metadata(container)),
        state: state(container.state).into(),
        created_at: container.created_at_ns,
        started_at: container.started_at_ns.unwrap_or(0),
        finished_at: ended.map_or(0, |ended| ended.at_ns),
        exit_code: ended.map_or(0, |ended| exit_code(ended.exit)),
        image: Some(cri::ImageSpec { image: image_name(container), ..image(&spec.image) }),
        // What kubelet publishes as the status' imageID: with the digest that a registry knows it by.
        image_ref: container.image_names.digest.clone().unwrap_or_else(|| container.image_id.clone()),
        reason: container.reason().to_owned(),
        message: ended.map(|ended| ended.message.clone()).unwrap_or_default(),
        labels: spec.labels.clone().into_iter().collect(),
        annotations: spec.annotations.clone().into_iter().collect(),
        mounts: spec.mounts.iter().map(mount).collect(),
        log_path: path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        resources: Some(cri::ContainerResources { linux: Some(resources(&spec.resources)), windows: None }),
        image_id: container.image_id.clone(),
        user: Some(cri::ContainerUser {
            linux: Some(cri::LinuxContainerUser {
                uid: container.ids.uid.into(),
                gid: container.ids.gid.into(),
                supplemental_groups: container.ids.groups.iter().copied().map(i64::from).collect(),
            }),
        }),
        stop_signal: stop_signal(container.stop_signal).into(),
    }
}

fn mount(mount: &Mount) -> cri::Mount {
    let (host_path, image, image_sub_path) = match &mount.source {
        MountSource::Host(path) => (path.to_string_lossy().into_owned(), None, String::new()),
        MountSource::Image { image: of, sub_path } => {
            let of = cri::ImageSpec { image_ref: of.image_id.clone(), ..image(of) };
            (String::new(), Some(of), sub_path.clone())
        }
    };
    let maps = mount.id_mappings.as_ref();
    cri::Mount {
        container_path: mount.container_path.clone(),
        host_path,
        readonly: mount.read_only,
        selinux_relabel: mount.selinux_relabel,
        propagation: match mount.propagation {
            Propagation::Private => cri::MountPropagation::PropagationPrivate,
            Propagation::HostToContainer => cri::MountPropagation::PropagationHostToContainer,
            Propagation::Bidirectional => cri::MountPropagation::PropagationBidirectional,
        }
        .into(),
        uid_mappings: maps.map(|maps| maps.uids.iter().map(mapping).collect()).unwrap_or_default(),
        gid_mappings: maps.map(|maps| maps.gids.iter().map(mapping).collect()).unwrap_or_default(),
        recursive_read_only: mount.recursive_read_only,
        image,
        image_sub_path,
        mount_options: mount.options.clone(),
    }
}

/// What was asked for and changed since; 0 and "" where nothing was.
fn resources(of: &Resources) -> cri::LinuxContainerResources {
    let signed = |value: Option<u64>| value.map_or(0, |value| i64::try_from(value).unwrap_or(i64::MAX));
    cri::LinuxContainerResources {
        cpu_period: signed(of.cpu_period),
        cpu_quota: of.cpu_quota.unwrap_or(0),
        cpu_shares: signed(of.cpu_shares),
        memory_limit_in_bytes: signed(of.memory_limit),
        oom_score_adj: of.oom_score_adj.unwrap_or(0).into(),
        cpuset_cpus: of.cpuset_cpus.clone().unwrap_or_default(),
        cpuset_mems: of.cpuset_mems.clone().unwrap_or_default(),
        hugepage_limits: of
            .hugepage_limits
            .iter()
            .map(|(size, limit)| cri::HugepageLimit { page_size: size.clone(), limit: *limit })
            .collect(),
        unified: of.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: of.memory_swap_limit.unwrap_or(0),
    }
}

/// The wire's name of a signal: the first one with that number.
fn stop_signal(number: i32) -> cri::Signal {
    let known = (1..=cri::Signal::Sigrtmax.into()).filter_map(|n: i32| cri::Signal::try_from(n).ok());
    let named = |signal: &cri::Signal| {
        signal::by_name(signal.as_str_name().trim_start_matches("SIGNAL_")) == Some(number)
    };
    known.into_iter().find(named).unwrap_or(cri::Signal::RuntimeDefault)
}

/// `info` of ContainerStatus: under "info", with the names that crictl and containerd's users know.
pub fn info(
    container: &Container,
    handler: Option<&str>,
    runtime_spec: Option<&Value>,
) -> HashMap<String, String> {
    let spec = &container.spec;
    let envs = spec.envs.iter().map(|(key, value)| json!({ "key": key, "value": value.text() }));
    let mounts = spec.mounts.iter().map(|mount| {
        let host_path = match &mount.source {
            MountSource::Host(path) => path.to_string_lossy().into_owned(),
            MountSource::Image { .. } => String::new(),
        };
        json!({ "container_path": mount.container_path, "host_path": host_path, "readonly": mount.read_only })
    });
    let value = json!({
        "sandboxID": container.pod.as_str(),
        "pid": container.pid,
        "removing": false,
        "snapshotKey": container.id.as_str(),
        "snapshotter": "overlay",
        "runtimeType": handler,
        "layers": container.layers,
        "cgroup": container.cgroup,
        "config": {
            "metadata": { "name": spec.metadata.name, "attempt": spec.metadata.attempt },
            "image": { "image": spec.image.image, "user_specified_image": spec.image.user_specified_image },
            "command": spec.command,
            "args": spec.args,
            "working_dir": spec.working_dir,
            "envs": envs.collect::<Vec<_>>(),
            "mounts": mounts.collect::<Vec<_>>(),
            "labels": spec.labels,
            "annotations": spec.annotations,
            "log_path": spec.log_path.as_deref().unwrap_or(Path::new("")),
            "tty": spec.tty,
            "stdin": spec.stdin,
            "stdin_once": spec.stdin_once,
            "linux": { "security_context": {
                "privileged": spec.security.privileged,
                "readonly_rootfs": spec.security.readonly_rootfs,
                "no_new_privs": spec.security.no_new_privs,
            } },
        },
        "runtimeSpec": runtime_spec,
    });
    HashMap::from([("info".to_owned(), value.to_string())])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_come_back_by_name() {
        assert_eq!(stop_signal(libc::SIGTERM), cri::Signal::Sigterm);
        assert_eq!(stop_signal(libc::SIGUSR2), cri::Signal::Sigusr2);
        assert_eq!(stop_signal(libc::SIGCHLD), cri::Signal::Sigchld);
        assert_eq!(stop_signal(37), cri::Signal::Sigrtminplus3);
    }
}
