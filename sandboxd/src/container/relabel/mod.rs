//! Relabels what is mounted into a container for SELinux: the source of a mount and all beneath it get the label
//! that the container's processes may use.
//!
//! [`context`] says which label that is, [`walk`] gives it to a tree that somebody else may be changing meanwhile.

mod context;
mod walk;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

pub use context::file_label;
use walk::{Stopped, Walk};

/// What belongs to the node as a whole: with a container's label on it, nothing of the node's own works any more.
/// The list of go-selinux, by which every other runtime refuses the same paths.
const NODES_OWN: [&str; 24] = [
    "/",
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/etc/passwd",
    "/etc/pki",
    "/etc/shadow",
    "/home",
    "/lib",
    "/lib64",
    "/media",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/var",
    "/var/lib",
    "/var/log",
];
/// Walks of a tree in which directories are moved about, before giving up.
const WALKS_MAX: usize = 4;

/// Why files could not be relabelled.
#[derive(Debug, thiserror::Error)]
pub enum RelabelError {
    #[error("{path} is the node's own and is not relabelled for SELinux: mount a directory of its own, or leave selinux_relabel out", path = path.display())]
    NodesOwn { path: PathBuf },
    #[error(
        "{path} has directories that are {max} deep, beyond what any path can name: flatten it, or leave selinux_relabel out",
        path = path.display()
    )]
    TooDeep { path: PathBuf, max: usize },
    #[error(
        "{path} has more than {max} {what}: leave selinux_relabel out and label it once, beforehand",
        path = path.display()
    )]
    TooMany { path: PathBuf, max: u64, what: &'static str },
    #[error(
        "directories of {path} were moved each of the {WALKS_MAX} times it was relabelled for SELinux: try again",
        path = path.display()
    )]
    Moved { path: PathBuf },
    #[error("relabelling {path} for SELinux was cancelled", path = path.display())]
    Cancelled { path: PathBuf },
    #[error("{action} {path} for SELinux as {label:?}", path = path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        label: String,
        #[source]
        source: io::Error,
    },
}

/// What became of a tree.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Relabelled {
    /// Files that had another label.
    pub changed: u64,
    /// What is mounted beneath, or is a subvolume that takes no labels: not part of the volume, and left as it is.
    pub mounts: u64,
    /// Why files have another label still.
    pub kept: Option<Kept>,
}

/// Why a file system keeps its labels: no reason to refuse the container, which may have been given access otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kept {
    ReadOnly,
    /// It has none, or one for all of it (mounted with `context=`, NFS).
    Unsupported,
}

impl Relabelled {
    /// What is not as it was asked for, for the log.
    #[must_use]
    pub fn warning(&self, path: &Path) -> Option<String> {
        let path = path.display();
        let because = match self.kept {
            Some(Kept::ReadOnly) => format!("{path} is read-only and keeps its label"),
            Some(Kept::Unsupported) => format!("the file system of {path} takes no labels"),
            None if self.mounts > 0 => {
                format!("{} mounts beneath {path} are not part of it and keep their labels", self.mounts)
            }
            None => return None,
        };
        Some(format!("{because} for SELinux, which may keep the container from using it"))
    }
}

/// Gives a file, or a directory and all beneath it, a label; `path` is without symbolic links. Files that have it
/// already are not written to. Waits on disks, for minutes where there are millions of files, unless it is cancelled.
///
/// # Errors
/// [`RelabelError`]; what was relabelled until then stays so, but for the top, which is last.
pub fn relabel(path: &Path, label: &str, cancelled: &AtomicBool) -> Result<Relabelled, RelabelError> {
    if nodes_own(path) {
        return Err(RelabelError::NodesOwn { path: path.to_owned() });
    }
    let failed = |action, path: PathBuf, errno: Errno| RelabelError::Io {
        action,
        path,
        label: label.to_owned(),
        source: errno.into(),
    };
    // What was resolved already leads over no link, or somebody has put one there since.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = rustix::fs::openat2(CWD, path, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS)
        .map_err(|errno| failed("opening", path.to_owned(), errno))?;
    let mut walk = Walk::new(label, cancelled);
    for _ in 0..WALKS_MAX {
        let stopped = match walk.tree(&top) {
            Ok(()) => return Ok(walk.done),
            Err(stopped) => stopped,
        };
        let at = || path.join(walk.place());
        match stopped {
            Stopped::Moved => {}
            Stopped::Cancelled => return Err(RelabelError::Cancelled { path: path.to_owned() }),
            Stopped::TooDeep(max) => return Err(RelabelError::TooDeep { path: path.to_owned(), max }),
            Stopped::TooMany(max, what) => {
                return Err(RelabelError::TooMany { path: path.to_owned(), max, what });
            }
            // Of the top's own file system: the rest of it would answer the same.
            Stopped::Setting(Errno::ROFS) => return Ok(walk.kept(Kept::ReadOnly)),
            Stopped::Setting(Errno::OPNOTSUPP) => return Ok(walk.kept(Kept::Unsupported)),
            Stopped::Setting(errno) => return Err(failed("relabelling", at(), errno)),
            Stopped::Reading(errno) => return Err(failed("reading", at(), errno)),
        }
    }
    Err(RelabelError::Moved { path: path.to_owned() })
}

/// Also by the names that are links on some nodes ("/lib" to "/usr/lib").
fn nodes_own(path: &Path) -> bool {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let paths = NODES_OWN.iter().map(PathBuf::from).chain(home);
    paths.into_iter().any(|own| path == own || own.canonicalize().is_ok_and(|real| path == real))
}

#[cfg(test)]
mod tests;
