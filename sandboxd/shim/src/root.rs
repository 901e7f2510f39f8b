//! The shim's own root: a tmpfs with a fresh proc and sysfs, device nodes, and what the plan brought from the
//! host. The host's mounts are let go, so a pod neither copies nor holds them.
//!
//! ```text
//! /proc /sys     fresh and fully visible: the kernel wants to see one before it lets a user namespace mount
//!                its own (mount_too_revealing)
//! /dev/…         nodes that containers with a user namespace, which may not make any, get as binds
//! /host/N        detached mounts of the plan. A copy made by clone3 with a user namespace has its flags
//!                locked, so that what was handed over read-only stays so
//! /mnt           where the container's root is put together
//! ```

use std::os::fd::{AsFd, BorrowedFd};

use sandboxd_shim::plan::{Attrs, Device};

use crate::kernel::{Guest, Kernel, Kind, PRIVATE, here};
use crate::step::{Step, StepError};

/// Where [`enter`] puts the mounts from the host.
pub const HOST: &str = "/host";
/// Where the container's root is put together.
pub const MNT: &str = "/mnt";

/// Leaves the host's mount namespace: a private copy of it.
pub fn leave_host<K: Kernel>(kernel: &K) -> Result<(), StepError> {
    kernel.unshare(libc::CLONE_NEWNS).step(|| "make the shim's mount namespace".into())?;
    kernel.make_private().step(|| "make the shim's mounts private".into())
}

/// Replaces the copy by a root of the shim's own.
pub fn enter<K: Guest>(
    kernel: &K,
    devices: &[Device],
    host: &[(BorrowedFd<'_>, Attrs)],
) -> Result<(), StepError> {
    let options = [("size", "64k"), ("mode", "0755")].map(|(key, value)| (key.into(), Some(value.into())));
    let attrs = Attrs { nosuid: true, ..Attrs::default() };
    let root = kernel.new_mount("tmpfs", &options, attrs).step(|| "mount the shim's root".into())?;
    let root = root.as_fd();
    // /proc is a directory on every host; what lies under it goes with the rest.
    kernel.attach(root, here(), "/proc").step(|| "attach the shim's root".into())?;
    for dir in ["proc", "sys", "dev", "mnt", "host"] {
        kernel.make_dir(root, dir).step(|| format!("make /{dir} in the shim's root"))?;
    }
    let attrs = Attrs { nosuid: true, nodev: true, noexec: true, ..Attrs::default() };
    for (fs, dir) in [("proc", "proc"), ("sysfs", "sys")] {
        kernel
            .new_mount(fs, &[], attrs)
            .and_then(|mount| kernel.attach(mount.as_fd(), root, dir))
            .step(|| format!("mount {fs} in the shim's root"))?;
    }
    // Containers with a user namespace are "others" to these nodes.
    kernel.umask(0);
    for device in devices {
        let path = device.path.trim_start_matches('/');
        kernel
            .make_device(root, path, device.major, device.minor)
            .step(|| format!("make {} in the shim's root", device.path))?;
    }
    for (index, (mount, attrs)) in host.iter().enumerate() {
        take_host_mount(kernel, root, index, *mount, *attrs)?;
    }
    kernel.pivot(root).step(|| "enter the shim's root".into())
}

fn take_host_mount<K: Guest>(
    kernel: &K,
    root: BorrowedFd<'_>,
    index: usize,
    mount: BorrowedFd<'_>,
    attrs: Attrs,
) -> Result<(), StepError> {
    let path = format!("host/{index}");
    let place = || format!("attach the host's mount {index} in the shim's root");
    match kernel.kind(mount, "").step(place)? {
        Kind::Directory => kernel.make_dir(root, &path).step(place)?,
        Kind::Other => kernel.make_file(root, &path, 0, &[]).step(place)?,
    }
    // Private, or what is detached here later would be detached on the host too.
    kernel.change(mount, "", PRIVATE).step(place)?;
    // Here, before clone3: what is set after it is the container's own to take off again.
    kernel.restrict(mount, "", attrs).step(place)?;
    kernel.attach(mount, root, &path).step(place)
}

/// Lets the host's mounts go, once the container has its own copies.
pub fn drop_host<K: Kernel>(kernel: &K, count: usize) -> Result<(), StepError> {
    for index in 0..count {
        let path = format!("{HOST}/{index}");
        kernel.detach(&path).step(|| format!("detach {path} from the shim's root"))?;
    }
    Ok(())
}
