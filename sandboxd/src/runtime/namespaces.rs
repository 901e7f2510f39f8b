//! Namespaces as file descriptors: taken through a pidfd, asked for their owner, pinned by a bind mount.
//!
//! A path under /proc/PID names whatever has that pid by the time it is opened; a pidfd names one process. So
//! the pidfd's own ioctls come first (PIDFD_GET_…_NAMESPACE, Linux 6.11), and on older kernels a path under
//! /proc is taken only if the process is seen to be alive, through the pidfd, after the path was opened.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags};

use super::RuntimeError;
use crate::pod::model::{NsInode, NsKind};

// linux/pidfd.h, linux/nsfs.h: all `_IO(magic, number)`.
const PIDFD: libc::c_ulong = 0xff00;
const NS_GET_USERNS: libc::c_ulong = 0xb701;
const NS_GET_PARENT: libc::c_ulong = 0xb702;
const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
const NS_GET_OWNER_UID: libc::c_ulong = 0xb704;

/// A namespace of the process behind a pidfd.
///
/// # Errors
/// [`RuntimeError::Io`], with ESRCH once the process is gone.
pub fn of_process(pidfd: BorrowedFd<'_>, kind: NsKind) -> Result<OwnedFd, RuntimeError> {
    let number = match kind {
        NsKind::Cgroup => 1,
        NsKind::Ipc => 2,
        NsKind::Mnt => 3,
        NsKind::Net => 4,
        NsKind::Pid => 5,
        NsKind::Time => 7,
        NsKind::User => 9,
        NsKind::Uts => 10,
    };
    let opened = match open_by_ioctl(pidfd, PIDFD | number) {
        Err(Errno::NOTTY | Errno::INVAL | Errno::OPNOTSUPP) => through_proc(pidfd, kind),
        other => other,
    };
    opened.map_err(|errno| failed(format!("taking the {} namespace of a process", kind.name()), errno))
}

/// The namespace by path, checked against the pidfd.
fn through_proc(pidfd: BorrowedFd<'_>, kind: NsKind) -> Result<OwnedFd, Errno> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).map_err(errno_of)?;
    let pid = info
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))
        .and_then(|pid| pid.trim().parse::<i32>().ok());
    let pid = pid.filter(|pid| *pid > 0).ok_or(Errno::SRCH)?;
    let path = format!("/proc/{pid}/ns/{}", kind.name());
    let namespace = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    // SAFETY: takes no pointers but the null one. Signal 0 only asks whether the process is there.
    let alive = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), 0, 0, 0) };
    if alive == 0 { Ok(namespace) } else { Err(errno_of(io::Error::last_os_error())) }
}

/// A namespace of this process: the host's, for the daemon.
///
/// # Errors
/// [`RuntimeError::Io`] where /proc is not mounted.
pub fn own(kind: NsKind) -> Result<OwnedFd, RuntimeError> {
    let path = format!("/proc/self/ns/{}", kind.name());
    rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| failed(format!("opening {path}"), errno))
}

/// The user namespace that owns a namespace (NS_GET_USERNS). `None`: outside what this process may see.
///
/// # Errors
/// [`RuntimeError::Io`] where the descriptor is no namespace.
pub fn owner(namespace: BorrowedFd<'_>) -> Result<Option<OwnedFd>, RuntimeError> {
    visible(open_by_ioctl(namespace, NS_GET_USERNS), "asking for the owner of a namespace")
}

/// The parent of a user or pid namespace (NS_GET_PARENT). `None`: outside what this process may see.
///
/// # Errors
/// [`RuntimeError::Io`] where the descriptor is no such namespace.
pub fn parent(namespace: BorrowedFd<'_>) -> Result<Option<OwnedFd>, RuntimeError> {
    visible(open_by_ioctl(namespace, NS_GET_PARENT), "asking for the parent of a namespace")
}

fn visible(got: Result<OwnedFd, Errno>, action: &str) -> Result<Option<OwnedFd>, RuntimeError> {
    match got {
        Ok(namespace) => Ok(Some(namespace)),
        Err(Errno::PERM) => Ok(None),
        Err(errno) => Err(failed(action.to_owned(), errno)),
    }
}

/// What kind of namespace a descriptor is (NS_GET_NSTYPE).
///
/// # Errors
/// [`RuntimeError::Io`] where it is none.
pub fn kind(namespace: BorrowedFd<'_>) -> Result<NsKind, RuntimeError> {
    // SAFETY: the ioctl takes no argument.
    let kind = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE) };
    match kind {
        libc::CLONE_NEWUSER => Ok(NsKind::User),
        libc::CLONE_NEWNET => Ok(NsKind::Net),
        libc::CLONE_NEWNS => Ok(NsKind::Mnt),
        libc::CLONE_NEWPID => Ok(NsKind::Pid),
        libc::CLONE_NEWIPC => Ok(NsKind::Ipc),
        libc::CLONE_NEWUTS => Ok(NsKind::Uts),
        libc::CLONE_NEWCGROUP => Ok(NsKind::Cgroup),
        libc::CLONE_NEWTIME => Ok(NsKind::Time),
        _ => Err(failed("asking for the type of a namespace".into(), errno_of(io::Error::last_os_error()))),
    }
}

/// The host uid that made a user namespace (NS_GET_OWNER_UID).
///
/// # Errors
/// [`RuntimeError::Io`] where the descriptor is no user namespace.
pub fn owner_uid(user_namespace: BorrowedFd<'_>) -> Result<u32, RuntimeError> {
    let mut uid: libc::uid_t = 0;
    // SAFETY: the kernel writes one uid_t to a place that lives longer than the call.
    let result = unsafe { libc::ioctl(user_namespace.as_raw_fd(), NS_GET_OWNER_UID, &raw mut uid) };
    if result == 0 {
        return Ok(uid);
    }
    Err(failed("asking who made a user namespace".into(), errno_of(io::Error::last_os_error())))
}

/// The namespace's inode in nsfs.
///
/// # Errors
/// [`RuntimeError::Io`], which an open descriptor does not give.
pub fn inode(namespace: BorrowedFd<'_>) -> Result<NsInode, RuntimeError> {
    let stat =
        rustix::fs::fstat(namespace).map_err(|errno| failed("looking at a namespace".into(), errno))?;
    Ok(NsInode(stat.st_ino))
}

/// The namespaces the daemon itself lives in, by which the pods' own are told from shared ones.
#[derive(Debug, Clone, Default)]
pub struct HostInodes(Vec<(NsKind, NsInode)>);

impl HostInodes {
    /// Reads the daemon's own.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where /proc is not mounted.
    pub fn read() -> Result<Self, RuntimeError> {
        use NsKind::{Cgroup, Ipc, Mnt, Net, Pid, User, Uts};
        let one = |kind| Ok((kind, inode(own(kind)?.as_fd())?));
        [User, Net, Mnt, Pid, Ipc, Uts, Cgroup].into_iter().map(one).collect::<Result<_, _>>().map(Self)
    }

    /// Whether a namespace is the host's.
    #[must_use]
    pub fn is(&self, kind: NsKind, inode: NsInode) -> bool {
        self.0.contains(&(kind, inode))
    }

    /// The inode of the host's namespace of a kind; 0 where not read.
    #[must_use]
    pub fn get(&self, kind: NsKind) -> NsInode {
        self.0.iter().find(|(k, _)| *k == kind).map_or(NsInode(0), |(_, inode)| *inode)
    }
}

/// A new network namespace of the daemon's own user namespace: the first step of network-first handlers.
///
/// Made on a thread of its own, which ends with it: no other thread of the daemon changes its namespace.
///
/// # Errors
/// [`RuntimeError::Io`] when the kernel refuses (limits: /proc/sys/user/max_net_namespaces).
pub fn new_netns() -> Result<OwnedFd, RuntimeError> {
    let make = || -> Result<OwnedFd, Errno> {
        // SAFETY: only this thread leaves the network namespace, and it ends right after.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        rustix::fs::open("/proc/thread-self/ns/net", flags, Mode::empty())
    };
    let action = "making a network namespace";
    let thread = std::thread::Builder::new().name("netns".into()).spawn(make);
    let thread = thread.map_err(|source| RuntimeError::Io { action: action.to_owned(), source })?;
    let made = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    made.map_err(|errno| failed(action.to_owned(), errno))
}

/// Whether a namespace is pinned at the path, and not just the empty file under a pin there.
#[must_use]
pub fn is_pinned(path: &Path) -> bool {
    const NSFS_MAGIC: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == NSFS_MAGIC)
}

/// Keeps a namespace alive under a path: a bind mount of it on a file made for it.
///
/// # Errors
/// [`RuntimeError::Io`]; nothing is left.
pub fn pin(namespace: BorrowedFd<'_>, path: &Path) -> Result<(), RuntimeError> {
    let action = || format!("pinning a namespace on {}", path.display());
    let flags = OFlags::RDONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| failed(action(), errno))?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    let mounted = rustix::mount::mount(source.as_str(), path, c"", MountFlags::BIND, c"");
    mounted.map_err(|errno| {
        // What the mount would have covered: our own empty file.
        let _ = fs::remove_file(path);
        failed(action(), errno)
    })
}

/// Undoes [`pin`]. Idempotent: what is not pinned, or not there, is fine.
///
/// # Errors
/// [`RuntimeError::Io`].
pub fn unpin(path: &Path) -> Result<(), RuntimeError> {
    match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(errno) => return Err(failed(format!("unpinning {}", path.display()), errno)),
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(RuntimeError::Io { action: format!("removing the pin {}", path.display()), source: error })
        }
        _ => Ok(()),
    }
}

/// An ioctl without argument whose result is a new descriptor.
fn open_by_ioctl(fd: BorrowedFd<'_>, request: libc::c_ulong) -> Result<OwnedFd, Errno> {
    // SAFETY: these ioctls take no argument.
    let result = unsafe { libc::ioctl(fd.as_fd().as_raw_fd(), request, 0) };
    if result < 0 {
        return Err(errno_of(io::Error::last_os_error()));
    }
    // SAFETY: a new descriptor, close-on-exec (open_namespace in fs/nsfs.c), that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

#[expect(clippy::needless_pass_by_value, reason = "a map_err argument")]
fn errno_of(error: io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

fn failed(action: String, errno: Errno) -> RuntimeError {
    RuntimeError::Io { action, source: errno.into() }
}

#[cfg(test)]
mod tests {
    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    #[test]
    fn the_ways_to_a_namespace_agree() {
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
        for expected in
            [NsKind::User, NsKind::Net, NsKind::Mnt, NsKind::Pid, NsKind::Ipc, NsKind::Uts, NsKind::Cgroup]
        {
            let namespace = of_process(pidfd.as_fd(), expected).unwrap();
            let by_path = through_proc(pidfd.as_fd(), expected).unwrap();
            let own = own(expected).unwrap();
            assert_eq!(inode(namespace.as_fd()).unwrap(), inode(own.as_fd()).unwrap());
            assert_eq!(inode(namespace.as_fd()).unwrap(), inode(by_path.as_fd()).unwrap());
            assert_eq!(kind(namespace.as_fd()).unwrap(), expected);
        }
    }

    #[test]
    fn a_process_that_is_gone_has_no_namespaces() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        assert!(matches!(of_process(pidfd.as_fd(), NsKind::Net), Err(RuntimeError::Io { .. })));
        assert_eq!(through_proc(pidfd.as_fd(), NsKind::Net).unwrap_err(), Errno::SRCH);
    }

    #[test]
    fn a_namespace_is_pinned_once_and_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net");
        let Ok(netns) = new_netns() else {
            eprintln!("SKIPPED: making a network namespace needs CAP_SYS_ADMIN");
            return;
        };
        let own = inode(netns.as_fd()).unwrap();
        assert!(!HostInodes::read().unwrap().is(NsKind::Net, own));
        pin(netns.as_fd(), &path).unwrap();
        assert!(pin(netns.as_fd(), &path).is_err());
        drop(netns);
        assert!(is_pinned(&path));
        assert_eq!(inode(fs::File::open(&path).unwrap().as_fd()).unwrap(), own);
        unpin(&path).unwrap();
        unpin(&path).unwrap();
        assert!(!is_pinned(&path) && !path.exists());
    }

    #[test]
    fn what_is_no_namespace_is_an_error() {
        let file = fs::File::open("/dev/null").unwrap();
        assert!(kind(file.as_fd()).is_err());
        assert!(owner(file.as_fd()).is_err());
    }
}
