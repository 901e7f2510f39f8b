//! The real kernel.

use std::convert::Infallible;
use std::ffi::CString;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags,
};
use rustix::process::Signal;
use rustix::thread::{CapabilitiesSecureBits, CapabilitySet, CapabilitySets};
use sandboxd_shim::plan::{Attrs, Capabilities};

use super::{Forked, Kernel, Kind};

/// The kernel this process runs on.
#[derive(Debug, Clone, Copy)]
pub struct Linux;

/// A raw system call.
///
/// # Safety
/// The arguments are what the call with this number takes, and its pointers are valid for it.
pub unsafe fn syscall(number: libc::c_long, args: [usize; 5]) -> Result<usize> {
    // SAFETY: passed on to the caller.
    let result = unsafe { libc::syscall(number, args[0], args[1], args[2], args[3], args[4]) };
    usize::try_from(result).map_err(|_| last_errno())
}

/// Why the C library's last call failed.
pub fn last_errno() -> Errno {
    // SAFETY: errno of this thread.
    Errno::from_raw_os_error(unsafe { *libc::__errno_location() })
}

#[expect(clippy::cast_sign_loss, reason = "descriptors and flags in registers")]
pub fn register(value: i32) -> usize {
    value as usize
}

/// linux/sched.h (5.7).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

impl Linux {
    /// fork(2) whose child is born in a cgroup of v2. EBADF for the directory of another hierarchy.
    pub fn fork_into(cgroup: BorrowedFd<'_>) -> Result<Forked> {
        clone3(0, Some(cgroup))
    }
}

/// clone3 with a pidfd, in the cgroup of v2 whose directory is given.
fn clone3(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> Result<Forked> {
    let mut pidfd: i32 = -1;
    // SAFETY: plain integers, for which zero means "not used".
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags | u64::from(libc::CLONE_PIDFD.unsigned_abs());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    // A sibling has the signal of this process; to name one is EINVAL.
    if flags & u64::from(libc::CLONE_PARENT.unsigned_abs()) == 0 {
        args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    }
    if let Some(dir) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(dir.as_raw_fd().unsigned_abs());
    }
    let address = (&raw mut args).expose_provenance();
    (&raw mut pidfd).expose_provenance();
    // SAFETY: the arguments live on this stack; without CLONE_VM the child gets its own copy of it. This
    // process has one thread, so the child finds no lock held by a thread it does not have.
    match unsafe { syscall(libc::SYS_clone3, [address, size_of::<libc::clone_args>(), 0, 0, 0]) }? {
        0 => Ok(Forked::Child),
        pid => {
            // SAFETY: the kernel wrote a new descriptor that nobody else owns.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Forked::Parent { pid: i32::try_from(pid).map_err(|_| Errno::OVERFLOW)?, pidfd })
        }
    }
}

impl Kernel for Linux {
    fn unshare(&self, flags: i32) -> Result<()> {
        // SAFETY: takes no pointers; this process has one thread and shares nothing that unshare would split.
        unsafe { syscall(libc::SYS_unshare, [register(flags), 0, 0, 0, 0]) }.map(drop)
    }

    fn join(&self, namespace: BorrowedFd<'_>, flag: i32) -> Result<()> {
        // SAFETY: takes no pointers; the descriptor is open.
        unsafe { syscall(libc::SYS_setns, [register(namespace.as_raw_fd()), register(flag), 0, 0, 0]) }
            .map(drop)
    }

    fn clone3(&self, flags: u64) -> Result<Forked> {
        clone3(flags, None)
    }

    fn hostname(&self, name: &str) -> Result<()> {
        rustix::system::sethostname(name.as_bytes())
    }

    fn new_mount(&self, fs: &str, options: &[(String, Option<String>)], attrs: Attrs) -> Result<OwnedFd> {
        use rustix::mount::{fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen};
        let context = fsopen(fs, FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (key, value) in options {
            match value {
                Some(value) => fsconfig_set_string(context.as_fd(), key.as_str(), value.as_str())?,
                None => fsconfig_set_flag(context.as_fd(), key.as_str())?,
            }
        }
        fsconfig_create(context.as_fd())?;
        fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attr_flags(attrs))
    }

    fn copy_mount(&self, dir: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd> {
        let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        flags.set(OpenTreeFlags::AT_RECURSIVE, recursive);
        flags.set(OpenTreeFlags::AT_EMPTY_PATH, path.is_empty());
        rustix::mount::open_tree(dir, path, flags)
    }

    fn attach(&self, mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &str) -> Result<()> {
        let mut flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        flags.set(MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH, path.is_empty());
        rustix::mount::move_mount(mount, "", dir, path, flags)
    }

    fn restrict(&self, dir: BorrowedFd<'_>, path: &str, attrs: Attrs) -> Result<()> {
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let mut flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        if attrs.recursive {
            flags |= libc::AT_RECURSIVE;
        }
        let attr = libc::mount_attr {
            attr_set: u64::from(attr_flags(attrs).bits()),
            attr_clr: 0,
            propagation: 0,
            userns_fd: 0,
        };
        let args = [
            register(dir.as_raw_fd()),
            path.as_ptr().expose_provenance(),
            register(flags),
            (&raw const attr).expose_provenance(),
            size_of::<libc::mount_attr>(),
        ];
        // SAFETY: path and attr outlive the call, which reads them and writes nothing.
        unsafe { syscall(libc::SYS_mount_setattr, args) }.map(drop)
    }

    fn make_private(&self) -> Result<()> {
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
    }

    fn pivot(&self, root: BorrowedFd<'_>) -> Result<()> {
        let old =
            rustix::fs::openat(CWD, "/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::process::fchdir(root)?;
        rustix::process::pivot_root(".", ".")?;
        // The old root now lies on top of the new one. Private first: what is unmounted beneath a shared mount
        // is unmounted beneath its peers too, and those are the host's.
        rustix::process::fchdir(&old)?;
        rustix::mount::mount_change(".", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    }

    fn detach(&self, path: &str) -> Result<()> {
        rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
    }

    fn change_dir(&self, path: &str) -> Result<()> {
        rustix::process::chdir(path)
    }

    fn kind(&self, dir: BorrowedFd<'_>, path: &str) -> Result<Kind> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        flags.set(AtFlags::EMPTY_PATH, path.is_empty());
        let stat = rustix::fs::statat(dir, path, flags)?;
        Ok(if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            Kind::Directory
        } else {
            Kind::Other
        })
    }

    fn make_dir(&self, dir: BorrowedFd<'_>, path: &str) -> Result<()> {
        match rustix::fs::mkdirat(dir, path, Mode::from_raw_mode(0o755)) {
            Err(Errno::EXIST) => Ok(()),
            other => other,
        }
    }

    fn make_device(&self, dir: BorrowedFd<'_>, path: &str, major: u32, minor: u32) -> Result<()> {
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(dir, path, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device)
    }

    fn make_link(&self, dir: BorrowedFd<'_>, path: &str, target: &str) -> Result<()> {
        rustix::fs::symlinkat(target, dir, path)
    }

    fn make_file(&self, dir: BorrowedFd<'_>, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = rustix::fs::openat(dir, path, flags, Mode::from_raw_mode(mode))?;
        let mut rest = data;
        while !rest.is_empty() {
            let written = rustix::io::write(&file, rest)?;
            rest = rest.get(written..).unwrap_or_default();
        }
        Ok(())
    }

    fn write(&self, dir: BorrowedFd<'_>, path: &str, data: &[u8]) -> Result<()> {
        let file = rustix::fs::openat(dir, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        let written = rustix::io::write(&file, data)?;
        if written == data.len() { Ok(()) } else { Err(Errno::IO) }
    }

    fn open(&self, dir: BorrowedFd<'_>, path: &str, write: bool) -> Result<OwnedFd> {
        let access = if write { OFlags::RDWR } else { OFlags::RDONLY };
        rustix::fs::openat(dir, path, access | OFlags::CLOEXEC, Mode::empty())
    }

    fn umask(&self, mask: u32) {
        rustix::process::umask(Mode::from_raw_mode(mask));
    }

    fn new_session(&self) -> Result<()> {
        rustix::process::setsid().map(drop)
    }

    fn pause_signals(&self) -> Result<()> {
        for number in [libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ] {
            // SAFETY: no handler is installed.
            if unsafe { libc::signal(number, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(Errno::INVAL);
            }
        }
        // The kernel's own sigset_t: bit n - 1 for signal n.
        let set = [libc::SIGINT, libc::SIGTERM, libc::SIGCHLD].iter().fold(0u64, |set, n| set | 1 << (n - 1));
        let address = (&raw const set).expose_provenance();
        let how = register(libc::SIG_BLOCK);
        // SAFETY: the kernel reads the set, which outlives the call, and writes nothing.
        unsafe { syscall(libc::SYS_rt_sigprocmask, [how, address, 0, size_of::<u64>(), 0]) }.map(drop)
    }

    fn die_with_parent(&self) -> Result<()> {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
    }

    fn keep_capabilities(&self, keep: bool) -> Result<()> {
        let bits =
            if keep { CapabilitiesSecureBits::NO_SETUID_FIXUP } else { CapabilitiesSecureBits::empty() };
        rustix::thread::set_capabilities_secure_bits(bits)
    }

    fn effective_ids(&self, uid: u32, gid: u32) -> Result<()> {
        set_ids(libc::SYS_setresgid, None, gid, None)?;
        set_ids(libc::SYS_setresuid, None, uid, None)
    }

    fn groups(&self, groups: &[u32]) -> Result<()> {
        let pointer = groups.as_ptr().expose_provenance();
        // SAFETY: the kernel reads `len` ids from the slice.
        unsafe { syscall(libc::SYS_setgroups, [groups.len(), pointer, 0, 0, 0]) }.map(drop)
    }

    fn gids(&self, gid: u32) -> Result<()> {
        set_ids(libc::SYS_setresgid, Some(gid), gid, Some(gid))
    }

    fn uids(&self, uid: u32) -> Result<()> {
        set_ids(libc::SYS_setresuid, Some(uid), uid, Some(uid))
    }

    fn bounding(&self, keep: u64) -> Result<()> {
        for number in 0..64u32 {
            if keep & 1 << number != 0 {
                continue;
            }
            match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(
                1 << number,
            )) {
                // One past the last capability this kernel knows.
                Err(Errno::INVAL) => break,
                other => other?,
            }
        }
        Ok(())
    }

    fn capabilities(&self, sets: Capabilities) -> Result<()> {
        match rustix::thread::clear_ambient_capability_set() {
            Ok(()) | Err(Errno::INVAL) => {}
            Err(errno) => return Err(errno),
        }
        rustix::thread::set_capabilities(None, sets_of(sets))
    }

    fn hard_limit(&self, resource: u32) -> Result<u64> {
        let mut limit = libc::rlimit64 { rlim_cur: 0, rlim_max: 0 };
        let args = [0, resource as usize, 0, (&raw mut limit).expose_provenance(), 0];
        // SAFETY: the kernel writes one rlimit64, and reads none.
        unsafe { syscall(libc::SYS_prlimit64, args) }?;
        Ok(limit.rlim_max)
    }

    fn limit(&self, resource: u32, soft: u64, hard: u64) -> Result<()> {
        let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
        let args = [0, resource as usize, (&raw const limit).expose_provenance(), 0, 0];
        // SAFETY: the kernel reads one rlimit64.
        unsafe { syscall(libc::SYS_prlimit64, args) }.map(drop)
    }

    fn no_new_privs(&self) -> Result<()> {
        rustix::thread::set_no_new_privs(true)
    }

    fn seccomp(&self, program: &[u8]) -> Result<()> {
        const INSTRUCTION: usize = size_of::<libc::sock_filter>();
        let length = u16::try_from(program.len() / INSTRUCTION).map_err(|_| Errno::INVAL)?;
        if length == 0 || !program.len().is_multiple_of(INSTRUCTION) {
            return Err(Errno::INVAL);
        }
        // The bytes come from a message and have no alignment; the kernel copies them and needs none.
        let fprog = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
        let mode = libc::SECCOMP_SET_MODE_FILTER as usize;
        // SAFETY: the kernel copies `len` instructions from the slice and writes nothing.
        unsafe { syscall(libc::SYS_seccomp, [mode, 0, (&raw const fprog).expose_provenance(), 0, 0]) }
            .map(drop)
    }

    fn only_fds(&self, streams: [BorrowedFd<'_>; 3], keep: &[BorrowedFd<'_>]) -> Result<()> {
        const FIRST_KEPT: usize = 3;
        // Out of the way of the low numbers first, so that no dup3 closes what a later one copies.
        let above = |fd: BorrowedFd<'_>| {
            rustix::io::fcntl_dupfd_cloexec(fd, 64).map(std::os::fd::IntoRawFd::into_raw_fd)
        };
        let streams = [above(streams[0])?, above(streams[1])?, above(streams[2])?];
        let mut high = Vec::with_capacity(keep.len());
        for fd in keep {
            high.push(above(*fd)?);
        }
        for (target, stream) in streams.into_iter().enumerate() {
            // SAFETY: takes no pointers.
            unsafe { syscall(libc::SYS_dup3, [register(stream), target, 0, 0, 0]) }?;
        }
        for (target, fd) in (FIRST_KEPT..).zip(high) {
            // SAFETY: takes no pointers.
            unsafe { syscall(libc::SYS_dup3, [register(fd), target, register(libc::O_CLOEXEC), 0, 0]) }?;
        }
        let first = FIRST_KEPT + keep.len();
        // SAFETY: takes no pointers. Owners of the closed descriptors are never dropped: the process execs or
        // ends with _exit.
        unsafe { syscall(libc::SYS_close_range, [first, u32::MAX as usize, 0, 0, 0]) }.map(drop)
    }

    fn exec(&self, file: BorrowedFd<'_>, name: &str) -> Result<Infallible> {
        let name = CString::new(name).map_err(|_| Errno::INVAL)?;
        let argv = [name.as_ptr(), std::ptr::null()];
        let envp: [*const libc::c_char; 1] = [std::ptr::null()];
        let args = [
            register(file.as_raw_fd()),
            c"".as_ptr().expose_provenance(),
            argv.as_ptr().expose_provenance(),
            envp.as_ptr().expose_provenance(),
            register(libc::AT_EMPTY_PATH),
        ];
        // SAFETY: NULL-terminated arrays of NUL-terminated strings that outlive the call.
        unsafe { syscall(libc::SYS_execveat, args) }?;
        Err(Errno::NOSYS)
    }
}

/// The sets that capset(2) takes.
pub fn sets_of(sets: Capabilities) -> CapabilitySets {
    CapabilitySets {
        effective: CapabilitySet::from_bits_retain(sets.effective),
        permitted: CapabilitySet::from_bits_retain(sets.permitted),
        inheritable: CapabilitySet::from_bits_retain(sets.inheritable),
    }
}

fn attr_flags(attrs: Attrs) -> MountAttrFlags {
    let mut flags = MountAttrFlags::empty();
    flags.set(MountAttrFlags::MOUNT_ATTR_RDONLY, attrs.read_only);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOSUID, attrs.nosuid);
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, attrs.nodev);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, attrs.noexec);
    flags
}

/// setresuid or setresgid of this one thread; `None` leaves an id as it is.
fn set_ids(number: libc::c_long, real: Option<u32>, effective: u32, saved: Option<u32>) -> Result<()> {
    let keep = |id: Option<u32>| id.unwrap_or(u32::MAX) as usize;
    // SAFETY: takes no pointers.
    unsafe { syscall(number, [keep(real), effective as usize, keep(saved), 0, 0]) }.map(drop)
}

/// The current directory as a descriptor argument.
pub fn here() -> BorrowedFd<'static> {
    CWD
}
