//! What the shim puts into its own root while a container is made, for the container's process to copy.
//!
//! A mount that a process in a user namespace gets as a copy of somebody else's mount namespace has its flags
//! locked: what was handed over read-only stays so. So mounts of the host are attached here first, and the copy
//! is the one that clone3 makes. What must reach the host (Bidirectional) cannot go this way: such a copy is
//! only ever a receiver, and the mount itself is handed in.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Errno;
use sandboxd_shim::plan::container::{ContainerPlan, Mount, MountAttrs, Propagation, Source};
use sandboxd_shim::plan::{Attrs, Plan};

use super::rootfs::descriptor;
use crate::kernel::{Change, Guest, Kind, PRIVATE, here};
use crate::root::HOST;
use crate::step::{Step, StepError};

/// The pod's shared memory, as long as the pod lives.
pub const SHM: &str = "/shm";
/// The host's message queues, where the pod has the host's.
pub const MQUEUE: &str = "/mqueue";

/// Where a mount of the message is staged.
pub fn path(kind: Kind, index: u8) -> String {
    match kind {
        Kind::Directory => format!("{HOST}/d{index}"),
        Kind::Other => format!("{HOST}/f{index}"),
    }
}

/// Where a device node is staged.
pub fn node(index: usize) -> String {
    format!("{HOST}/n{index}")
}

/// Whether a mount is handed in as it is.
pub fn direct(mount: &Mount, user_namespace: bool) -> bool {
    user_namespace && mount.propagation == Propagation::Shared
}

/// The host's ids for a uid and a gid of the pod's.
pub type HostIds<'a> = dyn Fn(u32, u32) -> Option<(u32, u32)> + 'a;

/// What was staged; taken away again with [`Staged::clear`].
#[derive(Debug, Default)]
pub struct Staged {
    mounts: Vec<String>,
    nodes: Vec<String>,
}

/// Stages the plan's mounts and devices. `host_ids` of the pod's ids, where it has a user namespace.
pub fn stage<K: Guest>(
    kernel: &K,
    plan: &ContainerPlan,
    fds: &[OwnedFd],
    host_ids: Option<&HostIds<'_>>,
) -> Result<Staged, StepError> {
    let mut staged = Staged::default();
    let done = fill(kernel, plan, fds, host_ids, &mut staged);
    match done {
        Ok(()) => Ok(staged),
        Err(error) => {
            staged.clear(kernel);
            Err(error)
        }
    }
}

fn fill<K: Guest>(
    kernel: &K,
    plan: &ContainerPlan,
    fds: &[OwnedFd],
    host_ids: Option<&HostIds<'_>>,
    staged: &mut Staged,
) -> Result<(), StepError> {
    for mount in &plan.mounts {
        let words = || format!("take the mount for {}", mount.destination);
        match &mount.source {
            Source::New { .. } | Source::PodShm => {}
            Source::Detached(index) => {
                let fd = descriptor(fds, *index).step(words)?;
                change(kernel, fd, mount.attrs, mount.propagation).step(words)?;
                if !direct(mount, host_ids.is_some()) {
                    attach(kernel, fd, *index, staged).step(words)?;
                }
            }
            Source::Cgroups { dirs, .. } => {
                for (_, index) in dirs {
                    let fd = descriptor(fds, *index).step(words)?;
                    change(kernel, fd, mount.attrs, Propagation::Private).step(words)?;
                    attach(kernel, fd, *index, staged).step(words)?;
                }
            }
        }
    }
    let Some(host_ids) = host_ids else { return Ok(()) };
    for (index, device) in plan.devices.iter().enumerate() {
        let words = || format!("make the device {}", device.path);
        let (uid, gid) = host_ids(device.uid, device.gid)
            .ok_or(Errno::OVERFLOW)
            .step(|| format!("map the owner {}:{} of the device {}", device.uid, device.gid, device.path))?;
        let path = node(index);
        kernel.umask(0);
        let made = kernel.make_node(here(), &path, device.kind, device.mode, (device.major, device.minor));
        kernel.umask(0o022);
        made.step(words)?;
        kernel.own(here(), &path, uid, Some(gid)).step(words)?;
        staged.nodes.push(path);
    }
    Ok(())
}

/// Here, before clone3: what is set after it is the container's own to take off again.
fn change<K: Guest>(
    kernel: &K,
    mount: BorrowedFd<'_>,
    attrs: MountAttrs,
    propagation: Propagation,
) -> Result<(), Errno> {
    let propagation = match propagation {
        Propagation::Private => libc::MS_PRIVATE,
        Propagation::Slave => libc::MS_SLAVE,
        // It is in the peer group of what it was copied from, if that is in one.
        Propagation::Shared => 0,
    };
    let recursive =
        Change { set: attrs.recursive_set, clear: attrs.recursive_clear, propagation, recursive: true };
    if recursive != (Change { recursive: true, ..Change::default() }) {
        kernel.change(mount, "", recursive)?;
    }
    let own = Change { set: attrs.set, clear: attrs.clear, ..Change::default() };
    if own == Change::default() { Ok(()) } else { kernel.change(mount, "", own) }
}

fn attach<K: Guest>(kernel: &K, mount: BorrowedFd<'_>, index: u8, staged: &mut Staged) -> Result<(), Errno> {
    let kind = kernel.kind(mount, "")?;
    let path = path(kind, index);
    match kind {
        Kind::Directory => kernel.make_dir(here(), &path)?,
        Kind::Other => match kernel.make_file(here(), &path, 0, &[]) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        },
    }
    kernel.attach(mount, here(), &path)?;
    staged.mounts.push(path);
    Ok(())
}

impl Staged {
    /// Takes everything away. What cannot be is private by then, and goes with the shim.
    pub fn clear<K: Guest>(self, kernel: &K) {
        for path in &self.mounts {
            let _ = kernel.change(here(), path, PRIVATE);
            let _ = kernel.detach(path);
        }
        for path in &self.nodes {
            let _ = kernel.unlink(here(), path);
        }
    }
}

/// What every container of the pod may copy, for as long as the pod lives: its shared memory, and the host's
/// message queues where it has no ipc namespace of its own.
pub fn for_good<K: Guest>(kernel: &K, plan: &Plan, shm: Option<&OwnedFd>) -> Result<(), StepError> {
    if let Some(shm) = shm {
        let words = || "keep the pod's shared memory".to_owned();
        kernel.make_dir(here(), SHM).step(words)?;
        kernel.attach(std::os::fd::AsFd::as_fd(shm), here(), SHM).step(words)?;
    }
    if !plan.namespaces.ipc && plan.namespaces.user.is_some() {
        let words = || "keep the host's message queues".to_owned();
        kernel.make_dir(here(), MQUEUE).step(words)?;
        let attrs = Attrs { nosuid: true, nodev: true, noexec: true, ..Attrs::default() };
        let queues = kernel.new_mount("mqueue", &[], attrs).step(words)?;
        kernel.attach(std::os::fd::AsFd::as_fd(&queues), here(), MQUEUE).step(words)?;
    }
    Ok(())
}
