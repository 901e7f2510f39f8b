//! A walk over all files of a mount, which somebody else may be changing meanwhile.
//!
//! Each file is opened by one name in an open directory, over no link and into no other mount, and labelled by that
//! descriptor. The walk has three descriptors at any depth: a daemon with many containers has no more to give. It
//! remembers which directories are to be entered yet, and goes up by "..", which counts only when it is the directory
//! it came from: a directory moved meanwhile ends the walk.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Dir, FileType, Mode, OFlags, ResolveFlags, XattrFlags};
use rustix::io::Errno;

use super::{Kept, Relabelled};

const LABEL: &CStr = c"security.selinux";
/// As deep as a path can name a directory ("a/a/a…" in PATH_MAX).
const DEPTH_MAX: usize = 2048;
/// Beyond any volume: who makes files as fast as they are labelled does not keep a thread for ever.
const FILES_MAX: u64 = 50_000_000;
/// Names of directories that are to be entered yet, in bytes: a million of them.
const NAMES_MAX: usize = 64 << 20;

/// Why a walk ended early.
#[derive(Debug)]
pub(super) enum Stopped {
    /// Nobody waits for it any more.
    Cancelled,
    /// A directory is no longer where it was.
    Moved,
    TooDeep(usize),
    TooMany(u64, &'static str),
    Reading(Errno),
    Setting(Errno),
}

/// A directory on the way from the top to the current one.
struct Level {
    name: CString,
    /// Device and inode.
    identity: (u64, u64),
    /// Directories in it that were not entered yet.
    todo: Vec<CString>,
}

pub(super) struct Walk<'a> {
    label: &'a str,
    cancelled: &'a AtomicBool,
    /// The top's.
    device: u64,
    pub(super) done: Relabelled,
    files: u64,
    names: usize,
    levels: Vec<Level>,
    /// What is being labelled in the last level; empty: that directory itself.
    entry: CString,
}

impl<'a> Walk<'a> {
    pub(super) fn new(label: &'a str, cancelled: &'a AtomicBool) -> Self {
        let (done, entry) = (Relabelled::default(), CString::default());
        Self { label, cancelled, device: 0, done, files: 0, names: 0, levels: Vec::new(), entry }
    }

    pub(super) fn kept(mut self, kept: Kept) -> Relabelled {
        self.done.kept = Some(kept);
        self.done
    }

    /// Where the walk is, from the top: for errors.
    pub(super) fn place(&self) -> PathBuf {
        let names = self.levels.iter().skip(1).map(|level| &level.name).chain([&self.entry]);
        names.filter(|name| !name.is_empty()).map(|name| OsStr::from_bytes(name.to_bytes())).collect()
    }

    /// The top is labelled last: with its label, all of the tree has it.
    pub(super) fn tree(&mut self, top: &OwnedFd) -> Result<(), Stopped> {
        (self.names, self.done.mounts) = (0, 0);
        self.levels.clear();
        self.device = identity(top.as_fd()).map_err(Stopped::Reading)?.0;
        let mut current = rustix::io::fcntl_dupfd_cloexec(top, 0).map_err(Stopped::Reading)?;
        self.list(current.as_fd(), CString::default())?;
        while let Some(level) = self.levels.last_mut() {
            if let Some(name) = level.todo.pop() {
                self.names -= footprint(&name);
                if let Some(dir) = self.enter(current.as_fd(), name)? {
                    current = dir;
                }
                continue;
            }
            self.levels.pop();
            if let Some(parent) = self.levels.last() {
                current = up(current.as_fd(), parent.identity)?;
            }
        }
        self.set(top.as_fd())
    }

    /// A directory beneath the current one; `None`: it is gone, or is something else by now.
    fn enter(&mut self, current: BorrowedFd<'_>, name: CString) -> Result<Option<OwnedFd>, Stopped> {
        self.entry.clone_from(&name);
        let Some(dir) = self.labelled(current, &name)? else { return Ok(None) };
        let entered = self.list(dir.as_fd(), name)?;
        Ok(entered.then_some(dir))
    }

    /// Labels what is in a directory but for further directories, which are noted. False: it is none.
    fn list(&mut self, dir: BorrowedFd<'_>, name: CString) -> Result<bool, Stopped> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = match rustix::fs::openat(dir, c".", flags, Mode::empty()) {
            Err(Errno::NOTDIR | Errno::NOENT) => return Ok(false),
            other => other.map_err(Stopped::Reading)?,
        };
        if self.levels.len() >= DEPTH_MAX {
            return Err(Stopped::TooDeep(DEPTH_MAX));
        }
        let identity = identity(dir).map_err(Stopped::Reading)?;
        self.levels.push(Level { name, identity, todo: Vec::new() });
        let mut todo = Vec::new();
        let mut entries = Dir::new(listed).map_err(Stopped::Reading)?;
        while let Some(entry) = entries.read() {
            let entry = match entry {
                // Removed while it is read.
                Err(Errno::NOENT) => break,
                other => other.map_err(Stopped::Reading)?,
            };
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(Stopped::Cancelled);
            }
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.files += 1;
            if self.files > FILES_MAX {
                return Err(Stopped::TooMany(FILES_MAX, "files"));
            }
            name.clone_into(&mut self.entry);
            let directory = match entry.file_type() {
                FileType::Directory => true,
                // Some file systems do not say.
                FileType::Unknown => rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Directory),
                _ => false,
            };
            if directory {
                self.names += footprint(name);
                if self.names > NAMES_MAX {
                    return Err(Stopped::TooMany(
                        NAMES_MAX as u64,
                        "bytes of names of directories in one place",
                    ));
                }
                todo.push(name.to_owned());
            } else {
                self.labelled(dir, name)?;
            }
        }
        self.entry = CString::default();
        if let Some(level) = self.levels.last_mut() {
            level.todo = todo;
        }
        Ok(true)
    }

    /// Opens and labels one name of a directory; `None`: it is gone, or another mount, or another file system of the
    /// same mount (a subvolume of btrfs) that takes no label.
    fn labelled(&mut self, dir: BorrowedFd<'_>, name: &CStr) -> Result<Option<OwnedFd>, Stopped> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = match rustix::fs::openat2(dir, name, flags, Mode::empty(), resolve) {
            Err(Errno::NOENT) => return Ok(None),
            Err(Errno::XDEV) => {
                self.done.mounts += 1;
                return Ok(None);
            }
            other => other.map_err(Stopped::Reading)?,
        };
        match self.set(file.as_fd()) {
            Err(Stopped::Setting(Errno::ROFS | Errno::OPNOTSUPP))
                if identity(file.as_fd()).map_err(Stopped::Reading)?.0 != self.device =>
            {
                self.done.mounts += 1;
                Ok(None)
            }
            set => set.map(|()| Some(file)),
        }
    }

    /// Through /proc, for whatever it is: a link itself, a pipe or a device without opening it.
    fn set(&mut self, file: BorrowedFd<'_>) -> Result<(), Stopped> {
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut buffer = vec![0; self.label.len() + 1];
        // A longer one is another one, and one that cannot be read is to be set.
        let has = rustix::fs::getxattr(&path, LABEL, &mut buffer[..]).ok();
        let has = has.and_then(|length| buffer.get(..length));
        if has.is_some_and(|has| has.strip_suffix(b"\0").unwrap_or(has) == self.label.as_bytes()) {
            return Ok(());
        }
        rustix::fs::setxattr(&path, LABEL, self.label.as_bytes(), XattrFlags::empty())
            .map_err(Stopped::Setting)?;
        self.done.changed += 1;
        Ok(())
    }
}

/// The directory above, when it is the one that is meant.
pub(super) fn up(current: BorrowedFd<'_>, meant: (u64, u64)) -> Result<OwnedFd, Stopped> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let above = match rustix::fs::openat2(current, c"..", flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::XDEV) => return Err(Stopped::Moved),
        other => other.map_err(Stopped::Reading)?,
    };
    if identity(above.as_fd()).map_err(Stopped::Reading)? == meant { Ok(above) } else { Err(Stopped::Moved) }
}

pub(super) fn identity(dir: BorrowedFd<'_>) -> Result<(u64, u64), Errno> {
    rustix::fs::fstat(dir).map(|stat| (stat.st_dev, stat.st_ino))
}

/// What a name that waits takes in memory, with what the allocator keeps beside it.
fn footprint(name: &CStr) -> usize {
    name.count_bytes() + 2 * size_of::<CString>()
}
