//! Entries of a tar made into files.

mod links;
mod whiteout;

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod, fchown,
    fsetxattr, futimens, makedev, mkdirat, mknodat, openat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::UnpackError;
use super::remove::remove_at;
use super::tree::{Clean, DIRECTORY, OPAQUE, Tree, clean};
use super::xattr::{self, Dropped};
use crate::settings::Limits;
use crate::state::on_disk;
use crate::tar::{Entry, Kind, Reader, Sparse, lossy};

/// Bytes of names that are kept until the end: of directories, whose times come last, and of hard links to
/// what did not come yet.
const MAX_KEPT: usize = 64 << 20;

/// Makes the files of one layer.
#[derive(Debug)]
pub(super) struct Maker<'a> {
    tree: Tree,
    limits: &'a Limits,
    entries: u64,
    inodes: u64,
    bytes: u64,
    apparent: u64,
    max_uid: u32,
    max_gid: u32,
    /// Directories and their times, in the order of the tar.
    times: Vec<(Vec<u8>, (i64, u32))>,
    /// Hard links whose target was not there: path, target.
    links: Vec<(Vec<u8>, Vec<u8>)>,
    kept: usize,
    dropped: BTreeMap<Dropped, u64>,
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Made {
    pub bytes: u64,
    pub inodes: u64,
    pub max_uid: u32,
    pub max_gid: u32,
}

/// Where an entry goes.
struct Place<'a> {
    parent: Rc<OwnedFd>,
    name: &'a CStr,
    /// For people.
    path: &'a [u8],
}

impl Place<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> UnpackError {
        make_error(self.path, action)
    }
}

impl<'a> Maker<'a> {
    pub(super) fn new(tree: Tree, limits: &'a Limits) -> Self {
        Self {
            tree,
            limits,
            entries: 0,
            inodes: 0,
            bytes: 0,
            apparent: 0,
            max_uid: 0,
            max_gid: 0,
            times: Vec::new(),
            links: Vec::new(),
            kept: 0,
            dropped: BTreeMap::new(),
        }
    }

    /// Makes one entry, its data from the reader.
    pub(super) fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        reader: &mut Reader<R>,
    ) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > self.limits.max_entries {
            return Err(UnpackError::TooMuch {
                what: "its number of entries",
                limit: self.limits.max_entries,
            });
        }
        let Clean { parent, name } =
            clean(&entry.path).map_err(|why| UnpackError::Entry { path: lossy(&entry.path), why })?;
        let Some(name) = name else { return self.root(entry) };
        let failed =
            |source| UnpackError::Make { path: lossy(&entry.path), action: "reach its directory", source };
        let parent = self.tree.directory(&parent).map_err(failed)?;
        let place = Place { parent, name: &name, path: &entry.path };
        if whiteout::is_whiteout_name(&name) {
            return self.whiteout(&place);
        }
        match &entry.kind {
            Kind::File => self.file(&place, entry, reader, None),
            Kind::Sparse(sparse) => self.file(&place, entry, reader, Some(sparse)),
            Kind::Directory => self.directory(&place, entry),
            Kind::Symlink => self.symlink(&place, entry),
            Kind::HardLink => self.hard_link(&place, entry),
            Kind::Character(major, minor) => {
                self.node(&place, entry, FileType::CharacterDevice, makedev(*major, *minor))
            }
            Kind::Block(major, minor) => {
                self.node(&place, entry, FileType::BlockDevice, makedev(*major, *minor))
            }
            Kind::Fifo => self.node(&place, entry, FileType::Fifo, 0),
        }
    }

    /// Makes what had to wait for the end.
    pub(super) fn finish(mut self) -> Result<Made, UnpackError> {
        for (path, target) in std::mem::take(&mut self.links) {
            self.late_link(&path, &target)?;
        }
        for (path, mtime) in std::mem::take(&mut self.times) {
            // Replaced by something else since: its own entry said its time.
            let Some(dir) = self.directory_again(&path) else { continue };
            futimens(&dir, &timestamps(mtime)).map_err(make_error(&path, "set its time"))?;
        }
        for (why, count) in &self.dropped {
            tracing::info!(count, why = why.as_str(), "extended attributes of a layer left out");
        }
        let inodes = self.inodes + self.tree.made;
        Ok(Made {
            bytes: self.bytes + self.tree.made * on_disk(1),
            inodes,
            max_uid: self.max_uid,
            max_gid: self.max_gid,
        })
    }

    /// A directory that an entry made, if it is still one.
    fn directory_again(&mut self, path: &[u8]) -> Option<Rc<OwnedFd>> {
        let Clean { parent, name } = clean(path).ok()?;
        let parent = self.tree.existing(&parent).ok()?;
        match name {
            None => Some(parent),
            Some(name) => openat(&parent, &name, DIRECTORY, Mode::empty()).ok().map(Rc::new),
        }
    }

    /// An entry for the root itself: `./`.
    fn root(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if entry.kind != Kind::Directory {
            return Err(UnpackError::Entry {
                path: lossy(&entry.path),
                why: "is the layer's root and no directory",
            });
        }
        let root = self.tree.directory(b"").map_err(|source| UnpackError::Make {
            path: lossy(&entry.path),
            action: "reach it",
            source,
        })?;
        self.attributes(root.as_fd(), entry)?;
        self.remember_time(Vec::new(), entry.mtime)
    }

    fn file<R: BufRead>(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        reader: &mut Reader<R>,
        sparse: Option<&Sparse>,
    ) -> Result<(), UnpackError> {
        let size = sparse.map_or(entry.size, |s| s.real_size);
        self.apparent = self.apparent.saturating_add(size);
        if self.apparent > self.limits.max_layer {
            return Err(UnpackError::TooMuch { what: "the size of its files", limit: self.limits.max_layer });
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let fd = self.create(place, |p| openat(&p.parent, p.name, flags, mode))?;
        let mut file = File::from(fd);
        let write = |source| UnpackError::Make { path: lossy(place.path), action: "write it", source };
        match sparse {
            None => copy(reader, &mut file, entry.size, write)?,
            Some(sparse) => {
                for &(offset, length) in &sparse.pieces {
                    file.seek(SeekFrom::Start(offset)).map_err(write)?;
                    copy(reader, &mut file, length, write)?;
                }
                file.set_len(sparse.real_size).map_err(write)?;
            }
        }
        self.bytes += on_disk(entry.size);
        self.attributes(file.as_fd(), entry)?;
        futimens(&file, &timestamps(entry.mtime)).map_err(place.failed("set its time"))
    }

    fn directory(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(0o700);
        let open = |p: &Place<'_>| openat(&p.parent, p.name, DIRECTORY, Mode::empty());
        let dir = match mkdirat(&place.parent, place.name, mode) {
            Ok(()) => {
                self.inodes += 1;
                self.bytes += on_disk(1);
                open(place)
            }
            Err(Errno::EXIST) => match open(place) {
                // Again, or made for an entry in it: this entry says how it is.
                Ok(dir) => Ok(dir),
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let hides = self.is_whiteout(place);
                    self.create(place, |p| mkdirat(&p.parent, p.name, mode))?;
                    self.bytes += on_disk(1);
                    let dir = open(place);
                    if let (Ok(dir), true) = (&dir, hides) {
                        fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty())
                            .map_err(place.failed("make it opaque"))?;
                    }
                    dir
                }
                Err(e) => Err(e),
            },
            Err(e) => Err(e),
        };
        let dir = dir.map_err(place.failed("make it"))?;
        self.attributes(dir.as_fd(), entry)?;
        self.remember_time(place.path.to_vec(), entry.mtime)
    }

    fn symlink(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let target = CString::new(entry.link.as_slice()).ok().filter(|t| !t.is_empty());
        let why = "is a symbolic link to nothing, or to a path with a zero byte";
        let target = target.ok_or_else(|| UnpackError::Entry { path: lossy(place.path), why })?;
        self.create(place, |p| symlinkat(&target, &p.parent, p.name))?;
        self.owner_of_node(place, entry)?;
        self.leave_out(entry);
        self.time_of_node(place, entry)
    }

    fn node(
        &mut self,
        place: &Place<'_>,
        entry: &Entry,
        kind: FileType,
        device: u64,
    ) -> Result<(), UnpackError> {
        let mode = Mode::from_raw_mode(entry.mode);
        self.create(place, |p| mknodat(&p.parent, p.name, kind, mode, device))?;
        self.owner_of_node(place, entry)?;
        // Not a link: it was just made. The umask had its say, and the owner's change took setuid.
        rustix::fs::chmodat(&place.parent, place.name, mode, AtFlags::empty())
            .map_err(place.failed("set its mode"))?;
        self.leave_out(entry);
        self.time_of_node(place, entry)
    }

    /// Makes a name that must not exist; what has it goes, the last entry wins.
    fn create<T>(
        &mut self,
        place: &Place<'_>,
        make: impl Fn(&Place<'_>) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        self.inodes += 1;
        match make(place) {
            Err(Errno::EXIST) => {}
            other => return other.map_err(place.failed("make it")),
        }
        remove_at(place.parent.as_fd(), place.name).map_err(|source| UnpackError::Make {
            path: lossy(place.path),
            action: "replace what had its name",
            source,
        })?;
        self.tree.forget();
        self.inodes = self.inodes.saturating_sub(1);
        make(place).map_err(place.failed("make it"))
    }

    /// Owner, mode and attributes of a file or directory, in the order that keeps setuid and capabilities.
    fn attributes(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<(), UnpackError> {
        self.count_owner(entry);
        let failed = |action| make_error(&entry.path, action);
        fchown(fd, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
            .map_err(failed("set its owner"))?;
        fchmod(fd, Mode::from_raw_mode(entry.mode)).map_err(failed("set its mode"))?;
        for (name, value) in &entry.xattrs {
            if let Err(why) = xattr::admit(name, true) {
                *self.dropped.entry(why).or_default() += 1;
                continue;
            }
            match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) if name.starts_with(b"user.") => {
                    *self.dropped.entry(Dropped::Unsupported).or_default() += 1;
                }
                set => set.map_err(failed("set its extended attribute"))?,
            }
        }
        Ok(())
    }

    fn leave_out(&mut self, entry: &Entry) {
        for (name, _) in &entry.xattrs {
            if let Err(why) = xattr::admit(name, false) {
                *self.dropped.entry(why).or_default() += 1;
            }
        }
    }

    fn owner_of_node(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        self.count_owner(entry);
        let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
        chownat(&place.parent, place.name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(place.failed("set its owner"))
    }

    fn time_of_node(&self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        utimensat(&place.parent, place.name, &timestamps(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(place.failed("set its time"))
    }

    fn count_owner(&mut self, entry: &Entry) {
        self.max_uid = self.max_uid.max(entry.uid);
        self.max_gid = self.max_gid.max(entry.gid);
    }

    fn remember_time(&mut self, path: Vec<u8>, mtime: (i64, u32)) -> Result<(), UnpackError> {
        self.keep(path.len())?;
        self.times.push((path, mtime));
        Ok(())
    }

    fn keep(&mut self, bytes: usize) -> Result<(), UnpackError> {
        self.kept += bytes + 64;
        if self.kept > MAX_KEPT {
            let limit = MAX_KEPT as u64;
            return Err(UnpackError::TooMuch { what: "the names of its directories and links", limit });
        }
        Ok(())
    }
}

/// Copies bytes of the current entry.
fn copy<R: BufRead>(
    reader: &mut Reader<R>,
    file: &mut File,
    length: u64,
    failed: impl Fn(io::Error) -> UnpackError,
) -> Result<(), UnpackError> {
    let mut left = length;
    while left > 0 {
        let piece = reader.peek(left)?;
        if piece.is_empty() {
            break;
        }
        file.write_all(piece).map_err(&failed)?;
        let length = piece.len();
        reader.consume(length);
        left -= length as u64;
    }
    Ok(())
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

fn make_error(path: &[u8], action: &'static str) -> impl FnOnce(Errno) -> UnpackError {
    let path = lossy(path);
    move |errno| UnpackError::Make { path, action, source: errno.into() }
}
