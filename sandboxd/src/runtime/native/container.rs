//! From the OCI runtime spec of a container to what the shim carries out. What the spec asks for and the shim
//! does not do is an error that names it.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{
    Hooks, Linux, LinuxDevice, LinuxDeviceType, LinuxNamespaceType, Process as OciProcess, Spec,
};
use sandboxd_shim::plan::container::{
    Command, ContainerPlan, ExecCgroups, ExecPlan, Node, NodeKind, PidNs, Propagation, Rootfs,
};
use sandboxd_shim::proto::MAX_FDS;

use super::cgroups;
use super::mounts::{self, Context};
use super::plan::{DEVICES, LINKS, filter, process_with, text, unsupported};
use crate::container::env::{self, RawEnv};
use crate::container::spec::PidMode;
use crate::runtime::RuntimeError;
use crate::runtime::task::{self, TaskPlan};

/// The plan and the descriptors it counts on.
#[derive(Debug)]
pub struct Prepared {
    pub plan: ContainerPlan,
    pub fds: Descriptors,
    /// For the daemon's log.
    pub warnings: Vec<String>,
}

/// Descriptors that travel with a plan, by number.
#[derive(Debug, Default)]
pub struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    pub fn push(&mut self, fd: OwnedFd) -> Result<u8, RuntimeError> {
        // One is left for a plan that travels in a file.
        let number = u8::try_from(self.0.len()).ok().filter(|number| usize::from(*number) + 1 < MAX_FDS);
        let number = number.ok_or_else(|| {
            unsupported(format_args!("more than {} mounts and cgroups of one container", MAX_FDS - 1))
        })?;
        self.0.push(fd);
        Ok(number)
    }

    pub fn borrowed(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(AsFd::as_fd).collect()
    }
}

/// The shim's plan for a container. `user`: the user namespace of the pod's infra container, which is the pod's
/// where the spec has one.
///
/// # Errors
/// [`RuntimeError::Unsupported`], and [`RuntimeError::Io`] where something of the host cannot be taken.
pub fn prepare(task: TaskPlan, user: OwnedFd) -> Result<Prepared, RuntimeError> {
    let spec = &task.spec;
    let linux = spec.linux().as_ref().ok_or_else(|| unsupported("a spec without linux"))?;
    let process = spec.process().as_ref().ok_or_else(|| unsupported("a spec without process"))?;
    refuse(spec, linux)?;
    let mut fds = Descriptors::default();
    let mut warnings = Vec::new();
    let has = |kind| {
        linux
            .namespaces()
            .iter()
            .flatten()
            .any(|namespace| namespace.typ() == kind && namespace.path().is_none())
    };
    let maps = (
        linux.uid_mappings().as_deref().unwrap_or_default(),
        linux.gid_mappings().as_deref().unwrap_or_default(),
    );
    let user = has(LinuxNamespaceType::User).then_some((user, maps));
    let cgroups = cgroups::ordered(task.cgroup)?;
    let label = linux.mount_label().as_deref();
    let context = Context { cgroups: &cgroups, user, label };
    let mut given: Vec<(usize, OwnedFd)> = task.sources;
    let mut mounts = Vec::new();
    for (index, mount) in spec.mounts().iter().flatten().enumerate() {
        let position = given.iter().position(|(of, _)| *of == index);
        let source = position.map(|position| given.swap_remove(position).1);
        mounts.push(mounts::mount(mount, source, &context, &mut fds)?);
    }
    let exec_cgroups = match cgroups::for_execs(&cgroups) {
        Some((dir, position)) => Some(ExecCgroups {
            dir: fds.push(dir)?,
            instead_of: u8::try_from(position).map_err(|_| unsupported("so many cgroup hierarchies"))?,
        }),
        None => None,
    };
    let cgroup = cgroups.into_iter().map(|cgroup| fds.push(cgroup.procs)).collect::<Result<_, _>>()?;
    let seccomp = linux.seccomp().as_ref().map(|profile| filter(profile, &mut warnings)).transpose()?;
    let mut command = command(process, &task.raw_env, seccomp)?;
    command.terminal |= task.tty;
    let root = spec.root().as_ref();
    // A /dev of the host's has its nodes.
    let own_dev = !spec.mounts().iter().flatten().any(|mount| {
        mount.destination().as_os_str() == "/dev"
            && matches!(mount.typ().as_deref(), None | Some("bind" | "none"))
    });
    let plan = ContainerPlan {
        id: task.id.as_str().to_owned(),
        pid: match task.pid {
            PidMode::Pod => PidNs::Pod,
            PidMode::Container => PidNs::New,
            PidMode::Node => PidNs::Node,
            PidMode::Target(id) => PidNs::Target(id),
        },
        cgroup_namespace: has(LinuxNamespaceType::Cgroup),
        cgroup,
        exec_cgroups,
        rootfs: Rootfs {
            mount: fds.push(task.rootfs)?,
            read_only: root.and_then(|root| root.readonly()).unwrap_or(false),
            propagation: propagation(linux)?,
        },
        mounts,
        devices: if own_dev { devices(linux.devices().iter().flatten())? } else { Vec::new() },
        links: if own_dev {
            LINKS.map(|(link, target)| (link.into(), target.into())).into()
        } else {
            Vec::new()
        },
        masked: linux.masked_paths().clone().unwrap_or_default(),
        read_only: linux.readonly_paths().clone().unwrap_or_default(),
        command,
        stdin: task.stdin,
        stdin_once: task.stdin_once,
        log: task.log.map(|log| fds.push(log)).transpose()?,
    };
    Ok(Prepared { plan, fds, warnings })
}

fn refuse(spec: &Spec, linux: &Linux) -> Result<(), RuntimeError> {
    let hooks = spec.hooks().as_ref().is_some_and(|hooks| *hooks != Hooks::default());
    let asked = [
        (hooks, "hooks"),
        (spec.domainname().is_some(), "a domain name"),
        (linux.sysctl().as_ref().is_some_and(|all| !all.is_empty()), "sysctls of a container: set the pod's"),
        (linux.net_devices().as_ref().is_some_and(|all| !all.is_empty()), "linux.netDevices"),
        (linux.intel_rdt().is_some(), "linux.intelRdt"),
        (linux.memory_policy().is_some(), "linux.memoryPolicy"),
        (linux.personality().is_some(), "linux.personality"),
        (linux.time_offsets().as_ref().is_some_and(|all| !all.is_empty()), "linux.timeOffsets"),
    ];
    if let Some((_, what)) = asked.iter().find(|(asked, _)| *asked) {
        return Err(unsupported(what));
    }
    for namespace in linux.namespaces().iter().flatten() {
        if namespace.typ() == LinuxNamespaceType::Time {
            return Err(unsupported("time namespaces"));
        }
        if let Some(path) = namespace.path() {
            let what =
                format_args!("joining the {} namespace {}: name a pod's", namespace.typ(), path.display());
            return Err(unsupported(what));
        }
    }
    Ok(())
}

fn propagation(linux: &Linux) -> Result<Propagation, RuntimeError> {
    match linux.rootfs_propagation().as_deref() {
        // Nothing is mounted on the rootfs anywhere else: it has nothing to receive.
        None | Some("" | "private" | "rprivate" | "slave" | "rslave") => Ok(Propagation::Private),
        Some("shared" | "rshared") => Ok(Propagation::Shared),
        Some(other) => Err(unsupported(format_args!("linux.rootfsPropagation {other:?}"))),
    }
}

/// The command of a process.
fn command(oci: &OciProcess, raw_env: &RawEnv, seccomp: Option<Vec<u8>>) -> Result<Command, RuntimeError> {
    let asked = [
        (oci.io_priority().is_some(), "an I/O priority"),
        (oci.scheduler().is_some(), "a scheduler"),
        (oci.exec_cpu_affinity().is_some(), "execCPUAffinity"),
    ];
    if let Some((_, what)) = asked.iter().find(|(asked, _)| *asked) {
        return Err(unsupported(what));
    }
    let args = oci.args().clone().unwrap_or_default();
    if args.is_empty() {
        return Err(unsupported("a process without arguments"));
    }
    if args.iter().any(|text| text.contains('\0')) {
        return Err(unsupported("a NUL in an argument"));
    }
    let env = oci.env().iter().flatten().map(|entry| {
        let raw = entry.split_once('=').and_then(|(name, value)| {
            // One that a device has set since has another value.
            raw_env.get_key_value(name).filter(|(_, raw)| env::text(raw) == value)
        });
        CString::new(match raw {
            Some((name, value)) => [name.as_bytes(), b"=", value].concat(),
            None => entry.as_bytes().to_vec(),
        })
    });
    let env = env.collect::<Result<_, _>>().map_err(|_| unsupported("a NUL in the environment"))?;
    let label = match (oci.apparmor_profile(), oci.selinux_label()) {
        (Some(profile), None) if !profile.is_empty() => Some(format!("exec {profile}")),
        (None, Some(label)) if !label.is_empty() => Some(label.clone()),
        (Some(profile), Some(label)) if !profile.is_empty() && !label.is_empty() => {
            return Err(unsupported("an AppArmor profile together with an SELinux label"));
        }
        (Some(profile), _) if !profile.is_empty() => Some(format!("exec {profile}")),
        (_, Some(label)) if !label.is_empty() => Some(label.clone()),
        _ => None,
    };
    let cells = |cells: u64| u16::try_from(cells).unwrap_or(u16::MAX);
    let cwd = text(oci.cwd())?;
    if !cwd.starts_with('/') {
        return Err(unsupported(format_args!("the working directory {cwd:?}: give an absolute path")));
    }
    Ok(Command {
        args,
        env,
        cwd,
        terminal: oci.terminal().unwrap_or(false),
        size: oci.console_size().as_ref().map(|size| (cells(size.width()), cells(size.height()))),
        process: process_with(oci, seccomp),
        label,
    })
}

/// The shim's plan for an exec.
pub fn exec(container: &str, plan: &task::ExecPlan) -> Result<ExecPlan, RuntimeError> {
    Ok(ExecPlan {
        container: container.to_owned(),
        command: command(&plan.process, &plan.raw_env, None)?,
        stdin: plan.wanted.stdin,
        stdout: plan.wanted.stdout,
        stderr: plan.wanted.stderr,
    })
}

/// The devices every container has, and those of the spec; a later one of the same path counts.
fn devices<'a>(asked: impl Iterator<Item = &'a LinuxDevice>) -> Result<Vec<Node>, RuntimeError> {
    let mut nodes: Vec<Node> = DEVICES
        .map(|(path, major, minor)| Node {
            path: path.into(),
            kind: NodeKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        })
        .into();
    for device in asked {
        let path = text(device.path())?;
        let number = |number: i64| {
            u32::try_from(number)
                .map_err(|_| unsupported(format_args!("the device number {number} of {path}")))
        };
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => NodeKind::Char,
            LinuxDeviceType::B => NodeKind::Block,
            LinuxDeviceType::P => NodeKind::Fifo,
            LinuxDeviceType::A => return Err(unsupported(format_args!("the device type \"a\" of {path}"))),
        };
        let node = Node {
            kind,
            major: number(device.major())?,
            minor: number(device.minor())?,
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            uid: device.uid().unwrap_or(0),
            gid: device.gid().unwrap_or(0),
            path,
        };
        nodes.retain(|known| known.path != node.path);
        nodes.push(node);
    }
    Ok(nodes)
}

#[cfg(test)]
#[path = "container_tests.rs"]
mod tests;
