//! What the process of an application container needs of the kernel beyond the infra container's: paths of an
//! image that nobody trusts, terminals, a command to look up.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::{Errno, Result};
use sandboxd_shim::plan::Capabilities;
use sandboxd_shim::plan::container::NodeKind;

use super::linux::{last_errno, register, sets_of, syscall};
use super::{Kernel, Linux};

/// Where a lookup ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Last {
    /// At what a symbolic link at the end points to.
    Follow,
    /// At the link itself.
    Link,
}

/// Flags of mount_setattr(2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Change {
    pub set: u64,
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or nothing.
    pub propagation: u64,
    pub recursive: bool,
}

/// Everything beneath becomes private.
pub const PRIVATE: Change = Change { set: 0, clear: 0, propagation: libc::MS_PRIVATE, recursive: true };

/// Side effects in and around an application container.
pub trait Guest: Kernel {
    /// `path` with `root` as "/": symbolic links and ".." stay beneath it, magic links are refused (openat2). The
    /// descriptor is only a place (O_PATH).
    fn resolve(&self, root: BorrowedFd<'_>, path: &str, last: Last) -> Result<OwnedFd>;
    /// What a symbolic link, resolved with [`Last::Link`], points to.
    fn target(&self, link: BorrowedFd<'_>) -> Result<String>;
    fn change(&self, dir: BorrowedFd<'_>, path: &str, change: Change) -> Result<()>;
    fn make_node(
        &self,
        dir: BorrowedFd<'_>,
        path: &str,
        kind: NodeKind,
        mode: u32,
        number: (u32, u32),
    ) -> Result<()>;
    /// Writes to an open file, in one write(2).
    fn put(&self, file: BorrowedFd<'_>, data: &[u8]) -> Result<()>;
    fn unlink(&self, dir: BorrowedFd<'_>, path: &str) -> Result<()>;
    /// `None`: the group stays.
    fn own(&self, dir: BorrowedFd<'_>, path: &str, uid: u32, gid: Option<u32>) -> Result<()>;
    fn enter_dir(&self, dir: BorrowedFd<'_>) -> Result<()>;
    /// A new terminal of a devpts, given by its directory: master, not blocking, and slave.
    fn terminal(&self, devpts: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)>;
    /// Makes a terminal the session's.
    fn control(&self, terminal: BorrowedFd<'_>) -> Result<()>;
    /// Every signal as a new process has it, none blocked.
    fn default_signals(&self) -> Result<()>;
    /// Capabilities survive the change of ids that comes next, and no more.
    fn keep_once(&self) -> Result<()>;
    fn raise_ambient(&self, set: u64) -> Result<()>;
    /// Permitted, effective and inheritable sets, in one call; the ambient set keeps what these allow.
    fn drop_to(&self, sets: Capabilities) -> Result<()>;
    /// What the process holds at most: permitted, and in the bounding set.
    fn held(&self) -> Result<u64>;
    /// Whether the process, as it is, may execute a file.
    fn executable(&self, path: &CStr) -> Result<()>;
    fn run(&self, path: &CStr, args: &[CString], env: &[CString]) -> Result<Infallible>;
}

impl Guest for Linux {
    fn resolve(&self, root: BorrowedFd<'_>, path: &str, last: Last) -> Result<OwnedFd> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, last == Last::Link);
        let path = if path.is_empty() { "." } else { path };
        loop {
            let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(root, path, flags, Mode::empty(), resolve) {
                // A rename anywhere on the machine while ".." was walked.
                Err(Errno::AGAIN | Errno::INTR) => {}
                other => return other,
            }
        }
    }

    fn target(&self, link: BorrowedFd<'_>) -> Result<String> {
        let target = rustix::fs::readlinkat(link, "", Vec::new())?;
        target.into_string().map_err(|_| Errno::ILSEQ)
    }

    fn change(&self, dir: BorrowedFd<'_>, path: &str, change: Change) -> Result<()> {
        let path = CString::new(path).map_err(|_| Errno::INVAL)?;
        let mut flags = if path.is_empty() { libc::AT_EMPTY_PATH } else { 0 };
        if change.recursive {
            flags |= libc::AT_RECURSIVE;
        }
        let attr = libc::mount_attr {
            attr_set: change.set,
            attr_clr: change.clear,
            propagation: change.propagation,
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

    fn make_node(
        &self,
        dir: BorrowedFd<'_>,
        path: &str,
        kind: NodeKind,
        mode: u32,
        (major, minor): (u32, u32),
    ) -> Result<()> {
        let kind = match kind {
            NodeKind::Char => FileType::CharacterDevice,
            NodeKind::Block => FileType::BlockDevice,
            NodeKind::Fifo => FileType::Fifo,
        };
        let device = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(dir, path, kind, Mode::from_raw_mode(mode), device)
    }

    fn put(&self, file: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
        let written = rustix::io::write(file, data)?;
        if written == data.len() { Ok(()) } else { Err(Errno::IO) }
    }

    fn unlink(&self, dir: BorrowedFd<'_>, path: &str) -> Result<()> {
        rustix::fs::unlinkat(dir, path, AtFlags::empty())
    }

    fn own(&self, dir: BorrowedFd<'_>, path: &str, uid: u32, gid: Option<u32>) -> Result<()> {
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        flags.set(AtFlags::EMPTY_PATH, path.is_empty());
        rustix::fs::chownat(dir, path, Some(Uid::from_raw(uid)), gid.map(Gid::from_raw), flags)
    }

    fn enter_dir(&self, dir: BorrowedFd<'_>) -> Result<()> {
        rustix::process::fchdir(dir)
    }

    fn terminal(&self, devpts: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let master = rustix::fs::openat2(
            devpts,
            "ptmx",
            flags,
            Mode::empty(),
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
        )?;
        if rustix::fs::fstatfs(&master)?.f_type != DEVPTS {
            return Err(Errno::NOTTY);
        }
        let unlocked: libc::c_int = 0;
        // SAFETY: the kernel reads one int.
        if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
            return Err(last_errno());
        }
        let peer = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: takes flags, no pointer.
        let slave = unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, peer) };
        if slave < 0 {
            return Err(last_errno());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        if let Some((columns, rows)) = size {
            let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
            // SAFETY: the kernel reads one winsize.
            if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } < 0 {
                return Err(last_errno());
            }
        }
        Ok((master, slave))
    }

    fn control(&self, terminal: BorrowedFd<'_>) -> Result<()> {
        // SAFETY: takes a number, no pointer.
        if unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
            return Err(last_errno());
        }
        Ok(())
    }

    fn default_signals(&self) -> Result<()> {
        // What the shim and its runtime ignore; nothing has a handler.
        for number in [libc::SIGHUP, libc::SIGPIPE, libc::SIGXFSZ] {
            // SAFETY: no handler is installed.
            if unsafe { libc::signal(number, libc::SIG_DFL) } == libc::SIG_ERR {
                return Err(Errno::INVAL);
            }
        }
        let none = 0u64;
        let how = register(libc::SIG_SETMASK);
        let address = (&raw const none).expose_provenance();
        // SAFETY: the kernel reads the set, which outlives the call, and writes nothing.
        unsafe { syscall(libc::SYS_rt_sigprocmask, [how, address, 0, size_of::<u64>(), 0]) }.map(drop)
    }

    fn keep_once(&self) -> Result<()> {
        rustix::thread::set_keep_capabilities(true)
    }

    fn raise_ambient(&self, set: u64) -> Result<()> {
        for number in (0..64usize).filter(|number| set & 1 << number != 0) {
            let option = register(libc::PR_CAP_AMBIENT);
            let raise = register(libc::PR_CAP_AMBIENT_RAISE);
            // SAFETY: takes numbers, no pointers.
            unsafe { syscall(libc::SYS_prctl, [option, raise, number, 0, 0]) }?;
        }
        Ok(())
    }

    fn drop_to(&self, sets: Capabilities) -> Result<()> {
        rustix::thread::set_capabilities(None, sets_of(sets))
    }

    fn held(&self) -> Result<u64> {
        let permitted = rustix::thread::capabilities(None)?.permitted.bits();
        let bounding = (0..64).map(|number| 1u64 << number).filter(|bit| {
            let capability = rustix::thread::CapabilitySet::from_bits_retain(*bit);
            permitted & bit != 0 && rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
        });
        Ok(bounding.fold(0, |all, bit| all | bit))
    }

    fn executable(&self, path: &CStr) -> Result<()> {
        let stat = rustix::fs::stat(path)?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Errno::ISDIR);
        }
        rustix::fs::accessat(super::here(), path, rustix::fs::Access::EXEC_OK, AtFlags::EACCESS)
    }

    fn run(&self, path: &CStr, args: &[CString], env: &[CString]) -> Result<Infallible> {
        let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect()
        };
        let (args, env) = (pointers(args), pointers(env));
        let args = [
            path.as_ptr().expose_provenance(),
            args.as_ptr().expose_provenance(),
            env.as_ptr().expose_provenance(),
            0,
            0,
        ];
        // SAFETY: NULL-terminated arrays of NUL-terminated strings that outlive the call.
        unsafe { syscall(libc::SYS_execve, args) }?;
        Err(Errno::NOSYS)
    }
}

/// DEVPTS_SUPER_MAGIC (linux/magic.h).
const DEVPTS: rustix::fs::FsWord = 0x1cd1;
