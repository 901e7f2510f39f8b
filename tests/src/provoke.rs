//! Makes the kernel refuse a mount or a namespace, each time for another reason, for real.
//!
//! A case is run in a process of its own with one thread, as root or with CAP_SYS_ADMIN, CAP_SYS_CHROOT and
//! CAP_SYS_PTRACE in a container's user namespace. Its last call is the one that fails.

use std::path::Path;

use nix::libc;
use nix::mount::MsFlags;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, chroot, fork, getpid};

// By its path, for this file is a part of two crates.
#[path = "provoke/calls.rs"]
mod calls;

pub use calls::exit;
use calls::{
    A_THREAD, CLONE_NEWTIME, Ran, another, another_userns, before, beside, deeper, detached_tmpfs, filter,
    in_child, landlock, map_root, mount, mount_below, move_mount, open, open_ns, own_userns, pidfd,
    private_mounts, read_only, setns, setns_raw, unshare, write,
};

/// What the process ends with that could not get as far as the call.
pub const NOT_PREPARED: i32 = u8::MAX as i32;

#[derive(Debug)]
pub struct Case {
    pub name: &'static str,
    /// The reason it is to be recorded with.
    pub code: &'static str,
    pub errno: i32,
    run: fn(&Path) -> Ran,
}

const fn case(name: &'static str, code: &'static str, errno: i32, run: fn(&Path) -> Ran) -> Case {
    Case { name, code, errno, run }
}

pub const CASES: &[Case] = &[
    case("own userns", "setns-own-userns", libc::EINVAL, |_| {
        Ok(setns(&open_ns("user")?, libc::CLONE_NEWUSER))
    }),
    case("own userns by pidfd", "setns-own-userns", libc::EINVAL, |_| {
        Ok(setns(&pidfd(getpid())?, libc::CLONE_NEWUSER | libc::CLONE_NEWNS))
    }),
    case("userns with threads", "setns-userns-multithreaded", libc::EINVAL, |_| {
        let target = another_userns()?;
        beside(A_THREAD)?;
        Ok(setns(&target, libc::CLONE_NEWUSER))
    }),
    case("userns with a shared fs", "setns-fs-shared", libc::EINVAL, |_| {
        let target = another_userns()?;
        beside(libc::CLONE_FS)?;
        Ok(setns(&target, 0))
    }),
    case("mntns with a shared fs", "setns-fs-shared", libc::EINVAL, |_| {
        let target = open_ns("mnt")?;
        beside(libc::CLONE_FS)?;
        Ok(setns(&target, libc::CLONE_NEWNS))
    }),
    case("pidns above", "setns-pidns-not-below", libc::EINVAL, |_| {
        let above = open_ns("pid")?;
        before(unshare(libc::CLONE_NEWPID))?;
        in_child(|| Ok(setns(&above, libc::CLONE_NEWPID)))
    }),
    case("timens with threads", "setns-timens-multithreaded", libc::EUSERS, |_| {
        let target = open_ns("time")?;
        beside(A_THREAD)?;
        Ok(setns(&target, CLONE_NEWTIME))
    }),
    case("timens with shared memory", "setns-timens-multithreaded", libc::EUSERS, |_| {
        let target = open_ns("time")?;
        beside(libc::CLONE_VM)?;
        Ok(setns(&target, CLONE_NEWTIME))
    }),
    case("no descriptor", "setns-bad-argument", libc::EBADF, |_| Ok(setns_raw(-1, libc::CLONE_NEWNET))),
    case("no namespace", "setns-bad-argument", libc::EINVAL, |_| {
        Ok(setns(&open("/dev/null")?, libc::CLONE_NEWNET))
    }),
    case("wrong kind", "setns-bad-argument", libc::EINVAL, |_| {
        Ok(setns(&open_ns("net")?, libc::CLONE_NEWUTS))
    }),
    case("pidfd without a type", "setns-bad-argument", libc::EINVAL, |_| Ok(setns(&pidfd(getpid())?, 0))),
    case("process gone", "setns-bad-argument", libc::ESRCH, |_| {
        // SAFETY: the child ends at once.
        let child = match before(unsafe { fork() })? {
            ForkResult::Child => exit(0),
            ForkResult::Parent { child } => child,
        };
        let held = pidfd(child)?;
        before(waitpid(child, None))?;
        Ok(setns(&held, libc::CLONE_NEWNET))
    }),
    case("process closed", "setns-process-closed", libc::EPERM, |_| {
        let other = pidfd(another(|| Ok(()))?)?;
        before(unshare(libc::CLONE_NEWUSER))?;
        Ok(setns(&other, libc::CLONE_NEWNET))
    }),
    case("unshare with threads", "unshare-multithreaded", libc::EINVAL, |_| {
        beside(A_THREAD)?;
        Ok(unshare(libc::CLONE_NEWUSER))
    }),
    case("pidns twice", "pidns-already-unshared", libc::EINVAL, |_| {
        before(unshare(libc::CLONE_NEWPID))?;
        Ok(unshare(libc::CLONE_NEWPID))
    }),
    case("limit", "namespace-limit", libc::ENOSPC, |_| {
        own_userns()?;
        write("/proc/sys/user/max_net_namespaces", "0")?;
        Ok(unshare(libc::CLONE_NEWNET))
    }),
    case("userns nested", "namespaces-nested-too-deep", libc::ENOSPC, |_| {
        for _ in 0..40 {
            if let Err(error) = unshare(libc::CLONE_NEWUSER) {
                return Ok(Err(error));
            }
            map_root()?;
        }
        Ok(Ok(()))
    }),
    case("pidns nested", "namespaces-nested-too-deep", libc::ENOSPC, |_| deeper(40)),
    case("chroot", "userns-in-chroot", libc::EPERM, |dir| {
        before(chroot(dir))?;
        Ok(unshare(libc::CLONE_NEWUSER))
    }),
    case("chroot into a mount", "userns-in-chroot", libc::EPERM, |_| {
        before(chroot("/proc"))?;
        Ok(unshare(libc::CLONE_NEWUSER))
    }),
    case("unmapped", "userns-of-unmapped-ids", libc::EPERM, |_| {
        before(unshare(libc::CLONE_NEWUSER))?;
        Ok(unshare(libc::CLONE_NEWUSER))
    }),
    case("locked flags of a mount", "mount-flags-locked", libc::EPERM, |dir| {
        read_only(dir)?;
        Ok(mount(None, dir, None, MsFlags::MS_REMOUNT | MsFlags::MS_BIND, None))
    }),
    case("locked flags, remounted", "mount-flags-locked", libc::EPERM, |dir| {
        read_only(dir)?;
        Ok(mount(None, dir, None, MsFlags::MS_REMOUNT, None))
    }),
    case("bind of locked mounts", "mount-locked-or-invalid", libc::EINVAL, |dir| {
        let inner = mount_below(dir)?;
        before(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
        Ok(mount(Some(dir), &inner, None, MsFlags::MS_BIND, None))
    }),
    case("move of a locked mount", "mount-locked-or-invalid", libc::EINVAL, |dir| {
        let inner = mount_below(dir)?;
        before(unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS))?;
        Ok(mount(Some(&inner), Path::new("/proc"), None, MsFlags::MS_MOVE, None))
    }),
    case("landlocked mount", "refused-by-security-module", libc::EPERM, |dir| {
        private_mounts()?;
        landlock()?;
        Ok(mount(None, dir, Some("tmpfs"), MsFlags::empty(), None))
    }),
    case("landlocked move_mount", "refused-by-security-module", libc::EPERM, |dir| {
        private_mounts()?;
        let tmpfs = detached_tmpfs()?;
        landlock()?;
        Ok(move_mount(&tmpfs, dir))
    }),
    case("no such type", "ordinary-error", libc::ENODEV, |dir| {
        private_mounts()?;
        Ok(mount(None, dir, Some("nosuchfs"), MsFlags::empty(), None))
    }),
    case("no such place", "ordinary-error", libc::ENOENT, |dir| {
        private_mounts()?;
        Ok(mount(None, &dir.join("nowhere"), Some("tmpfs"), MsFlags::empty(), None))
    }),
    case("no such option", "ordinary-error", libc::EINVAL, |dir| {
        private_mounts()?;
        Ok(mount(None, dir, Some("tmpfs"), MsFlags::empty(), Some("nosuch=1")))
    }),
];

/// Calls that a seccomp filter ends.
pub const FILTERED: &[Case] = &[
    case("filtered mount", "refused-before-checks", libc::EPERM, |dir| {
        filter(libc::SYS_mount)?;
        Ok(mount(None, dir, Some("tmpfs"), MsFlags::empty(), None))
    }),
    case("filtered setns", "refused-before-checks", libc::EPERM, |_| {
        let target = open_ns("net")?;
        filter(libc::SYS_setns)?;
        Ok(setns(&target, libc::CLONE_NEWNET))
    }),
];

impl Case {
    /// The errno that the call failed with, 0 for success, or [`NOT_PREPARED`] with a word on stderr: what a process
    /// can end with.
    pub fn run(&self, dir: &Path) -> i32 {
        match (self.run)(dir) {
            Ok(Ok(())) => 0,
            Ok(Err(errno)) => errno as i32,
            Err(problem) => {
                eprintln!("{}: {problem}", self.name);
                NOT_PREPARED
            }
        }
    }
}
