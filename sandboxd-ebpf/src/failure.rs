//! What tells why a call failed that no check was denied in: read when such a call ends, and at no other time.
//!
//! All of it goes through the helper that reads kernel memory: descriptors and mounts are found through pointers that
//! another thread may change meanwhile, and a bad address reads as 0.

use sandboxd_ebpf::{EPERM, Outcome, Syscall, call, fd_kind, valid};

use crate::CLONE_NEWUSER;
use crate::kernel::{self, Probed, Ptr, Typed};

/// s_magic of the file systems of namespaces, pids (from 6.9) and anonymous inodes (pidfds before that).
const NSFS: u64 = 0x6e73_6673;
const PIDFS: u64 = 0x5049_4446;
const ANON_INODE: u64 = 0x0904_1934;
/// What a pidfd on an anonymous inode is called.
const PIDFD_NAME: u64 = u64::from_le_bytes(*b"[pidfd]\0");
/// Mounts on top of each other at the root that are followed; nobody stacks more.
const STACKED: u32 = 4;
/// Extents of an id map that lie in the user namespace itself (UID_GID_MAP_MAX_BASE_EXTENTS).
const EXTENTS: u32 = 5;
const EXTENT_BYTES: u64 = 12;

/// Fills in `outcome` (but for the counts in `call`), and gives the bits of [`valid`] of what was read.
#[inline(always)]
pub fn read(
    outcome: &mut Outcome,
    task: Ptr<Typed>,
    syscall: Syscall,
    (flags, errno): (u64, i32),
    fd: u64,
) -> u32 {
    let task = task.probed();
    let mut seen = 0;
    let mut known = |bit: u32, value: Option<u32>| -> u32 {
        if value.is_some() {
            seen |= bit;
        }
        value.unwrap_or(0)
    };
    let threads = task.follow(kernel::TASK_SIGNAL.load()).read_u32(kernel::SIGNAL_THREADS.load());
    outcome.threads = known(valid::THREADS, threads);
    let fs = task.follow(kernel::TASK_FS.load());
    outcome.fs_users = known(valid::FS_USERS, fs.read_u32(kernel::FS_USERS.load()));
    let cred = task.follow(kernel::TASK_CRED.load());
    let userns = cred.follow(kernel::CRED_USER_NS.load());
    outcome.userns_level = known(valid::USERNS_LEVEL, userns.read_u32(kernel::USERNS_LEVEL.load()));
    let pid = task.follow(kernel::TASK_THREAD_PID.load());
    outcome.pidns_level = known(valid::PIDNS_LEVEL, pid.read_u32(kernel::PID_LEVEL.load()));
    let seccomp = task.inside(kernel::TASK_SECCOMP.load()).read_u32(kernel::SECCOMP_MODE.load());
    outcome.seccomp = known(valid::SECCOMP, seccomp);
    if matches!(syscall, Syscall::Setns)
        && let Some((kind, inode)) = descriptor(task, fd as u32)
    {
        (outcome.fd_kind, outcome.fd_inode) = (kind, inode);
        seen |= valid::FD;
    }
    if matches!(syscall, Syscall::Unshare) && errno == EPERM && flags & CLONE_NEWUSER != 0 {
        if is_chrooted(fs.inside(kernel::FS_ROOT.load())) {
            outcome.call |= call::CHROOTED;
        }
        let has = |map: u32, id: u32| is_mapped(userns.inside(map), cred.read_u32(id));
        if !has(kernel::USERNS_UIDS.load(), kernel::CRED_EUID.load())
            || !has(kernel::USERNS_GIDS.load(), kernel::CRED_EGID.load())
        {
            outcome.call |= call::UNMAPPED;
        }
    }
    seen
}

/// What a descriptor of the task is. `None`: this kernel does not show it.
#[inline(always)]
fn descriptor(task: Ptr<Probed>, fd: u32) -> Option<(u32, u32)> {
    let table = task.follow(kernel::TASK_FILES.load()).follow(kernel::FILES_FDT.load());
    let most = table.read_u32(kernel::FDT_MAX.load())?;
    let slots = table.follow(kernel::FDT_FD.load());
    if slots.is_null() {
        return None;
    }
    // The offset is no constant: a slot of the table.
    let file = if fd < most { slots.slot(fd) } else { Ptr::new(0) };
    if file.is_null() {
        return Some((fd_kind::NOT_OPEN, 0));
    }
    let inode = file.follow(kernel::FILE_INODE.load());
    let magic = inode.follow(kernel::INODE_SB.load()).read_u64(kernel::SB_MAGIC.load())?;
    if magic == NSFS {
        let namespace = inode.follow(kernel::INODE_PRIVATE.load());
        let inum = namespace.read_u32(kernel::NS_INUM.load())?;
        let kind = namespace.read_u32(kernel::NS_TYPE.load());
        let kind = match kind {
            Some(kind) => kind,
            None => namespace.follow(kernel::NS_OPS.load()).read_u32(kernel::NS_OPS_TYPE.load())?,
        };
        return Some((kind, inum));
    }
    let is_pidfd = magic == PIDFS || (magic == ANON_INODE && name(file) == PIDFD_NAME);
    Some((if is_pidfd { fd_kind::PIDFD } else { fd_kind::OTHER }, 0))
}

/// The first eight bytes of a file's name.
#[inline(always)]
fn name(file: Ptr<Probed>) -> u64 {
    let dentry = file.inside(kernel::FILE_PATH.load()).follow(kernel::PATH_DENTRY.load());
    let name = dentry.inside(kernel::DENTRY_NAME.load()).follow(kernel::QSTR_NAME.load());
    name.read_u64(0).unwrap_or(0)
}

/// As current_chrooted() of fs/namespace.c: whether a root directory is not on top of what is mounted at the root of
/// the mount namespace. What cannot be read counts as the root.
#[inline(always)]
fn is_chrooted(root: Ptr<Probed>) -> bool {
    let vfsmount = root.follow(kernel::PATH_MNT.load());
    let mut dentry = root.follow(kernel::PATH_DENTRY.load());
    let mut mount = vfsmount.around(kernel::MOUNT_VFSMOUNT.load());
    for _ in 0..STACKED {
        let top = mount.inside(kernel::MOUNT_VFSMOUNT.load()).follow(kernel::VFSMOUNT_ROOT.load());
        if top.is_null() || dentry.is_null() {
            return false;
        }
        if !dentry.is(top) {
            return true;
        }
        let parent = mount.follow(kernel::MOUNT_PARENT.load());
        if parent.is_null() || parent.is(mount) {
            return false;
        }
        dentry = mount.follow(kernel::MOUNT_POINT.load());
        mount = parent;
    }
    false
}

/// Whether an id has a number in the user namespace of a map. Where this kernel does not show it, or there are more
/// extents than lie in the namespace itself, it counts as mapped.
#[inline(always)]
fn is_mapped(map: Ptr<Probed>, id: Option<u32>) -> bool {
    let (Some(id), Some(extents)) = (id, map.read_u32(kernel::MAP_EXTENTS.load())) else { return true };
    if extents > EXTENTS {
        return true;
    }
    let first = map.inside(kernel::MAP_EXTENT.load());
    let mut mapped = 0;
    for n in 0..EXTENTS {
        let extent = first.after(u64::from(n) * EXTENT_BYTES);
        // struct uid_gid_extent: first, lower_first, count.
        let (Some(lower), Some(count)) = (extent.read_u32(4), extent.read_u32(8)) else { return true };
        mapped |= is_below(n, extents) & is_below(id.wrapping_sub(lower), count);
    }
    mapped != 0
}

/// 1 for `a < b`, without a branch: each of them would double what a verifier has to follow.
#[inline(always)]
fn is_below(a: u32, b: u32) -> u64 {
    u64::from(a).wrapping_sub(u64::from(b)) >> 63
}
