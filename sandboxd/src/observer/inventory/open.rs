//! Opening a namespace without ever waiting on anybody.
//!
//! A pin lives in the mount namespace of somebody who may be hostile: its path can lead over a FUSE file system
//! that never answers, through a symbolic link, or to a device whose open does something. So the path is walked
//! with RESOLVE_CACHED (the kernel refuses what it would have to ask a file system for), without links, below the
//! root of a process of that mount namespace, and ends in an O_PATH descriptor, which opens nothing. Only what
//! is on nsfs, with the inode the mount table gave, is then opened for real.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, Statx, StatxFlags, openat, openat2, statx};
use rustix::io::Errno;

use super::Way;
use crate::pod::model::NsInode;

/// The namespace with this inode.
pub(super) fn open(way: &Way, inode: NsInode) -> Result<OwnedFd, Errno> {
    let path = match way {
        Way::Link(link) => openat(CWD, link, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?,
        Way::Pin { root, path } => {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let root = openat(CWD, root, flags, Mode::empty())?;
            cached(root.as_fd(), path)?
        }
    };
    if !is(&path, inode)? {
        return Err(Errno::STALE);
    }
    let magic = format!("/proc/self/fd/{}", path.as_raw_fd());
    openat(CWD, magic, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// The place of a path below a root, if the kernel knows all of it by heart.
pub(super) fn cached(root: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT
        | ResolveFlags::NO_SYMLINKS
        | ResolveFlags::NO_MAGICLINKS
        | ResolveFlags::CACHED;
    openat2(root, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve)
}

/// Whether it is the namespace with this inode.
fn is(path: &OwnedFd, inode: NsInode) -> Result<bool, Errno> {
    let stat = statx(path, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)?;
    Ok(Nsfs::find().is_some_and(|nsfs| nsfs.has(&stat)) && stat.stx_ino == inode.0)
}

/// The device that all of nsfs is on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Nsfs(u32, u32);

impl Nsfs {
    pub fn find() -> Option<Self> {
        let stat = statx(CWD, c"/proc/self/ns/user", AtFlags::STATX_DONT_SYNC, StatxFlags::INO).ok()?;
        Some(Self(stat.stx_dev_major, stat.stx_dev_minor))
    }

    fn has(self, stat: &Statx) -> bool {
        Self(stat.stx_dev_major, stat.stx_dev_minor) == self
    }

    /// The namespace that a link in a directory of descriptors leads to. Asks no file system for news.
    pub fn inode(self, fds: &OwnedFd, fd: i32) -> Option<NsInode> {
        let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
        let stat = statx(fds, fd.to_string(), flags, StatxFlags::INO).ok()?;
        self.has(&stat).then_some(NsInode(stat.stx_ino))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn only_the_namespace_that_was_asked_for_is_opened() {
        let link = Path::new("/proc/self/ns/net");
        let inode = NsInode(std::fs::metadata(link).unwrap().ino());
        let way = Way::Link(link.to_owned());
        assert!(open(&way, inode).is_ok());
        assert_eq!(open(&way, NsInode(inode.0 + 1)).unwrap_err(), Errno::STALE);
        let null = Way::Link("/dev/null".into());
        let dev_null = NsInode(std::fs::metadata("/dev/null").unwrap().ino());
        assert_eq!(open(&null, dev_null).unwrap_err(), Errno::STALE);
    }

    #[test]
    fn links_on_the_way_to_a_pin_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self/ns/net", dir.path().join("net")).unwrap();
        let way = Way::Pin { root: "/proc/self/root".into(), path: dir.path().join("net") };
        let inode = NsInode(std::fs::metadata("/proc/self/ns/net").unwrap().ino());
        assert!(matches!(open(&way, inode), Err(Errno::LOOP | Errno::STALE | Errno::AGAIN)));
    }
}
