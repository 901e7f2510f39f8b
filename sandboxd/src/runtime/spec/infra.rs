//! The infra container of a pod as an OCI runtime spec: what any runtime would be given.
//!
//! Everything a [`PodSpec`](crate::pod::spec::PodSpec) asks of the infra container is decided here; the native
//! runtime's plan only carries it over. Paths and mounts are containerd's defaults.

use std::collections::HashMap;
use std::os::fd::AsRawFd;

use oci_spec::runtime::{
    Linux, LinuxCapabilities, LinuxNamespace, LinuxNamespaceType, Mount, PosixRlimitBuilder, PosixRlimitType,
    Process, Root, Spec, User,
};

use super::super::{InfraPlan, NetworkPlan, RuntimeError, capabilities, seccomp, sysctl};
use super::{invalid, mappings, mount};
use crate::pod::spec::{IpcMode, PidMode, PodSpec, Seccomp};

/// Where the pause lies in the infra container.
const PAUSE: &str = "/pause";
/// What keeps the infra container alive longest under memory pressure (containerd's value).
const OOM_SCORE_ADJ: i32 = -998;
/// Open files, soft and hard: the pause opens none.
const OPEN_FILES: u64 = 1024;

const MASKED: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The spec of a pod's infra container.
///
/// # Errors
/// [`RuntimeError::Unsupported`] for a combination that cannot be made, [`RuntimeError::Io`] where the daemon
/// cannot look at itself.
pub fn infra(plan: &InfraPlan) -> Result<Spec, RuntimeError> {
    let pod = &plan.spec;
    let host_network = matches!(plan.network, NetworkPlan::Host);
    sysctl::check(&pod.sysctls, host_network, pod.namespaces.ipc == IpcMode::Node)?;
    let mut root = Root::default();
    root.set_path("rootfs".into()).set_readonly(Some(pod.security.readonly_rootfs));
    let mut spec = Spec::default();
    spec.set_root(Some(root))
        .set_mounts(Some(mounts(plan)))
        .set_process(Some(process(pod)?))
        .set_hostname((!host_network).then(|| plan.hostname.clone()))
        .set_hooks(None)
        .set_linux(Some(linux(plan)?));
    Ok(spec)
}

/// The host's /sys bound, instead of a sysfs of the pod's own network namespace.
#[must_use]
pub fn binds_sysfs(plan: &InfraPlan) -> bool {
    matches!(plan.network, NetworkPlan::Host)
}

fn process(pod: &PodSpec) -> Result<Process, RuntimeError> {
    let security = &pod.security;
    let (uid, gid) = (security.run_as_user.unwrap_or(0), security.run_as_group.unwrap_or(0));
    if let Some(maps) = &pod.namespaces.user {
        let gids = security.supplemental_groups.iter().copied().chain([gid]);
        let unmapped = maps.host_uid(uid).is_none().then(|| format!("run_as_user {uid}"));
        let unmapped = unmapped.or_else(|| {
            gids.into_iter().find(|gid| maps.host_gid(*gid).is_none()).map(|gid| format!("group {gid}"))
        });
        if let Some(id) = unmapped {
            let what =
                format!("{id} is not mapped in the pod's user namespace: choose an id within its mappings");
            return Err(RuntimeError::Unsupported { what });
        }
    }
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids(Some(security.supplemental_groups.clone()));
    let bounding = if security.privileged {
        capabilities::own().map_err(|source| RuntimeError::Io {
            action: "reading the daemon's own capabilities".into(),
            source,
        })?
    } else {
        capabilities::DEFAULT.into_iter().collect()
    };
    let held = if uid == 0 { bounding.clone() } else { capabilities::from_bits(0) };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(bounding))
        .set_permitted(Some(held.clone()))
        .set_effective(Some(held))
        .set_inheritable(None)
        .set_ambient(None);
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES)
        .hard(OPEN_FILES)
        .build()
        .map_err(invalid)?;
    let mut process = Process::default();
    process
        .set_user(user)
        .set_args(Some(vec![PAUSE.into()]))
        .set_env(Some(Vec::new()))
        .set_cwd("/".into())
        .set_capabilities(Some(sets))
        .set_rlimits(Some(vec![files]))
        .set_no_new_privileges(Some(!security.privileged))
        .set_oom_score_adj(Some(pod.resources.oom_score_adj.unwrap_or(OOM_SCORE_ADJ)));
    Ok(process)
}

fn linux(plan: &InfraPlan) -> Result<Linux, RuntimeError> {
    let pod = &plan.spec;
    let privileged = pod.security.privileged;
    let paths =
        |paths: &[&str]| Some(paths.iter().filter(|_| !privileged).map(|p| (*p).to_owned()).collect());
    let profile = match &pod.security.seccomp {
        _ if privileged => None,
        Seccomp::Unconfined => None,
        Seccomp::RuntimeDefault => Some(seccomp::default::profile()),
        Seccomp::Localhost(path) => Some(seccomp::load(path).map_err(seccomp::SeccompError::unsupported)?),
    };
    let maps = pod.namespaces.user.as_ref();
    let mut linux = Linux::default();
    linux
        .set_namespaces(Some(namespaces(plan)))
        .set_uid_mappings(maps.map(|maps| mappings(&maps.uids)).transpose()?)
        .set_gid_mappings(maps.map(|maps| mappings(&maps.gids)).transpose()?)
        .set_sysctl(Some(pod.sysctls.clone().into_iter().collect::<HashMap<_, _>>()))
        .set_masked_paths(paths(&MASKED))
        .set_readonly_paths(paths(&READ_ONLY))
        .set_seccomp(profile)
        // The pod's cgroup is the flow's.
        .set_resources(None);
    Ok(linux)
}

fn namespaces(plan: &InfraPlan) -> Vec<LinuxNamespace> {
    let wanted = &plan.spec.namespaces;
    let host_network = matches!(plan.network, NetworkPlan::Host);
    [
        (LinuxNamespaceType::User, wanted.user.is_some()),
        (LinuxNamespaceType::Mount, true),
        (LinuxNamespaceType::Network, !host_network),
        // As everywhere in Kubernetes, the node's network comes with the node's name.
        (LinuxNamespaceType::Uts, !host_network),
        (LinuxNamespaceType::Ipc, wanted.ipc == IpcMode::Pod),
        (LinuxNamespaceType::Pid, wanted.pid != PidMode::Node),
        (LinuxNamespaceType::Cgroup, true),
    ]
    .into_iter()
    .filter(|(_, new)| *new)
    .map(|(typ, _)| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ).set_path(None);
        if let (LinuxNamespaceType::Network, NetworkPlan::Join(netns)) = (typ, &plan.network) {
            namespace.set_path(Some(format!("/proc/self/fd/{}", netns.as_raw_fd()).into()));
        }
        namespace
    })
    .collect()
}

fn mounts(plan: &InfraPlan) -> Vec<Mount> {
    let pod = &plan.spec;
    let host_pid = pod.namespaces.pid == PidMode::Node;
    let host_ipc = pod.namespaces.ipc == IpcMode::Node;
    let privileged = pod.security.privileged;
    let terminals = match &pod.namespaces.user {
        Some(maps) if maps.host_gid(5).is_none() => "",
        _ => "gid=5 ",
    };
    vec![
        if host_pid {
            // A proc of the host's pid namespace cannot be mounted from inside a user namespace; and one way
            // for both is one way to get wrong.
            mount("/proc", "bind", "/proc", "bind nosuid noexec nodev")
        } else {
            mount("/proc", "proc", "proc", "nosuid noexec nodev")
        },
        match (binds_sysfs(plan), privileged) {
            (true, true) => mount("/sys", "bind", "/sys", "rbind nosuid noexec nodev"),
            (true, false) => mount("/sys", "bind", "/sys", "rbind rro nosuid noexec nodev"),
            (false, true) => mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev"),
            (false, false) => mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
        },
        mount("/dev", "tmpfs", "tmpfs", "nosuid noexec mode=755 size=64k"),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &format!("nosuid noexec newinstance {terminals}ptmxmode=0666 mode=0620"),
        ),
        if host_ipc {
            mount("/dev/shm", "bind", "/dev/shm", "rbind nosuid nodev noexec")
        } else {
            mount("/dev/shm", "tmpfs", "shm", "nosuid nodev noexec mode=1777 size=65536k")
        },
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid nodev noexec"),
    ]
}

#[cfg(test)]
#[path = "infra_tests.rs"]
mod tests;
