//! From an OCI runtime spec to what the shim carries out. What the spec asks for and the shim does not do is an
//! error that names it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::{
    Linux, LinuxIdMapping, LinuxNamespaceType, LinuxSeccomp, Mount, PosixRlimitType, Process as OciProcess,
    Spec,
};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree,
};
use sandboxd_shim::plan::{
    Attrs, Capabilities, Device, File, IdMaps, Mount as ShimMount, Namespaces, Net, Plan, Process, Rlimit,
    Rootfs, Source, SysfsKind,
};

use crate::runtime::{InfraPlan, RuntimeError, capabilities, seccomp, spec};

/// Bytes the infra container's root may take: the pause, resolv.conf, a few directories.
const ROOTFS_BYTES: u64 = 256 * 1024;
/// Longest resolv.conf or hostname file, in bytes: both travel in the plan.
const MAX_FILE: usize = 16 * 1024;
pub const DEVICES: [(&str, u32, u32); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];
pub const LINKS: [(&str, &str); 5] = [
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
    ("/dev/ptmx", "pts/ptmx"),
];

/// The plan and the descriptors it counts on: the host's mounts first, then a network namespace to join.
#[derive(Debug)]
pub struct Prepared {
    pub plan: Plan,
    pub fds: Vec<OwnedFd>,
    /// For the daemon's log.
    pub warnings: Vec<String>,
}

/// The shim's plan for a pod.
///
/// # Errors
/// [`RuntimeError::Unsupported`], and [`RuntimeError::Io`] where a mount of the host cannot be taken.
pub fn prepare(infra: &InfraPlan) -> Result<Prepared, RuntimeError> {
    let oci = spec::infra(infra)?;
    let linux = oci.linux().as_ref().ok_or_else(|| unsupported("a spec without linux"))?;
    let process = oci.process().as_ref().ok_or_else(|| unsupported("a spec without process"))?;
    refuse(&oci, linux, process)?;
    let mut fds = Vec::new();
    let mut warnings = Vec::new();
    let (mut namespaces, netns) = namespaces(linux)?;
    let mounts = oci.mounts().iter().flatten();
    let mounts = mounts.map(|m| mount(m, &namespaces, &mut fds)).collect::<Result<Vec<_>, _>>()?;
    if let Some(netns) = netns {
        let index = u8::try_from(fds.len()).map_err(|_| unsupported("so many mounts of the host"))?;
        namespaces.net = Net::Join(index);
        fds.push(netns);
    }
    let files = [("/etc/resolv.conf", infra.resolv_conf.clone()), ("/etc/hostname", hostname_file(infra))];
    let files = files.map(|(path, data)| file(path, data));
    let plan = Plan {
        pod: infra.pod.as_str().to_owned(),
        dir: text(&infra.dir)?,
        hostname: oci.hostname().clone(),
        rootfs: Rootfs {
            size_bytes: ROOTFS_BYTES,
            read_only: oci.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false),
        },
        mounts,
        devices: DEVICES.map(|(path, major, minor)| Device { path: path.into(), major, minor }).into(),
        links: LINKS.map(|(link, target)| (link.into(), target.into())).into(),
        files: files.into_iter().collect::<Result<_, _>>()?,
        masked: linux.masked_paths().clone().unwrap_or_default(),
        read_only: linux.readonly_paths().clone().unwrap_or_default(),
        sysctls: sysctls(linux),
        process: self::process(process, linux, &mut warnings)?,
        sysfs: if spec::binds_sysfs(infra) { SysfsKind::BindReadOnly } else { SysfsKind::Mounted },
        namespaces,
    };
    Ok(Prepared { plan, fds, warnings })
}

pub fn unsupported(what: impl std::fmt::Display) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("the native runtime does not support {what}") }
}

fn refuse(oci: &Spec, linux: &Linux, process: &OciProcess) -> Result<(), RuntimeError> {
    let asked = [
        (oci.hooks().is_some(), "hooks"),
        (oci.domainname().is_some(), "a domain name"),
        (linux.resources().is_some(), "linux.resources: the pod's cgroup is made before it"),
        (linux.cgroups_path().is_some(), "linux.cgroupsPath"),
        (linux.devices().as_ref().is_some_and(|devices| !devices.is_empty()), "linux.devices"),
        (linux.net_devices().is_some(), "linux.netDevices"),
        (linux.rootfs_propagation().is_some(), "linux.rootfsPropagation"),
        (linux.mount_label().is_some(), "linux.mountLabel"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.memory_policy().is_some(), "linux.memoryPolicy"),
        (linux.personality().is_some(), "linux.personality"),
        (linux.time_offsets().is_some(), "linux.timeOffsets"),
        (process.terminal().unwrap_or(false), "a terminal"),
        (process.apparmor_profile().is_some(), "an AppArmor profile"),
        (process.selinux_label().is_some(), "an SELinux label"),
        (
            process
                .capabilities()
                .as_ref()
                .is_some_and(|sets| sets.ambient().as_ref().is_some_and(|set| !set.is_empty())),
            "ambient capabilities of the infra container",
        ),
        (process.io_priority().is_some(), "an I/O priority"),
        (process.scheduler().is_some(), "a scheduler"),
        (process.exec_cpu_affinity().is_some(), "execCPUAffinity"),
    ];
    match asked.iter().find(|(asked, _)| *asked) {
        Some((_, what)) => Err(unsupported(what)),
        None => Ok(()),
    }
}

/// The namespaces, and the network namespace to join.
fn namespaces(linux: &Linux) -> Result<(Namespaces, Option<OwnedFd>), RuntimeError> {
    let mut made =
        Namespaces { user: None, net: Net::Host, pid: false, ipc: false, uts: false, cgroup: false };
    let mut join = None;
    for namespace in linux.namespaces().iter().flatten() {
        if let Some(path) = namespace.path() {
            if namespace.typ() != LinuxNamespaceType::Network {
                return Err(unsupported(format_args!("joining a {} namespace by path", namespace.typ())));
            }
            let opened = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            join = Some(opened.map_err(|errno| io(format!("opening {}", path.display()), errno))?);
            continue;
        }
        match namespace.typ() {
            LinuxNamespaceType::User => made.user = Some(maps(linux)?),
            LinuxNamespaceType::Network => made.net = Net::New,
            LinuxNamespaceType::Pid => made.pid = true,
            LinuxNamespaceType::Ipc => made.ipc = true,
            LinuxNamespaceType::Uts => made.uts = true,
            LinuxNamespaceType::Cgroup => made.cgroup = true,
            LinuxNamespaceType::Mount => {}
            LinuxNamespaceType::Time => return Err(unsupported("time namespaces")),
        }
    }
    Ok((made, join))
}

fn maps(linux: &Linux) -> Result<IdMaps, RuntimeError> {
    let lines = |maps: &Option<Vec<LinuxIdMapping>>| -> Vec<(u32, u32, u32)> {
        maps.iter().flatten().map(|map| (map.container_id(), map.host_id(), map.size())).collect()
    };
    let (uids, gids) = (lines(linux.uid_mappings()), lines(linux.gid_mappings()));
    let root = |lines: &[(u32, u32, u32)]| {
        lines.iter().find(|(inside, ..)| *inside == 0).map(|(_, outside, _)| *outside)
    };
    let owner =
        root(&uids).zip(root(&gids)).ok_or_else(|| unsupported("a user namespace that does not map 0"))?;
    Ok(IdMaps { uids, gids, owner })
}

fn mount(oci: &Mount, namespaces: &Namespaces, fds: &mut Vec<OwnedFd>) -> Result<ShimMount, RuntimeError> {
    let destination = text(oci.destination())?;
    if oci.uid_mappings().is_some() || oci.gid_mappings().is_some() {
        return Err(unsupported(format_args!("an idmapped mount on {destination} of the infra container")));
    }
    let mut attrs = Attrs::default();
    let mut options = Vec::new();
    let mut recursive = false;
    for option in oci.options().iter().flatten() {
        match option.as_str() {
            "ro" => attrs.read_only = true,
            "rro" => (attrs.read_only, attrs.recursive) = (true, true),
            "nosuid" => attrs.nosuid = true,
            "nodev" => attrs.nodev = true,
            "noexec" => attrs.noexec = true,
            "rbind" => recursive = true,
            "bind" | "rw" | "suid" | "dev" | "exec" | "relatime" | "private" | "rprivate" => {}
            other => match other.split_once('=') {
                Some((key, value)) => options.push((key.to_owned(), Some(value.to_owned()))),
                None if other == "newinstance" => options.push((other.to_owned(), None)),
                None => {
                    return Err(unsupported(format_args!("the mount option {other:?} on {destination}")));
                }
            },
        }
    }
    let fs = oci.typ().as_deref().unwrap_or("bind");
    let host = match fs {
        "bind" | "none" => {
            let source = oci.source().as_deref().unwrap_or(Path::new(""));
            Some(detached(source, recursive)?)
        }
        // Of the host's ipc namespace: made out here, where the daemon may.
        "mqueue" if !namespaces.ipc => Some(host_mqueue()?),
        _ => None,
    };
    let source = match host {
        None => Source::New { fs: fs.to_owned(), options },
        Some(fd) => {
            let index = u8::try_from(fds.len()).map_err(|_| unsupported("so many mounts of the host"))?;
            fds.push(fd);
            Source::Host(index)
        }
    };
    Ok(ShimMount { destination, source, attrs })
}

/// A detached copy of a mount of the host.
pub fn detached(source: &Path, recursive: bool) -> Result<OwnedFd, RuntimeError> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, source, flags).map_err(|errno| io(format!("taking the mount {}", source.display()), errno))
}

fn host_mqueue() -> Result<OwnedFd, RuntimeError> {
    let make = || {
        let context = fsopen("mqueue", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    make().map_err(|errno| io("mounting the host's mqueue".into(), errno))
}

fn process(oci: &OciProcess, linux: &Linux, warnings: &mut Vec<String>) -> Result<Process, RuntimeError> {
    let seccomp = linux.seccomp().as_ref().map(|profile| filter(profile, warnings)).transpose()?;
    Ok(process_with(oci, seccomp))
}

/// The process of a spec, under a compiled filter.
pub fn process_with(oci: &OciProcess, seccomp: Option<Vec<u8>>) -> Process {
    let set = |set: &Option<oci_spec::runtime::Capabilities>| set.as_ref().map_or(0, capabilities::bits);
    let sets = oci.capabilities().as_ref();
    let limits = oci.rlimits().iter().flatten();
    Process {
        uid: oci.user().uid(),
        gid: oci.user().gid(),
        groups: oci.user().additional_gids().clone().unwrap_or_default(),
        capabilities: Capabilities {
            bounding: sets.map_or(0, |sets| set(sets.bounding())),
            permitted: sets.map_or(0, |sets| set(sets.permitted())),
            effective: sets.map_or(0, |sets| set(sets.effective())),
            inheritable: sets.map_or(0, |sets| set(sets.inheritable())),
            ambient: sets.map_or(0, |sets| set(sets.ambient())),
        },
        no_new_privs: oci.no_new_privileges().unwrap_or(false),
        seccomp,
        rlimits: limits
            .map(|limit| Rlimit { resource: resource(limit.typ()), soft: limit.soft(), hard: limit.hard() })
            .collect(),
        oom_score_adj: oci.oom_score_adj(),
        umask: oci.user().umask().unwrap_or(0o022),
    }
}

/// Compiles the default seccomp profile ahead of the first pod.
pub fn warm() -> Result<(), RuntimeError> {
    filter(&seccomp::default::profile(), &mut Vec::new()).map(drop)
}

/// The compiled filter.
pub fn filter(profile: &LinuxSeccomp, warnings: &mut Vec<String>) -> Result<Vec<u8>, RuntimeError> {
    let filter = seccomp::compiled(profile).map_err(seccomp::SeccompError::unsupported)?;
    // Which names of the default profile this libseccomp is too old for is no news for an operator.
    let unknown = filter.unknown.iter().filter(|name| !seccomp::default::names(name)).cloned();
    let unknown: Vec<String> = unknown.collect();
    if !unknown.is_empty() {
        warnings.push(format!("seccomp profile: calls unknown to libseccomp: {}", unknown.join(", ")));
    }
    Ok(filter.program.clone())
}

fn resource(typ: PosixRlimitType) -> u32 {
    match typ {
        PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
        PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
        PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
        PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
        PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
        PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
        PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
        PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
        PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
        PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
        PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
        PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
        PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
        PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
        PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
        PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
    }
}

/// Sorted, so that the first one that fails is always the same.
fn sysctls(linux: &Linux) -> Vec<(String, String)> {
    let mut sysctls: Vec<_> =
        linux.sysctl().iter().flatten().map(|(name, value)| (name.clone(), value.clone())).collect();
    sysctls.sort();
    sysctls
}

fn hostname_file(infra: &InfraPlan) -> Vec<u8> {
    let mut line = infra.hostname.clone().into_bytes();
    line.push(b'\n');
    line
}

fn file(path: &str, data: Vec<u8>) -> Result<File, RuntimeError> {
    if data.len() > MAX_FILE {
        let what = format!("{path} has {} bytes, {MAX_FILE} are the most: shorten the pod's DNS", data.len());
        return Err(RuntimeError::Unsupported { what });
    }
    Ok(File { path: path.to_owned(), mode: 0o644, data })
}

pub fn text(path: &Path) -> Result<String, RuntimeError> {
    path.to_str()
        .map(str::to_owned)
        .ok_or_else(|| unsupported(format_args!("the path {}: not UTF-8", path.display())))
}

pub fn io(action: String, errno: rustix::io::Errno) -> RuntimeError {
    RuntimeError::Io { action, source: errno.into() }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
