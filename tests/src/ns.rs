//! What the kernel says about namespaces: ioctl_ns(2).

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

mod ioctl {
    nix::ioctl_none!(get_userns, 0xb7, 0x1);
    nix::ioctl_none!(get_parent, 0xb7, 0x2);
    // Numbered as one without an argument, though it takes a pointer (linux/nsfs.h).
    nix::ioctl_read_bad!(get_owner_uid, 0xb704, u32);
}

/// The kinds every pod here has of its own, by their names under /proc/PID/ns.
pub const KINDS: [&str; 7] = ["user", "net", "mnt", "pid", "ipc", "uts", "cgroup"];

/// Opens a namespace of a process.
///
/// # Errors
/// When the process is gone.
pub fn open(pid: i32, kind: &str) -> Result<OwnedFd> {
    open_path(Path::new(&format!("/proc/{pid}/ns/{kind}")))
}

/// Opens a namespace by its path.
///
/// # Errors
/// When there is none.
pub fn open_path(path: &Path) -> Result<OwnedFd> {
    Ok(File::open(path).with_context(|| format!("opening {}", path.display()))?.into())
}

/// The namespace's inode in nsfs.
///
/// # Errors
/// When the descriptor cannot be asked.
pub fn inode(ns: BorrowedFd<'_>) -> Result<u64> {
    Ok(File::from(ns.try_clone_to_owned()?).metadata()?.ino())
}

/// The inode of a process's namespace.
///
/// # Errors
/// When the process is gone.
pub fn inode_of(pid: i32, kind: &str) -> Result<u64> {
    inode(open(pid, kind)?.as_fd())
}

/// The inode of this process's own namespace.
///
/// # Errors
/// When /proc is not mounted.
pub fn own(kind: &str) -> Result<u64> {
    inode(open_path(Path::new(&format!("/proc/self/ns/{kind}")))?.as_fd())
}

/// The user namespace that owns this one (NS_GET_USERNS).
///
/// # Errors
/// EPERM when it is outside of what the caller may see.
pub fn owner(ns: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: NS_GET_USERNS takes no argument and returns a new descriptor, owned by nobody else.
    let fd = unsafe { ioctl::get_userns(ns.as_raw_fd()) }.context("NS_GET_USERNS")?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The parent of a user or pid namespace (NS_GET_PARENT).
///
/// # Errors
/// EPERM when it is outside of what the caller may see.
pub fn parent(ns: BorrowedFd<'_>) -> Result<OwnedFd> {
    // SAFETY: NS_GET_PARENT takes no argument and returns a new descriptor, owned by nobody else.
    let fd = unsafe { ioctl::get_parent(ns.as_raw_fd()) }.context("NS_GET_PARENT")?;
    // SAFETY: as above.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The uid that made a user namespace, in this process's user namespace (NS_GET_OWNER_UID).
///
/// # Errors
/// When the descriptor is no user namespace.
pub fn owner_uid(userns: BorrowedFd<'_>) -> Result<u32> {
    let mut uid = 0u32;
    // SAFETY: NS_GET_OWNER_UID writes one uid_t to the pointer, which is valid for the call.
    unsafe { ioctl::get_owner_uid(userns.as_raw_fd(), &raw mut uid) }.context("NS_GET_OWNER_UID")?;
    Ok(uid)
}

/// The inode of the user namespace that owns a process's namespace.
///
/// # Errors
/// When the process is gone.
pub fn owner_of(pid: i32, kind: &str) -> Result<u64> {
    inode(owner(open(pid, kind)?.as_fd())?.as_fd())
}
