//! The directory a layer is unpacked into, and paths in it that cannot lead out.
//!
//! A path's parents are resolved as a `chroot` would: `..` of the root is the root, an absolute link starts
//! there again. So an entry whose parent is a link that the same tar made lands where a container would find
//! it, and nothing lands elsewhere. The common path without links is one `openat2`; the others are walked
//! here, a descriptor a level, which also bounds how deep the tree gets by way of links.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, XattrFlags, fchmod, fsetxattr, mkdirat, openat,
    openat2, readlinkat, statat, unlinkat,
};
use rustix::io::Errno;

/// The deepest directory of a layer. Deleting takes a descriptor a level.
const MAX_DEPTH: usize = 256;
/// What the kernel takes as one path, and as one name in it.
const MAX_PATH: usize = 4095;
const MAX_NAME: usize = 255;
/// Links followed on one path, as in the kernel.
const MAX_LINKS: u32 = 40;

pub(super) const OPAQUE: &CStr = c"trusted.overlay.opaque";

/// An entry's path, taken apart: relative to the layer's root, without `.` and `..`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clean {
    /// Of the parent; empty for the root.
    pub parent: Vec<u8>,
    /// `None` for the root itself.
    pub name: Option<CString>,
}

/// Takes a path apart. A leading `/` means the layer's root.
pub(super) fn clean(path: &[u8]) -> Result<Clean, &'static str> {
    if path.len() > MAX_PATH {
        return Err("its path is longer than 4095 bytes");
    }
    let mut parts = Vec::new();
    for part in path.split(|&b| b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return Err("its path has a .. in it"),
            _ if part.len() > MAX_NAME => return Err("its path has a name longer than 255 bytes"),
            _ if part.contains(&0) => return Err("its path has a zero byte in it"),
            _ => parts.push(part),
        }
    }
    if parts.len() > MAX_DEPTH {
        return Err("its path is more than 256 directories deep");
    }
    let name = parts.pop().and_then(|name| CString::new(name).ok());
    Ok(Clean { parent: parts.join(&b'/'), name })
}

/// The root of a layer.
#[derive(Debug)]
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    /// The parent of the last entry: the next one's, most often.
    last: Option<(Vec<u8>, Rc<OwnedFd>)>,
    /// Directories made for entries whose parents the tar does not have.
    pub made: u64,
}

impl Tree {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let root = openat(CWD, path, DIRECTORY, Mode::empty())?;
        Ok(Self { root: Rc::new(root), last: None, made: 0 })
    }

    /// Something was removed: a path may lead elsewhere now.
    pub(super) fn forget(&mut self) {
        self.last = None;
    }

    /// The directory at a cleaned path, made with its parents where there is none.
    pub(super) fn directory(&mut self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((_, fd)) = self.last.as_ref().filter(|(last, _)| last == path) {
            return Ok(Rc::clone(fd));
        }
        let fd = match self.plain(path) {
            Ok(fd) => Rc::new(fd),
            Err(Errno::NOENT | Errno::LOOP | Errno::NOTDIR) => self.walk(path, true)?,
            Err(e) => return Err(e.into()),
        };
        self.last = Some((path.to_vec(), Rc::clone(&fd)));
        Ok(fd)
    }

    /// The directory at a cleaned path, if there is one.
    pub(super) fn existing(&mut self, path: &[u8]) -> io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        match self.plain(path) {
            Ok(fd) => Ok(Rc::new(fd)),
            // A link in the middle is the one, a link at the end the other.
            Err(Errno::LOOP | Errno::NOTDIR) => self.walk(path, false),
            Err(e) => Err(e.into()),
        }
    }

    /// A path without links.
    pub(super) fn plain(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        openat2(&self.root, path, DIRECTORY, Mode::empty(), resolve)
    }

    fn walk(&mut self, path: &[u8], make: bool) -> io::Result<Rc<OwnedFd>> {
        let mut stack: Vec<Rc<OwnedFd>> = Vec::new();
        let mut links = 0;
        // Components still to go, the next one last.
        let mut todo: Vec<Vec<u8>> = components(path);
        while let Some(part) = todo.pop() {
            if part == b".." {
                stack.pop();
                continue;
            }
            let here = Rc::clone(stack.last().unwrap_or(&self.root));
            let next = match openat(&here, &part[..], DIRECTORY, Mode::empty()) {
                Ok(next) => next,
                Err(Errno::NOENT) if make => self.make(&here, &part, false)?,
                Err(Errno::NOTDIR | Errno::LOOP) => {
                    let stat = statat(&here, &part[..], AtFlags::SYMLINK_NOFOLLOW)?;
                    match FileType::from_raw_mode(stat.st_mode) {
                        FileType::Symlink => {
                            links += 1;
                            let target = readlinkat(&here, &part[..], Vec::new())?.into_bytes();
                            if target.starts_with(b"/") {
                                stack.clear();
                            }
                            todo.extend(components(&target));
                            if links > MAX_LINKS || todo.len() > MAX_PATH {
                                return Err(Errno::LOOP.into());
                            }
                            continue;
                        }
                        FileType::CharacterDevice if make && stat.st_rdev == 0 => {
                            unlinkat(&here, &part[..], AtFlags::empty())?;
                            self.make(&here, &part, true)?
                        }
                        _ => return Err(Errno::NOTDIR.into()),
                    }
                }
                Err(e) => return Err(e.into()),
            };
            if stack.len() >= MAX_DEPTH {
                return Err(io::Error::new(io::ErrorKind::InvalidFilename, "more than 256 directories deep"));
            }
            stack.push(Rc::new(next));
        }
        Ok(stack.pop().unwrap_or_else(|| Rc::clone(&self.root)))
    }

    /// A directory that the tar does not have: root's, and opaque where the tar has a whiteout.
    fn make(&mut self, here: &OwnedFd, name: &[u8], opaque: bool) -> io::Result<OwnedFd> {
        mkdirat(here, name, Mode::from_raw_mode(0o755))?;
        let fd = openat(here, name, DIRECTORY, Mode::empty())?;
        // The umask had its say.
        fchmod(&fd, Mode::from_raw_mode(0o755))?;
        if opaque {
            fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty())?;
        }
        self.made += 1;
        Ok(fd)
    }
}

/// Opens a directory, and no link to one.
pub(super) const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Components in reverse.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    let parts = path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".");
    parts.map(<[u8]>::to_vec).rev().collect()
}
