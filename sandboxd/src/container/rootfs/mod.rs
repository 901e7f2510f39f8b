//! File systems of a container as detached mounts: its root, and images mounted as volumes.
//!
//! ```text
//!  image's layers ──idmapped──▶ ┐
//!  containers/ID/upper, work ─▶ ├─ overlay ──▶ a mount that is attached nowhere
//!                               ┘
//! ```
//!
//! For a pod with a user namespace each layer, and the upper directory, is a copy of its mount that is idmapped;
//! the overlay is mounted with the file system ids of the pod's root, so what the container writes lies in the
//! upper directory with the ids the container sees, free of any mapping. Ids of a file system belong to a
//! thread, so all of it happens on one of its own. Nothing ever is in the host's mount table.

mod detached;
mod overlay;
mod shifted;

#[cfg(test)]
pub(super) mod tests;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use sandboxd_image::Layer;

use crate::pod::spec::IdMappings;

pub use detached::{Depth, idmap};

use detached::sub_tree;
use shifted::Refusal;

/// The user namespace of a pod, for idmapped mounts.
#[derive(Debug, Clone, Copy)]
pub struct Userns<'a> {
    pub fd: BorrowedFd<'a>,
    pub maps: &'a IdMappings,
}

/// Why there is no root file system.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
    /// The kernel's own words on an overlay it refused.
    #[error("mounting an overlay of {layers} layers{words}")]
    Overlay {
        layers: usize,
        words: String,
        #[source]
        source: io::Error,
    },
    #[error("the file system {fs} of {} cannot be idmapped for a pod with a user namespace", path.display())]
    NoIdmap {
        path: PathBuf,
        fs: String,
        #[source]
        source: io::Error,
    },
    #[error("an image has {count} layers, overlayfs takes {max}: squash it")]
    TooManyLayers { count: usize, max: usize },
}

impl RootfsError {
    pub(super) fn io(action: impl Into<String>, errno: Errno) -> Self {
        Self::Io { action: action.into(), source: errno.into() }
    }

    pub(super) fn std(action: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

/// `OVL_MAX_STACK`, less the directory that stands in for what is missing.
const LAYERS_MAX: usize = 499;

/// A made file system, and what it cost.
#[derive(Debug)]
pub struct Made {
    /// A detached mount.
    pub mount: OwnedFd,
    pub warnings: Vec<String>,
}

/// The root of a container. `dir` is its directory, in which `upper` and `work` are made.
///
/// # Errors
/// [`RootfsError`]; only directories beneath `dir` are left.
pub fn root(layers: &[Layer], dir: &Path, userns: Option<Userns<'_>>) -> Result<Made, RootfsError> {
    let lowers = lowers(layers)?;
    make_upper(dir, lowers.first().copied())?;
    let mounted = overlay::mount(&lowers, Some(dir), dir, userns);
    or_shifted(mounted, userns, |userns, refusal| shifted::root(&lowers, dir, userns, refusal))
}

/// An image's file system, read-only, or a directory (or file) of it. `dir` is a directory for what has to be made
/// on the way, which is nothing on most nodes.
///
/// # Errors
/// [`RootfsError`].
pub fn image(
    layers: &[Layer],
    sub_path: &str,
    dir: &Path,
    userns: Option<Userns<'_>>,
) -> Result<Made, RootfsError> {
    let lowers = lowers(layers)?;
    let mounted = overlay::mount(&lowers, None, dir, userns);
    let mut made =
        or_shifted(mounted, userns, |userns, refusal| shifted::image(&lowers, dir, userns, refusal))?;
    if !sub_path.is_empty() {
        made.mount = sub_tree(made.mount, sub_path)?;
    }
    detached::read_only(made.mount.as_fd())
        .map_err(|errno| RootfsError::io("making an image's mount read-only", errno))?;
    Ok(made)
}

/// The other way, where the file system of the layers cannot be idmapped.
fn or_shifted(
    mounted: Result<OwnedFd, RootfsError>,
    userns: Option<Userns<'_>>,
    other: impl FnOnce(Userns<'_>, &Refusal) -> Result<Made, RootfsError>,
) -> Result<Made, RootfsError> {
    match (mounted, userns) {
        (Err(RootfsError::NoIdmap { path, fs, source }), Some(userns)) => {
            other(userns, &Refusal { path, fs, source })
        }
        (mounted, _) => mounted.map(|mount| Made { mount, warnings: Vec::new() }),
    }
}

/// A path in a mount, never out of it, whatever its symbolic links say.
///
/// # Errors
/// Those of openat2(2).
pub fn open_beneath(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "." } else { path };
    // EAGAIN: a rename elsewhere has raced with a step up.
    for _ in 0..64 {
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// The layers' directories, topmost first. One that occurs twice counts where it is topmost: beneath that, all it
/// has is covered by itself (and overlayfs refuses a directory that it has already).
fn lowers(layers: &[Layer]) -> Result<Vec<&Path>, RootfsError> {
    let mut lowers: Vec<&Path> = Vec::new();
    for layer in layers.iter().rev() {
        if !lowers.contains(&layer.path.as_path()) {
            lowers.push(&layer.path);
        }
    }
    if lowers.len() > LAYERS_MAX {
        return Err(RootfsError::TooManyLayers { count: lowers.len(), max: LAYERS_MAX });
    }
    Ok(lowers)
}

/// The upper directory is the container's "/": mode and owner are those of the image's topmost layer.
fn make_upper(dir: &Path, top: Option<&Path>) -> Result<(), RootfsError> {
    use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
        .map_err(RootfsError::std(format!("making {}", dir.display())))?;
    for name in ["upper", "work"] {
        let path = dir.join(name);
        match std::fs::create_dir(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(RootfsError::std(format!("making {}", path.display()))(error));
            }
            _ => {}
        }
    }
    let upper = dir.join("upper");
    let (mode, uid, gid) = match top {
        None => (0o755, 0, 0),
        Some(top) => {
            let meta = top
                .metadata()
                .map_err(RootfsError::std(format!("looking at the layer {}", top.display())))?;
            (meta.mode() & 0o7777, meta.uid(), meta.gid())
        }
    };
    std::os::unix::fs::lchown(&upper, Some(uid), Some(gid))
        .and_then(|()| std::fs::set_permissions(&upper, std::fs::Permissions::from_mode(mode)))
        .map_err(RootfsError::std(format!("setting owner and mode of {}", upper.display())))
}

/// The name of the file system that a path is on, as mountinfo has it.
fn file_system(path: &Path) -> String {
    let number = rustix::fs::statfs(path).map(|fs| fs.f_type).unwrap_or_default();
    let name = match number {
        0x6969 => "nfs",
        0x0102_1994 => "tmpfs",
        0xef53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683e => "btrfs",
        0x2fc1_2fc1 => "zfs",
        0x794c_7630 => "overlay",
        0x6573_5546 => "fuse",
        0xff53_4d42 => "cifs",
        0x0102_1997 => "9p",
        0x9fa0 => "proc",
        0x6265_6572 => "sysfs",
        other => return format!("of type {other:#x}"),
    };
    name.to_owned()
}

fn open_dir(path: &Path) -> Result<OwnedFd, RootfsError> {
    rustix::fs::openat(CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| RootfsError::io(format!("opening {}", path.display()), errno))
}
