//! The container's view: mounts, devices, links, masked and read-only paths. Runs in the new process, in the
//! container's namespaces, with every capability in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use sandboxd_shim::plan::Attrs;
use sandboxd_shim::plan::container::{Command, ContainerPlan, Mount, PidNs, Propagation, Source};

use super::resolve::{existing, parent, place, relative};
use super::stage::{self, MQUEUE, SHM};
use crate::kernel::{Change, Guest, Kind, here};
use crate::root::MNT;
use crate::step::{Step, StepError};

/// What the process knows of the pod it was made in.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub plan: &'a ContainerPlan,
    pub fds: &'a [OwnedFd],
    /// The pod has a user, net, pid, ipc namespace of its own.
    pub user: bool,
    pub net: bool,
    pub pid: bool,
    pub ipc: bool,
}

/// What is taken along into the finished root.
#[derive(Debug, Default)]
pub struct Built {
    pub terminal: Option<(OwnedFd, OwnedFd)>,
    /// Where the label of the machine's LSM is written to.
    pub label: Option<OwnedFd>,
}

/// Puts the rootfs together under /mnt and makes it the root.
pub fn build<K: Guest>(kernel: &K, view: View<'_>) -> Result<Built, StepError> {
    let plan = view.plan;
    kernel.umask(0);
    let root = descriptor(view.fds, plan.rootfs.mount).step(|| "find the rootfs".into())?;
    kernel.attach(root, here(), MNT).step(|| "attach the rootfs".into())?;
    for mount in &plan.mounts {
        mount_one(kernel, root, view, mount)?;
    }
    devices(kernel, root, view)?;
    for (link, target) in &plan.links {
        let made =
            parent(kernel, root, link).and_then(|(dir, name)| kernel.make_link(dir.as_fd(), name, target));
        match made {
            Err(Errno::EXIST) => {}
            other => other.step(|| format!("make the symbolic link {link} to {target}"))?,
        }
    }
    let mut built = Built::default();
    if plan.command.terminal {
        let (master, slave) = terminal(kernel, root, &plan.command)?;
        bind(kernel, root, slave.as_fd(), "", "/dev/console")
            .step(|| "bind the terminal on /dev/console".into())?;
        built.terminal = Some((master, slave));
    }
    restrict(kernel, root, plan)?;
    if plan.command.label.is_some() {
        let label = kernel.open(here(), "/proc/self/attr/exec", true);
        built.label = Some(label.step(|| "open /proc/self/attr/exec for the label".into())?);
    }
    kernel.pivot(root).step(|| "enter the rootfs".into())?;
    directory(kernel, here_root(kernel)?.as_fd(), plan)?;
    let mut change = Change::default();
    if plan.rootfs.read_only {
        change.set = libc::MOUNT_ATTR_RDONLY;
    }
    if plan.rootfs.propagation == Propagation::Shared {
        change.propagation = libc::MS_SHARED;
    }
    if change != Change::default() {
        kernel.change(here(), "/", change).step(|| "set the flags of the rootfs".into())?;
    }
    Ok(built)
}

/// The root as it is.
pub fn here_root<K: Guest>(kernel: &K) -> Result<OwnedFd, StepError> {
    kernel.resolve(here(), "/", crate::kernel::Last::Follow).step(|| "open /".into())
}

pub fn descriptor(fds: &[OwnedFd], index: u8) -> Result<BorrowedFd<'_>, Errno> {
    fds.get(usize::from(index)).map(AsFd::as_fd).ok_or(Errno::BADF)
}

/// Flags of a mount of one file system. It is private to begin with, and has nothing to receive from.
fn flags(mount: &Mount) -> Change {
    let attrs = mount.attrs;
    let propagation = if mount.propagation == Propagation::Shared { libc::MS_SHARED } else { 0 };
    Change { set: attrs.set | attrs.recursive_set, clear: attrs.clear, propagation, recursive: false }
}

fn mount_one<K: Guest>(
    kernel: &K,
    root: BorrowedFd<'_>,
    view: View<'_>,
    mount: &Mount,
) -> Result<(), StepError> {
    let destination = &mount.destination;
    let on = |kind| {
        place(kernel, root, destination, kind)
            .map(|(place, _)| place)
            .step(|| format!("make the mount point {destination}"))
    };
    match &mount.source {
        Source::New { fs, options } => {
            let words = || format!("mount {fs} on {destination}");
            let mut flags = flags(mount);
            // Only the owner of a net, pid or ipc namespace may mount its file system: the host's come from the
            // shim.
            let host_pid = matches!(view.plan.pid, PidNs::Node) || (!view.pid && view.plan.pid == PidNs::Pod);
            let new = match fs.as_str() {
                "proc" if view.user && host_pid => kernel.copy_mount(here(), "/proc", false),
                "mqueue" if view.user && !view.ipc => kernel.copy_mount(here(), MQUEUE, false),
                "sysfs" if view.user && !view.net => {
                    flags.set |= libc::MOUNT_ATTR_RDONLY;
                    kernel.copy_mount(here(), "/sys", false)
                }
                _ => kernel.new_mount(fs, options, Attrs::default()),
            };
            let new = new.step(words)?;
            kernel.change(new.as_fd(), "", flags).step(words)?;
            kernel.attach(new.as_fd(), on(Kind::Directory)?.as_fd(), "").step(words)
        }
        Source::Detached(index) => {
            let words = || format!("bind on {destination}");
            let detached = descriptor(view.fds, *index).step(words)?;
            let kind = kernel.kind(detached, "").step(words)?;
            let on = on(kind)?;
            if stage::direct(mount, view.user) {
                return kernel.attach(detached, on.as_fd(), "").step(words);
            }
            // Its flags are set, and with a user namespace locked, since it was staged.
            let copy = kernel.copy_mount(here(), &stage::path(kind, *index), true).step(words)?;
            kernel.attach(copy.as_fd(), on.as_fd(), "").step(words)
        }
        Source::PodShm => {
            let words = || format!("bind the pod's shared memory on {destination}");
            let copy = kernel.copy_mount(here(), SHM, true).step(words)?;
            kernel.change(copy.as_fd(), "", flags(mount)).step(words)?;
            kernel.attach(copy.as_fd(), on(Kind::Directory)?.as_fd(), "").step(words)
        }
        Source::Cgroups { dirs, links } => {
            let words = || format!("mount the container's cgroups on {destination}");
            let options = [("mode".to_owned(), Some("0755".to_owned())), ("size".into(), Some("64k".into()))];
            let tmpfs = kernel.new_mount("tmpfs", &options, Attrs::default()).step(words)?;
            kernel.attach(tmpfs.as_fd(), on(Kind::Directory)?.as_fd(), "").step(words)?;
            for (name, index) in dirs {
                let words = || format!("bind the cgroup {name} on {destination}");
                kernel.make_dir(tmpfs.as_fd(), name).step(words)?;
                let staged = stage::path(Kind::Directory, *index);
                let copy = kernel.copy_mount(here(), &staged, false).step(words)?;
                kernel.attach(copy.as_fd(), tmpfs.as_fd(), name).step(words)?;
            }
            for (link, target) in links {
                kernel.make_link(tmpfs.as_fd(), link, target).step(words)?;
            }
            kernel.change(tmpfs.as_fd(), "", flags(mount)).step(words)
        }
    }
}

/// Device nodes: made, or, where a user namespace forbids that, bound from those the shim has staged.
fn devices<K: Guest>(kernel: &K, root: BorrowedFd<'_>, view: View<'_>) -> Result<(), StepError> {
    for (index, node) in view.plan.devices.iter().enumerate() {
        let words = || format!("make the device {}", node.path);
        if view.user {
            bind(kernel, root, here(), &stage::node(index), &node.path).step(words)?;
            continue;
        }
        let (dir, name) = parent(kernel, root, &node.path).step(words)?;
        let make = || kernel.make_node(dir.as_fd(), name, node.kind, node.mode, (node.major, node.minor));
        match make() {
            Err(Errno::EXIST) => kernel.unlink(dir.as_fd(), name).and_then(|()| make()).step(words)?,
            other => other.step(words)?,
        }
        kernel.own(dir.as_fd(), name, node.uid, Some(node.gid)).step(words)?;
    }
    Ok(())
}

/// Binds a file on what is at `to`, or on a new file there.
fn bind<K: Guest>(
    kernel: &K,
    root: BorrowedFd<'_>,
    from_dir: BorrowedFd<'_>,
    from: &str,
    to: &str,
) -> Result<(), Errno> {
    let (on, _) = place(kernel, root, to, Kind::Other)?;
    let copy = kernel.copy_mount(from_dir, from, false)?;
    kernel.attach(copy.as_fd(), on.as_fd(), "")
}

/// A terminal of the container's own devpts, which is its user's.
pub fn terminal<K: Guest>(
    kernel: &K,
    root: BorrowedFd<'_>,
    command: &Command,
) -> Result<(OwnedFd, OwnedFd), StepError> {
    let words = || "make a terminal in /dev/pts".to_owned();
    let devpts = kernel.resolve(root, "dev/pts", crate::kernel::Last::Follow).step(words)?;
    let (master, slave) = kernel.terminal(devpts.as_fd(), command.size).step(words)?;
    kernel.own(slave.as_fd(), "", command.process.uid, None).step(words)?;
    Ok((master, slave))
}

/// Masked and read-only paths. What does not exist needs neither.
fn restrict<K: Guest>(kernel: &K, root: BorrowedFd<'_>, plan: &ContainerPlan) -> Result<(), StepError> {
    let mut empty: Option<OwnedFd> = None;
    for masked in &plan.masked {
        let words = || format!("mask {masked}");
        let Some(on) = existing(kernel, root, masked).step(words)? else { continue };
        let cover = match (kernel.kind(on.as_fd(), "").step(words)?, &empty) {
            (Kind::Other, _) => kernel.copy_mount(here(), "/dev/null", false).step(words)?,
            // One empty tmpfs for all of them.
            (Kind::Directory, Some(empty)) => kernel.copy_mount(empty.as_fd(), "", false).step(words)?,
            (Kind::Directory, None) => {
                let options = [("size".into(), Some("4k".into())), ("mode".into(), Some("0555".into()))];
                let attrs =
                    Attrs { read_only: true, nosuid: true, nodev: true, noexec: true, recursive: false };
                kernel.new_mount("tmpfs", &options, attrs).step(words)?
            }
        };
        kernel.attach(cover.as_fd(), on.as_fd(), "").step(words)?;
        if empty.is_none() && kernel.kind(cover.as_fd(), "").step(words)? == Kind::Directory {
            empty = Some(cover);
        }
    }
    for read_only in &plan.read_only {
        let words = || format!("make {read_only} read-only");
        let Some(on) = existing(kernel, root, read_only).step(words)? else { continue };
        let copy = kernel.copy_mount(on.as_fd(), "", true).step(words)?;
        let change = Change { set: libc::MOUNT_ATTR_RDONLY, recursive: true, ..Change::default() };
        kernel.change(copy.as_fd(), "", change).step(words)?;
        kernel.attach(copy.as_fd(), on.as_fd(), "").step(words)?;
    }
    Ok(())
}

/// Enters the working directory, which is made, as the user's, where it is missing.
fn directory<K: Guest>(kernel: &K, root: BorrowedFd<'_>, plan: &ContainerPlan) -> Result<(), StepError> {
    let command = &plan.command;
    let words = || format!("make the working directory {}", command.cwd);
    kernel.umask(0o022);
    let (dir, made) = place(kernel, root, relative(&command.cwd), Kind::Directory).step(words)?;
    if made {
        kernel.own(dir.as_fd(), "", command.process.uid, Some(command.process.gid)).step(words)?;
    }
    Ok(())
}
