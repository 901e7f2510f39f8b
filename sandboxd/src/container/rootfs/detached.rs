//! Mounts that are attached nowhere.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, OFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use rustix::thread::UnshareFlags;

use super::{RootfsError, Userns, file_system, open_beneath};

/// A detached copy of the mount at a path, from there on down.
///
/// # Errors
/// Those of open_tree(2).
pub(super) fn copy_tree(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
    open_tree(CWD, path, flags)
}

/// What of a tree of mounts is copied and idmapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The mount alone.
    One,
    /// All mounts beneath are copied with it, as they are.
    Top,
    /// All mounts beneath are copied and idmapped, which each must support.
    All,
}

/// A detached copy that is idmapped.
///
/// # Errors
/// [`RootfsError::NoIdmap`] where the file system does not, [`RootfsError::Io`].
pub fn idmap(path: &Path, userns: Userns<'_>, depth: Depth) -> Result<OwnedFd, RootfsError> {
    let mount = copy_tree(path, depth != Depth::One)
        .map_err(|errno| RootfsError::io(format!("taking the mount {}", path.display()), errno))?;
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns.fd.as_raw_fd()).unwrap_or(u64::MAX),
    };
    match set_attr(mount.as_fd(), &attr, depth == Depth::All) {
        Ok(()) => Ok(mount),
        // EPERM: a mount that is idmapped already, or whose superblock belongs to another user namespace.
        Err(errno @ (Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM)) => {
            Err(RootfsError::NoIdmap { path: path.to_owned(), fs: file_system(path), source: errno.into() })
        }
        Err(errno) => Err(RootfsError::io(format!("idmapping the mount {}", path.display()), errno)),
    }
}

pub(super) fn read_only(mount: BorrowedFd<'_>) -> Result<(), Errno> {
    let attr =
        libc::mount_attr { attr_set: libc::MOUNT_ATTR_RDONLY, attr_clr: 0, propagation: 0, userns_fd: 0 };
    set_attr(mount, &attr, false)
}

fn set_attr(mount: BorrowedFd<'_>, attr: &libc::mount_attr, recursive: bool) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a constant with its NUL, `attr` outlives the call, which reads its size and no more.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(last_errno()) }
}

pub(super) fn last_errno() -> Errno {
    let error = std::io::Error::last_os_error();
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// A directory or file of a detached mount as a detached mount of its own, resolved within the mount.
///
/// # Errors
/// [`RootfsError::Io`] naming the path.
pub(super) fn sub_tree(mount: OwnedFd, path: &str) -> Result<OwnedFd, RootfsError> {
    on_thread(move || {
        // A copy can be made of what is attached; a mount namespace of this thread's own is where that does not
        // show. Kernels before 6.15 know no other way.
        let failed = |errno| RootfsError::io(format!("taking the directory {path:?} of a mount"), errno);
        own_namespace()?;
        let at = open_tree(CWD, "/proc", OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(failed)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
        move_mount(&mount, "", &at, "", flags).map_err(failed)?;
        let found = open_beneath(mount.as_fd(), path, OFlags::PATH).map_err(failed)?;
        let clone =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        open_tree(&found, "", clone).map_err(failed)
    })
}

/// Gives this thread a mount namespace of its own, from which nothing gets back to the host's.
pub(super) fn own_namespace() -> Result<(), RootfsError> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    let failed = |errno| RootfsError::io("making a mount namespace for a thread", errno);
    // SAFETY: only this thread leaves the namespace and the shared working directory; it ends with its work.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS) }.map_err(failed)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(failed)
}

/// Runs what changes a thread's ids or namespaces on a thread that ends with it.
///
/// # Errors
/// Those of the work, and [`RootfsError::Io`] where no thread can be had.
pub(super) fn on_thread<T: Send>(
    work: impl FnOnce() -> Result<T, RootfsError> + Send,
) -> Result<T, RootfsError> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("rootfs".into()).spawn_scoped(scope, work);
        let thread = thread.map_err(RootfsError::std("starting a thread"))?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
