//! The files of an archive, by name.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

use crate::error::{ImageError, chain};
use crate::layer::{Compression, compression, decompressed};
use crate::manifest::MAX_DOCUMENT;
use crate::tar::{Kind, Reader};

/// Entries of an archive; an image has one for each layer and a few besides.
const MAX_ENTRIES: usize = 100_000;
/// Links followed from one name.
const MAX_LINKS: usize = 8;

/// A directory, or a tar.
#[derive(Debug)]
pub(super) struct Files {
    path: PathBuf,
    kind: FilesKind,
}

#[derive(Debug)]
enum FilesKind {
    Directory(std::os::fd::OwnedFd),
    Tar { file: Arc<File>, entries: HashMap<String, Member> },
}

#[derive(Debug)]
enum Member {
    /// Offset, size.
    File(u64, u64),
    /// The name it stands for.
    Link(String),
}

/// A file of an archive, opened.
#[derive(Debug)]
pub(super) struct Content {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Content {
    pub(super) fn size(&self) -> u64 {
        self.end - self.at
    }

    /// Goes on behind so many bytes.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.at = self.at.saturating_add(bytes).min(self.end);
    }

    /// How it is compressed.
    pub(super) fn compression(&self) -> io::Result<Compression> {
        let mut magic = [0; 8];
        let length = Content { file: Arc::clone(&self.file), at: self.at, end: self.end }.read(&mut magic)?;
        Ok(compression(&magic[..length]))
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
        let wanted = buffer.len().min(left);
        let got = self.file.read_at(&mut buffer[..wanted], self.at)?;
        if got == 0 && wanted > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += got as u64;
        Ok(got)
    }
}

impl Files {
    /// Opens an archive. A compressed tar is unpacked into `spool` first, of at most `limit` bytes. Blocks.
    pub(super) fn open(path: &Path, spool: &Path, limit: u64) -> Result<Self, ImageError> {
        let file = File::open(path).map_err(ImageError::io("open", path))?;
        let metadata = file.metadata().map_err(ImageError::io("look at", path))?;
        if metadata.is_dir() {
            let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let dir = openat(CWD, path, flags, Mode::empty())
                .map_err(|e| ImageError::io("open", path)(e.into()))?;
            return Ok(Self { path: path.to_owned(), kind: FilesKind::Directory(dir) });
        }
        Self::of(file, path, spool, limit)
    }

    /// A tar that is open already; `path` is what errors call it. Blocks.
    pub(super) fn of(file: File, path: &Path, spool: &Path, limit: u64) -> Result<Self, ImageError> {
        let mut magic = [0; 8];
        let length = file.read_at(&mut magic, 0).map_err(ImageError::io("read", path))?;
        let file = if compression(&magic[..length]) == Compression::None {
            file
        } else {
            spooled(file, path, spool, limit)?
        };
        let entries = index(&file, path)?;
        Ok(Self { path: path.to_owned(), kind: FilesKind::Tar { file: Arc::new(file), entries } })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// An error about this archive.
    pub(super) fn wrong(&self, why: impl Into<String>) -> ImageError {
        ImageError::Archive { path: self.path.clone(), why: why.into() }
    }

    /// A file by its name; `None` when there is none.
    pub(super) fn find(&self, name: &str) -> Result<Option<Content>, ImageError> {
        match &self.kind {
            FilesKind::Directory(dir) => {
                let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
                let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
                match openat2(dir, name, flags, Mode::empty(), resolve) {
                    Ok(fd) => {
                        let file = File::from(fd);
                        let metadata =
                            file.metadata().map_err(ImageError::io("look at", &self.path.join(name)))?;
                        if !metadata.is_file() {
                            return Err(self.wrong(format!("{name} is no regular file")));
                        }
                        Ok(Some(Content { file: Arc::new(file), at: 0, end: metadata.len() }))
                    }
                    Err(rustix::io::Errno::NOENT) => Ok(None),
                    Err(e) => Err(ImageError::io("open", &self.path.join(name))(e.into())),
                }
            }
            FilesKind::Tar { file, entries } => {
                let mut name = normal(name);
                for _ in 0..MAX_LINKS {
                    match entries.get(&name) {
                        None => return Ok(None),
                        Some(Member::File(at, size)) => {
                            let end = at.saturating_add(*size);
                            return Ok(Some(Content { file: Arc::clone(file), at: *at, end }));
                        }
                        Some(Member::Link(target)) => name.clone_from(target),
                    }
                }
                Err(self.wrong(format!("{name} is a link to a link to a link")))
            }
        }
    }

    /// A file that must be there.
    pub(super) fn get(&self, name: &str) -> Result<Content, ImageError> {
        self.find(name)?.ok_or_else(|| self.wrong(format!("it has no file {name}")))
    }

    /// A document that must be there.
    pub(super) fn document(&self, name: &str) -> Result<Vec<u8>, ImageError> {
        let mut content = self.get(name)?;
        if content.size() > MAX_DOCUMENT {
            let (size, limit) = (content.size(), MAX_DOCUMENT);
            return Err(
                self.wrong(format!("{name} of {size} bytes is larger than the {limit} a document may have"))
            );
        }
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(ImageError::io("read", &self.path.join(name)))?;
        Ok(bytes)
    }
}

/// A file that has no name: it goes when it is closed, also by a crash.
pub(super) fn nameless(dir: &Path) -> Result<File, ImageError> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let fd = openat(CWD, dir, flags, Mode::from_raw_mode(0o600));
    Ok(File::from(fd.map_err(|e| ImageError::io("make a file in", dir)(e.into()))?))
}

/// A compressed tar, plain, in a file that has no name.
fn spooled(file: File, path: &Path, spool: &Path, limit: u64) -> Result<File, ImageError> {
    let wrong = |why: String| ImageError::Archive { path: path.to_owned(), why };
    let input = decompressed(file).map_err(|e| wrong(chain(&e)))?;
    let mut output = nameless(spool)?;
    let copied =
        io::copy(&mut input.take(limit + 1), &mut output).map_err(ImageError::io("decompress", path))?;
    if copied > limit {
        return Err(wrong(format!("decompressed, it is larger than the limit of {limit} bytes")));
    }
    Ok(output)
}

/// Where each file of a tar is.
fn index(file: &File, path: &Path) -> Result<HashMap<String, Member>, ImageError> {
    let wrong = |why: String| ImageError::Archive { path: path.to_owned(), why };
    let mut input = file.try_clone().map_err(ImageError::io("read", path))?;
    input.seek(SeekFrom::Start(0)).map_err(ImageError::io("read", path))?;
    let mut reader = Reader::new(BufReader::with_capacity(256 * 1024, input));
    let mut entries = HashMap::new();
    while let Some(entry) = reader.next().map_err(|e| wrong(format!("it is no tar: {}", chain(&e))))? {
        let Ok(name) = String::from_utf8(entry.path) else { continue };
        let member = match entry.kind {
            Kind::File => Member::File(reader.position(), entry.size),
            Kind::Symlink | Kind::HardLink => {
                let Ok(target) = String::from_utf8(entry.link) else { continue };
                let base = match name.rsplit_once('/') {
                    Some((dir, _)) if entry.kind == Kind::Symlink => format!("{dir}/"),
                    _ => String::new(),
                };
                Member::Link(normal(&format!("{base}{target}")))
            }
            _ => continue,
        };
        if entries.len() == MAX_ENTRIES {
            return Err(wrong(format!("it has more than {MAX_ENTRIES} files")));
        }
        entries.insert(normal(&name), member);
    }
    Ok(entries)
}

/// "./a//b/../c" as "a/c". These are keys, not paths of any file system.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    parts.join("/")
}
