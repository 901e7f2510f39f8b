//! Opens a container's log, beneath its pod's log directory and through no link.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::error::ContainerError;
use super::record::io_error;

/// Opens `path` for appending, made with the directories above it where missing. `base`: the pod's log
/// directory, which is kubelet's and may lie behind links. `true`: the file is new.
///
/// # Errors
/// When the path leaves `base`, goes through a link, or cannot be made.
pub(super) fn open(base: &Path, path: &Path) -> Result<(OwnedFd, bool), ContainerError> {
    fs::create_dir_all(base).map_err(io_error("making", base))?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut dir =
        rustix::fs::open(base, flags, Mode::empty()).map_err(|e| io_error("opening", base)(e.into()))?;
    let outside = || io_error("opening the log", path)(io::ErrorKind::InvalidInput.into());
    let relative = path.strip_prefix(base).map_err(|_| outside())?;
    let name = relative.file_name().ok_or_else(outside)?;
    for component in relative.parent().into_iter().flat_map(Path::components) {
        let Component::Normal(component) = component else { return Err(outside()) };
        match rustix::fs::mkdirat(&dir, component, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(io_error("making the directory of", path)(errno.into())),
        }
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        dir = rustix::fs::openat2(&dir, component, flags, Mode::empty(), beneath)
            .map_err(|errno| io_error("opening the directory of", path)(errno.into()))?;
    }
    let mode = Mode::from_raw_mode(0o640);
    let append = OFlags::WRONLY | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let made = rustix::fs::openat(&dir, name, append | OFlags::CREATE | OFlags::EXCL, mode);
    let (file, new) = match made {
        Ok(file) => (file, true),
        Err(Errno::EXIST) => {
            let file = rustix::fs::openat(&dir, name, append, mode);
            (file.map_err(|errno| io_error("opening the log", path)(errno.into()))?, false)
        }
        Err(errno) => return Err(io_error("making the log", path)(errno.into())),
    };
    let regular = rustix::fs::fstat(&file).is_ok_and(|stat| {
        rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::RegularFile
    });
    if regular { Ok((file, new)) } else { Err(outside()) }
}

/// Where a container's log is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogPlace {
    base: PathBuf,
    path: PathBuf,
}

impl LogPlace {
    /// `base`: the pod's log directory, above `path`.
    #[must_use]
    pub fn new(base: PathBuf, path: PathBuf) -> Self {
        Self { base, path }
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens what is there for reading: a regular file beneath the pod's log directory, through no link. Never
    /// waits, whatever lies there.
    ///
    /// # Errors
    /// When there is nothing, or something else.
    pub fn open(&self) -> io::Result<fs::File> {
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "it leaves the pod's log directory");
        let relative = self.path.strip_prefix(&self.base).map_err(|_| outside())?;
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let base = rustix::fs::open(&self.base, flags | OFlags::DIRECTORY, Mode::empty())?;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        // Not opened before it is known what it is: opening a device or a FIFO does something.
        let found = rustix::fs::openat2(&base, relative, flags | OFlags::NOFOLLOW, Mode::empty(), beneath)?;
        let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
        if kind != rustix::fs::FileType::RegularFile {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("it is no regular file but a {kind:?}"),
            ));
        }
        fs::File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_made_and_links_are_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("box/0.log");
        assert!(open(base.path(), &path).unwrap().1);
        assert!(!open(base.path(), &path).unwrap().1, "it was there");
        std::os::unix::fs::symlink("/tmp", base.path().join("out")).unwrap();
        assert!(open(base.path(), &base.path().join("out/0.log")).is_err());
        std::os::unix::fs::symlink("/etc/passwd", base.path().join("box/1.log")).unwrap();
        assert!(open(base.path(), &base.path().join("box/1.log")).is_err());
        assert!(open(base.path(), Path::new("/elsewhere/0.log")).is_err());
        assert!(open(base.path(), &base.path().join("../0.log")).is_err());
    }
}
