//! Copies a tree of files with all that belongs to them: owners, modes, times, extended attributes, links, holes.
//!
//! By descriptors only, and no symbolic link is ever followed: trees come from images.

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, SeekFrom, Stat, Timespec, Timestamps, XattrFlags};
use rustix::io::Errno;

use crate::pod::spec::IdMappings;

/// Directories within directories: beyond any real tree, and well within a thread's stack.
const DEPTH_MAX: usize = 256;
/// Files of a tree.
const ENTRIES_MAX: u64 = 4_000_000;
const XATTR_MAX: usize = 65_536;

/// How a copy differs from the original.
#[derive(Debug, Clone, Copy, Default)]
pub struct Options<'a> {
    /// Ids inside become those outside; what is not mapped stays.
    pub shift: Option<&'a IdMappings>,
    /// Whiteouts, and the attributes in which overlayfs keeps what it knows of a layer.
    pub overlay: bool,
}

/// A file that could not be copied.
#[derive(Debug, thiserror::Error)]
#[error("copying {path:?}")]
pub struct CopyError {
    pub path: String,
    #[source]
    pub source: io::Error,
}

/// What was copied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Copied {
    pub entries: u64,
    pub bytes: u64,
}

/// Copies the contents of a directory into another, empty one, which also gets its owner, mode and attributes.
///
/// # Errors
/// [`CopyError`] naming the first file that could not be copied.
pub fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>, options: Options<'_>) -> Result<Copied, CopyError> {
    let mut copy =
        Copy { options, links: HashMap::new(), root: to, path: Vec::new(), copied: Copied::default() };
    copy.directory(from, to, 0).map_err(|source| CopyError { path: copy.path.join("/"), source })?;
    Ok(copy.copied)
}

struct Copy<'a> {
    options: Options<'a>,
    /// Files with several names: where the first was copied to.
    links: HashMap<(u64, u64), CString>,
    root: BorrowedFd<'a>,
    /// Names from the root on, also for the error.
    path: Vec<String>,
    copied: Copied,
}

impl Copy<'_> {
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: usize) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("more than {DEPTH_MAX} directories deep")));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = rustix::fs::openat(from, c".", flags, Mode::empty())?;
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            self.path.push(name.to_string_lossy().into_owned());
            self.entry(from, to, name, depth)?;
            self.path.pop();
        }
        let stat = rustix::fs::fstat(from)?;
        self.attributes(from, to, &stat)?;
        self.own(to, c"", &stat)?;
        Ok(self.finish(to, c"", &stat)?)
    }

    fn entry(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        depth: usize,
    ) -> io::Result<()> {
        self.copied.entries += 1;
        if self.copied.entries > ENTRIES_MAX {
            return Err(io::Error::other(format!("more than {ENTRIES_MAX} files")));
        }
        let stat = rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let target = rustix::fs::openat(to, name, flags, Mode::empty())?;
            return self.directory(source.as_fd(), target.as_fd(), depth + 1);
        }
        // A socket is only a name, nobody listens on the copy; a whiteout means nothing outside of a layer.
        let whiteout = kind == FileType::CharacterDevice && stat.st_rdev == 0 && !self.options.overlay;
        if kind == FileType::Socket || whiteout {
            return Ok(());
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                return Ok(rustix::fs::linkat(self.root, first, to, name, AtFlags::empty())?);
            }
            // Names keep their bytes: the path for the error may have lost some.
            let mut path = self.path.get(..depth).unwrap_or_default().join("/").into_bytes();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            if let Ok(path) = CString::new(path) {
                self.links.insert(key, path);
            }
        }
        match kind {
            FileType::RegularFile => self.file(from, to, name, &stat)?,
            FileType::Symlink => {
                let target = rustix::fs::readlinkat(from, name, Vec::new())?;
                rustix::fs::symlinkat(&target, to, name)?;
            }
            kind => {
                rustix::fs::mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
            }
        }
        self.own(to, name, &stat)?;
        if kind != FileType::RegularFile {
            self.attributes_at(from, to, name, &stat)?;
        }
        Ok(self.finish(to, name, &stat)?)
    }

    fn file(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let source = rustix::fs::openat(from, name, flags, Mode::empty())?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let target = rustix::fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
        self.copied.bytes += data(&source, &target, u64::try_from(stat.st_size).unwrap_or(0))?;
        // Owner first: changing it takes set-id bits and file capabilities away.
        self.own(to, name, stat)?;
        self.attributes(source.as_fd(), target.as_fd(), stat)
    }

    fn own(&self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
        let (uid, gid) = match self.options.shift {
            None => (stat.st_uid, stat.st_gid),
            Some(maps) => (
                maps.host_uid(stat.st_uid).unwrap_or(stat.st_uid),
                maps.host_gid(stat.st_gid).unwrap_or(stat.st_gid),
            ),
        };
        let mut flags = AtFlags::SYMLINK_NOFOLLOW;
        flags.set(AtFlags::EMPTY_PATH, name.is_empty());
        let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), flags)
    }

    /// Mode and times, after everything that would change them.
    fn finish(&self, to: BorrowedFd<'_>, name: &CStr, stat: &Stat) -> Result<(), Errno> {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        if name.is_empty() {
            rustix::fs::fchmod(to, mode)?;
        } else if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            // Not a link: it was made here just now, in a directory nobody else knows.
            rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
        }
        #[expect(clippy::cast_possible_wrap, reason = "nanoseconds of a second")]
        let time = |sec: i64, nsec: u64| Timespec { tv_sec: sec, tv_nsec: nsec as i64 };
        let times = Timestamps {
            last_access: time(stat.st_atime, stat.st_atime_nsec),
            last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
        };
        if name.is_empty() {
            rustix::fs::futimens(to, &times)
        } else {
            rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        }
    }

    fn attributes(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, _: &Stat) -> io::Result<()> {
        let names = match sized(|buffer| rustix::fs::flistxattr(from, buffer)) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        };
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Some(name) = self.wanted(name) else { continue };
            let value = match sized(|buffer| rustix::fs::fgetxattr(from, name, buffer)) {
                Err(Errno::NODATA) => continue,
                other => other?,
            };
            rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Those of what cannot be opened without consequences.
    fn attributes_at(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &CStr,
        _: &Stat,
    ) -> io::Result<()> {
        let path = |dir: BorrowedFd<'_>| {
            let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
            path.extend_from_slice(name.to_bytes());
            CString::new(path).map_err(io::Error::other)
        };
        let (from, to) = (path(from)?, path(to)?);
        let names = match sized(|buffer| rustix::fs::llistxattr(from.as_c_str(), buffer)) {
            Err(Errno::OPNOTSUPP) => return Ok(()),
            other => other?,
        };
        for name in names.split_inclusive(|byte| *byte == 0) {
            let Some(name) = self.wanted(name) else { continue };
            let value = sized(|buffer| rustix::fs::lgetxattr(from.as_c_str(), name, buffer))?;
            rustix::fs::lsetxattr(to.as_c_str(), name, &value, XattrFlags::empty())?;
        }
        Ok(())
    }

    fn wanted<'n>(&self, name: &'n [u8]) -> Option<&'n CStr> {
        let name = CStr::from_bytes_with_nul(name).ok()?;
        let of_overlay = name.to_bytes().starts_with(b"trusted.overlay.");
        // A label is the target's own: policies say what it is.
        let label = name == c"security.selinux";
        (!label && (self.options.overlay || !of_overlay)).then_some(name)
    }
}

/// A read into a buffer that is as large as it has to be.
fn sized(read: impl Fn(&mut [u8]) -> Result<usize, Errno>) -> Result<Vec<u8>, Errno> {
    let mut buffer = vec![0; 1024];
    loop {
        match read(&mut buffer) {
            Err(Errno::RANGE) if buffer.len() < XATTR_MAX => buffer.resize(XATTR_MAX, 0),
            Err(errno) => return Err(errno),
            Ok(length) => {
                buffer.truncate(length);
                return Ok(buffer);
            }
        }
    }
}

/// The contents; holes stay holes.
fn data(from: &OwnedFd, to: &OwnedFd, size: u64) -> Result<u64, Errno> {
    let mut at = 0;
    let mut copied = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // Nothing but a hole up to the end.
            Err(Errno::NXIO) => break,
            Err(_) => at,
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start)).unwrap_or(size).max(start + 1).min(size);
        at = start;
        while at < end {
            let moved = range(from, to, at, end - at)?;
            if moved == 0 {
                break;
            }
            at += moved;
            copied += moved;
        }
        if at < end {
            // Somebody has cut it short.
            break;
        }
    }
    rustix::fs::ftruncate(to, size)?;
    Ok(copied)
}

fn range(from: &OwnedFd, to: &OwnedFd, at: u64, length: u64) -> Result<u64, Errno> {
    let chunk = usize::try_from(length.min(1 << 30)).unwrap_or(1 << 30);
    let (mut here, mut there) = (at, at);
    match rustix::fs::copy_file_range(from, Some(&mut here), to, Some(&mut there), chunk) {
        Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => {}
        other => return other.map(|moved| moved as u64),
    }
    let mut buffer = vec![0; chunk.min(256 * 1024)];
    let read = rustix::io::pread(from, &mut buffer, at)?;
    let mut written = 0;
    while written < read {
        let rest = buffer.get(written..read).unwrap_or_default();
        written += rustix::io::pwrite(to, rest, at + written as u64)?;
    }
    Ok(read as u64)
}

#[cfg(test)]
#[path = "copy_tests.rs"]
mod tests;
