//! The container's view: hostname, rootfs, sysctls, masked and read-only paths. Runs in the new process, in its
//! new namespaces, with every capability in them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::Errno;
use sandboxd_shim::plan::{Attrs, Mount, Plan, Source};

use crate::kernel::{Kernel, Kind, here};
use crate::root::{HOST, MNT};
use crate::step::{Step, StepError};

/// The pause, compiled by build.rs.
const PAUSE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));
/// Where it lies in the container.
pub const PAUSE_PATH: &str = "/pause";

/// The pod's shared memory, which its containers have too.
const SHM: &str = "/dev/shm";

/// Puts the rootfs together under /mnt, writes the sysctls, and makes it the root. A copy of the mount on
/// /dev/shm, where there is one.
pub fn build<K: Kernel>(kernel: &K, plan: &Plan) -> Result<Option<OwnedFd>, StepError> {
    kernel.umask(0);
    if let Some(name) = &plan.hostname {
        kernel.hostname(name).step(|| format!("set the hostname {name:?}"))?;
    }
    let size = [("size", plan.rootfs.size_bytes.to_string()), ("mode", "0755".into())]
        .map(|(key, value)| (key.into(), Some(value)));
    let attrs = Attrs { nosuid: true, nodev: true, ..Attrs::default() };
    let root = kernel.new_mount("tmpfs", &size, attrs).step(|| "mount tmpfs on /".into())?;
    let root = root.as_fd();
    kernel.attach(root, here(), MNT).step(|| "attach the container's root".into())?;
    for mount in &plan.mounts {
        place(kernel, root, mount)?;
    }
    let has_shm = plan.mounts.iter().any(|mount| mount.destination == SHM);
    let shm = has_shm.then(|| kernel.copy_mount(root, relative(SHM), true)).transpose();
    let shm = shm.step(|| format!("copy {SHM} for the pod's containers"))?;
    devices(kernel, root, plan)?;
    for (link, target) in &plan.links {
        kernel
            .make_link(root, relative(link), target)
            .step(|| format!("make the symbolic link {link} to {target}"))?;
    }
    for file in &plan.files {
        parents(kernel, root, &file.path)?;
        kernel
            .make_file(root, relative(&file.path), file.mode, &file.data)
            .step(|| format!("write {}", file.path))?;
    }
    kernel.make_file(root, relative(PAUSE_PATH), 0o555, PAUSE).step(|| format!("write {PAUSE_PATH}"))?;
    // Before /proc/sys goes read-only.
    sysctls(kernel, root, plan)?;
    restrict(kernel, root, plan)?;
    kernel.pivot(root).step(|| "enter the container's root".into())?;
    if plan.rootfs.read_only {
        let attrs = Attrs { read_only: true, ..Attrs::default() };
        kernel.restrict(here(), "/", attrs).step(|| "make / read-only".into())?;
    }
    Ok(shm)
}

fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

/// Makes the directories above `path`.
fn parents<K: Kernel>(kernel: &K, root: BorrowedFd<'_>, path: &str) -> Result<(), StepError> {
    let path = relative(path);
    for (end, _) in path.match_indices('/') {
        let dir = path.get(..end).unwrap_or_default();
        kernel.make_dir(root, dir).step(|| format!("make /{dir}"))?;
    }
    Ok(())
}

fn place<K: Kernel>(kernel: &K, root: BorrowedFd<'_>, mount: &Mount) -> Result<(), StepError> {
    let destination = &mount.destination;
    let path = relative(destination);
    parents(kernel, root, destination)?;
    match &mount.source {
        Source::New { fs, options } => {
            kernel.make_dir(root, path).step(|| format!("make {destination}"))?;
            kernel
                .new_mount(fs, options, mount.attrs)
                .and_then(|new| kernel.attach(new.as_fd(), root, path))
                .step(|| format!("mount {fs} on {destination}"))
        }
        Source::Host(index) => {
            let from = format!("{HOST}/{index}");
            let words = || format!("bind the host's mount {index} on {destination}");
            match kernel.kind(here(), &from).step(words)? {
                Kind::Directory => kernel.make_dir(root, path).step(words)?,
                Kind::Other => kernel.make_file(root, path, 0, &[]).step(words)?,
            }
            let copy = kernel.copy_mount(here(), &from, true).step(words)?;
            // Its attributes are set, and locked, since `root::enter`.
            kernel.attach(copy.as_fd(), root, path).step(words)
        }
    }
}

/// Device nodes: made, or, where a user namespace forbids that, bound from the shim's.
fn devices<K: Kernel>(kernel: &K, root: BorrowedFd<'_>, plan: &Plan) -> Result<(), StepError> {
    for device in &plan.devices {
        let path = relative(&device.path);
        if plan.namespaces.user.is_none() {
            kernel
                .make_device(root, path, device.major, device.minor)
                .step(|| format!("make the device {}", device.path))?;
            continue;
        }
        bind(kernel, root, here(), &device.path, path, true)
            .step(|| format!("bind the device {}", device.path))?;
    }
    Ok(())
}

/// Binds `from` on the new or existing file `to`.
fn bind<K: Kernel>(
    kernel: &K,
    root: BorrowedFd<'_>,
    from_dir: BorrowedFd<'_>,
    from: &str,
    to: &str,
    create: bool,
) -> Result<(), Errno> {
    if create {
        kernel.make_file(root, to, 0o666, &[])?;
    }
    let copy = kernel.copy_mount(from_dir, from, false)?;
    kernel.attach(copy.as_fd(), root, to)
}

fn sysctls<K: Kernel>(kernel: &K, root: BorrowedFd<'_>, plan: &Plan) -> Result<(), StepError> {
    for (name, value) in &plan.sysctls {
        // As sysctl(8): the separator that comes first is the separator; the other one is part of a name.
        let dots = name.find('.').unwrap_or(name.len()) < name.find('/').unwrap_or(name.len());
        let path: String = if dots {
            name.chars()
                .map(|c| match c {
                    '.' => '/',
                    '/' => '.',
                    c => c,
                })
                .collect()
        } else {
            name.clone()
        };
        kernel
            .write(root, &format!("proc/sys/{path}"), value.as_bytes())
            .step(|| format!("set the sysctl {name} to {value:?}"))?;
    }
    Ok(())
}

/// Masked and read-only paths. What does not exist needs neither.
fn restrict<K: Kernel>(kernel: &K, root: BorrowedFd<'_>, plan: &Plan) -> Result<(), StepError> {
    let kind = |path: &str| match kernel.kind(root, path) {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some),
    };
    let mut empty: Option<&str> = None;
    for masked in &plan.masked {
        let path = relative(masked);
        let words = || format!("mask {masked}");
        match kind(path).step(words)? {
            None => {}
            Some(Kind::Other) => bind(kernel, root, root, "dev/null", path, false).step(words)?,
            Some(Kind::Directory) => match empty {
                // One empty tmpfs for all of them.
                Some(empty) => bind(kernel, root, root, empty, path, false).step(words)?,
                None => {
                    let options = [("size".into(), Some("4k".into())), ("mode".into(), Some("0555".into()))];
                    let attrs =
                        Attrs { read_only: true, nosuid: true, nodev: true, noexec: true, recursive: false };
                    kernel
                        .new_mount("tmpfs", &options, attrs)
                        .and_then(|new| kernel.attach(new.as_fd(), root, path))
                        .step(words)?;
                    empty = Some(path);
                }
            },
        }
    }
    for read_only in &plan.read_only {
        let path = relative(read_only);
        let words = || format!("make {read_only} read-only");
        if kind(path).step(words)?.is_some() {
            let copy = kernel.copy_mount(root, path, true).step(words)?;
            let attrs = Attrs { read_only: true, recursive: true, ..Attrs::default() };
            kernel.restrict(copy.as_fd(), "", attrs).step(words)?;
            kernel.attach(copy.as_fd(), root, path).step(words)?;
        }
    }
    Ok(())
}
