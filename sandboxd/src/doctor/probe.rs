//! A throwaway process in namespaces of its own, to ask the kernel about them.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};
use std::path::Path;

use rustix::fs::fstat;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

/// linux/pidfd.h: `_IO(0xFF, nr)`.
const PIDFD_GET_NET_NAMESPACE: libc::c_ulong = 0xFF04;
const PIDFD_GET_USER_NAMESPACE: libc::c_ulong = 0xFF09;
/// linux/nsfs.h: `_IO(0xb7, 0x1)`.
const NS_GET_USERNS: libc::c_ulong = 0xB701;
/// An id range nobody uses: the probe's files do not exist.
const PROBE_ID: u32 = 2_000_000_000;

/// Sleeps in new namespaces until it is dropped.
#[derive(Debug)]
pub struct Child {
    pid: Pid,
    pidfd: OwnedFd,
}

impl Child {
    /// clone3(2) with all the namespaces of a pod.
    ///
    /// # Errors
    /// What clone3 says, or the write of the id maps.
    pub fn in_new_namespaces() -> io::Result<Self> {
        let mut pidfd: RawFd = -1;
        let namespaces = libc::CLONE_NEWUSER
            | libc::CLONE_NEWNET
            | libc::CLONE_NEWNS
            | libc::CLONE_NEWPID
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_PIDFD;
        // SAFETY: clone_args is plain integers, for all of which 0 is "not asked for".
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        args.flags = u64::from(namespaces.cast_unsigned());
        args.pidfd = (&raw mut pidfd).addr() as u64;
        args.exit_signal = u64::from(libc::SIGCHLD.cast_unsigned());
        // SAFETY: without CLONE_VM the child has its own copy of the address space, as after fork(2). It
        // makes only raw system calls, never returns into Rust, and ends with its parent. `args` and
        // `pidfd` outlive the call.
        let pid = unsafe {
            let pid = libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>());
            if pid == 0 {
                libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0);
                loop {
                    libc::syscall(libc::SYS_ppoll, 0, 0, 0, 0, 0);
                }
            }
            pid
        };
        if pid < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor that only we have.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Err(io::Error::from_raw_os_error(libc::ESRCH)) };
        let child = Self { pid, pidfd };
        // Our own child is not reaped before `drop`, so its pid cannot be another's.
        for map in ["uid_map", "gid_map"] {
            fs::write(format!("/proc/{}/{map}", child.pid), format!("0 {PROBE_ID} 65536"))?;
        }
        Ok(child)
    }

    /// Its user namespace.
    ///
    /// # Errors
    /// When the child is gone.
    pub fn userns(&self) -> io::Result<OwnedFd> {
        self.namespace(PIDFD_GET_USER_NAMESPACE, "user")
    }

    /// Whether the kernel says so of its network namespace.
    ///
    /// # Errors
    /// Where a namespace cannot be asked for its owner.
    pub fn netns_is_owned_by_its_userns(&self) -> io::Result<bool> {
        let netns = self.namespace(PIDFD_GET_NET_NAMESPACE, "net")?;
        let owner = fstat(ioctl_fd(&netns, NS_GET_USERNS)?)?;
        Ok(owner.st_ino == fstat(self.userns()?)?.st_ino)
    }

    /// Before 6.11 by a path, which names our own child until `drop` reaps it.
    fn namespace(&self, request: libc::c_ulong, name: &str) -> io::Result<OwnedFd> {
        match ioctl_fd(&self.pidfd, request) {
            Err(error) if error.raw_os_error() == Some(libc::ENOTTY) => {
                Ok(fs::File::open(format!("/proc/{}/ns/{name}", self.pid))?.into())
            }
            other => other,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = pidfd_send_signal(&self.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// An ioctl without argument that answers a new descriptor.
fn ioctl_fd(fd: &OwnedFd, request: libc::c_ulong) -> io::Result<OwnedFd> {
    // SAFETY: these requests read no memory of ours; their argument is unused.
    let answer = unsafe { libc::ioctl(fd.as_raw_fd(), request, 0) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a non-negative answer is a new descriptor that only we have (ioctl_nsfs(2)).
    Ok(unsafe { OwnedFd::from_raw_fd(answer) })
}

/// Idmaps a detached copy of the mount at `path`; it vanishes with its descriptor.
///
/// # Errors
/// `EINVAL` where the file system does not support it.
pub fn idmapped_clone(path: &Path, userns: &OwnedFd) -> io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(rustix::fs::CWD, path, flags)?;
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(userns.as_raw_fd()).unwrap_or_default(),
    };
    // SAFETY: the empty path and `attr` are valid for the call, and the size is that of `attr`.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attr,
            size_of::<libc::mount_attr>(),
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
