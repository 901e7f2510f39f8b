//! An application container of a pod as an OCI runtime spec.
//!
//! Namespaces without a path are new ones; network, ipc, uts and user are the pod's. Mounts whose source is no
//! path ([`POD_SHM`](super::POD_SHM), an image) are those that the runtime has, or is handed.

use std::collections::HashMap;
use std::path::PathBuf;

use oci_spec::runtime::{
    Linux, LinuxCpu, LinuxHugepageLimit, LinuxMemory, LinuxNamespace, LinuxNamespaceType, LinuxResources,
    LinuxSeccomp, Process, Root, Spec,
};
use sandboxd_image::Image;

use super::super::{RuntimeError, capabilities, seccomp};
use super::devices::{self, HostDevices};
use super::mappings;
use super::mounts::{self, Origin};
use super::process::{self, User};
use crate::container::cdi::Edits;
use crate::container::model::ContainerId;
use crate::container::spec::{ContainerSpec, PidMode};
use crate::pod::model::Pod;
use crate::pod::spec::{Resources, Seccomp};

/// What a container's spec is made of.
#[derive(Debug, Clone, Copy)]
pub struct ContainerInput<'a> {
    pub id: &'a ContainerId,
    pub pod: &'a Pod,
    pub spec: &'a ContainerSpec,
    pub image: &'a Image,
    pub user: &'a User,
    /// The name in the pod's UTS namespace.
    pub hostname: &'a str,
    /// Where a container finds the pod's files, and where they are.
    pub files: &'a [(&'static str, PathBuf)],
    /// The image's volumes: where, and their directories on the host.
    pub volumes: &'a [(String, PathBuf)],
    /// Where the container's cgroup is, under each hierarchy.
    pub cgroup: &'a str,
    pub cdi: &'a Edits,
}

/// A container's spec, whose each mount is, and what is not as asked for.
#[derive(Debug)]
pub struct Made {
    pub spec: Spec,
    /// One for each of `spec.mounts`.
    pub origins: Vec<Origin>,
    pub warnings: Vec<String>,
}

/// The spec of an application container.
///
/// # Errors
/// [`RuntimeError::Unsupported`] for what cannot be made, [`RuntimeError::Io`] where the node cannot be looked at.
pub fn container(input: &ContainerInput<'_>) -> Result<Made, RuntimeError> {
    let mut warnings = Vec::new();
    let process = process::process(input, &mut warnings)?;
    let (mounts, origins) = mounts::mounts(input).into_iter().unzip();
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(input.spec.security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_mounts(Some(mounts))
        .set_linux(Some(linux(input, &process)?))
        .set_process(Some(process))
        // The pod's UTS namespace has it.
        .set_hostname(None)
        .set_hooks(None)
        .set_annotations(Some(annotations(input)));
    Ok(Made { spec, origins, warnings })
}

fn linux(input: &ContainerInput<'_>, process: &Process) -> Result<Linux, RuntimeError> {
    let security = &input.spec.security;
    let userns = input.pod.spec.namespaces.user.as_ref();
    let mut devices = HostDevices::default();
    // The host's own devices are out of reach of the privileges over a pod's user namespace.
    if security.privileged && userns.is_none() {
        devices.0.extend(HostDevices::all()?.0);
    }
    devices.0.extend(HostDevices::of_request(&input.spec.devices, userns)?.0);
    devices.0.extend(input.cdi.devices.0.iter().cloned());
    let paths = |paths: &[String]| Some(if security.privileged { Vec::new() } else { paths.to_vec() });
    let mut resources = resources(&input.spec.resources);
    resources.set_devices(Some(devices::rules(&devices, security.privileged)));
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(input)))
        .set_uid_mappings(userns.map(|maps| mappings(&maps.uids)).transpose()?)
        .set_gid_mappings(userns.map(|maps| mappings(&maps.gids)).transpose()?)
        .set_sysctl(None)
        .set_resources(Some(resources))
        .set_cgroups_path((!input.cgroup.is_empty()).then(|| input.cgroup.into()))
        .set_devices(Some(devices::unique(&devices)))
        .set_masked_paths(paths(&security.masked_paths))
        .set_readonly_paths(paths(&security.readonly_paths))
        .set_rootfs_propagation(mounts::rootfs_propagation(&input.spec.mounts))
        .set_seccomp(filter(input, process)?);
    Ok(linux)
}

/// A privileged container has none.
fn filter(input: &ContainerInput<'_>, process: &Process) -> Result<Option<LinuxSeccomp>, RuntimeError> {
    Ok(match &input.spec.security.seccomp {
        _ if input.spec.security.privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => {
            let bounding = process.capabilities().as_ref().and_then(|sets| sets.bounding().as_ref());
            Some(seccomp::default::profile_for(bounding.map_or(0, capabilities::bits)))
        }
        Seccomp::Localhost(path) => Some(seccomp::load(path).map_err(seccomp::SeccompError::unsupported)?),
    })
}

fn namespaces(input: &ContainerInput<'_>) -> Vec<LinuxNamespace> {
    let security = &input.spec.security;
    // A privileged container sees the node's cgroups, unless a user namespace keeps it from them anyway.
    let cgroup = !security.privileged || input.pod.spec.namespaces.user.is_some();
    [
        (LinuxNamespaceType::Mount, true),
        (LinuxNamespaceType::Pid, security.pid == PidMode::Container),
        (LinuxNamespaceType::Cgroup, cgroup),
    ]
    .into_iter()
    .filter(|(_, new)| *new)
    .map(|(typ, _)| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(None);
        namespace
    })
    .collect()
}

/// Limits, for runtimes that make cgroups themselves.
fn resources(asked: &Resources) -> LinuxResources {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(asked.cpu_shares)
        .set_quota(asked.cpu_quota)
        .set_period(asked.cpu_period)
        .set_cpus(asked.cpuset_cpus.clone())
        .set_mems(asked.cpuset_mems.clone());
    let mut memory = LinuxMemory::default();
    memory.set_limit(asked.memory_limit.map(signed)).set_swap(asked.memory_swap_limit);
    let pages = asked.hugepage_limits.iter().map(|(size, limit)| {
        let mut page = LinuxHugepageLimit::default();
        page.set_page_size(size.clone()).set_limit(signed(*limit));
        page
    });
    let unified: HashMap<_, _> = asked.unified.clone().into_iter().collect();
    let mut resources = LinuxResources::default();
    resources
        .set_cpu(Some(cpu))
        .set_memory(Some(memory))
        .set_hugepage_limits(Some(pages.collect()))
        .set_unified((!unified.is_empty()).then_some(unified));
    resources
}

/// Those of containerd, which hooks and plugins look for.
fn annotations(input: &ContainerInput<'_>) -> HashMap<String, String> {
    let pod = &input.pod.spec.metadata;
    let named = &input.spec.image;
    let image =
        if named.user_specified_image.is_empty() { &named.image } else { &named.user_specified_image };
    [
        ("container-type", "container"),
        ("sandbox-id", input.pod.id.as_str()),
        ("sandbox-name", pod.name.as_str()),
        ("sandbox-namespace", pod.namespace.as_str()),
        ("sandbox-uid", pod.uid.as_str()),
        ("container-name", input.spec.metadata.name.as_str()),
        ("image-name", image.as_str()),
    ]
    .into_iter()
    .map(|(key, value)| (format!("io.kubernetes.cri.{key}"), value.to_owned()))
    .collect()
}

#[cfg(test)]
#[path = "container_tests.rs"]
pub(crate) mod tests;
