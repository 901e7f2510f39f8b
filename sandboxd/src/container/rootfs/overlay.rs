//! The overlay itself: layers by descriptor, or by short paths on kernels that know no other way.

use std::fmt::Write as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

use super::detached::{Depth, copy_tree, idmap, on_thread, own_namespace};
use super::{RootfsError, Userns, file_system, open_dir};

/// A directory that takes part in an overlay.
struct Part {
    /// Idmapped, attached nowhere; `None`: the host's own mount.
    mount: Option<OwnedFd>,
    dir: OwnedFd,
}

/// Directories stacked upon each other, topmost first; `upper` and `work` lie in `base`.
struct Parts {
    lowers: Vec<Part>,
    base: Option<Part>,
}

/// An overlay of `lowers`, topmost first, with `upper` and `work` in a directory where it is given. `spare` is a
/// directory in which an empty one may be made.
pub(super) fn mount(
    lowers: &[&Path],
    base: Option<&Path>,
    spare: &Path,
    userns: Option<Userns<'_>>,
) -> Result<OwnedFd, RootfsError> {
    // An overlay needs one directory beneath the upper one, or two where there is none.
    let missing = if base.is_some() { 1usize } else { 2 }.saturating_sub(lowers.len());
    let mut stand_ins = Vec::new();
    for i in 0..missing {
        let empty = spare.join(format!("empty{i}"));
        std::fs::create_dir_all(&empty).map_err(RootfsError::std(format!("making {}", empty.display())))?;
        stand_ins.push(empty);
    }
    let lowers: Vec<&Path> = lowers.iter().copied().chain(stand_ins.iter().map(PathBuf::as_path)).collect();
    on_thread(|| {
        let parts = parts(&lowers, base, userns)?;
        become_root(userns)?;
        match by_descriptor(&parts, base) {
            Err(Unable::NotKnown) => by_path(&parts, &lowers, base),
            Err(Unable::Refused(error)) => Err(error),
            Ok(mount) => Ok(mount),
        }
    })
}

fn parts(lowers: &[&Path], base: Option<&Path>, userns: Option<Userns<'_>>) -> Result<Parts, RootfsError> {
    let part = |path: &Path| -> Result<Part, RootfsError> {
        let mount = userns.map(|userns| idmap(path, userns, Depth::One)).transpose()?;
        let dir = match &mount {
            // Overlayfs takes open directories from 6.13 on, mere places (O_PATH) only later.
            Some(mount) => open_at(mount.as_fd(), ".", path)?,
            None => open_dir(path)?,
        };
        Ok(Part { mount, dir })
    };
    let lowers = lowers.iter().map(|path| part(path)).collect::<Result<Vec<_>, _>>()?;
    Ok(Parts { lowers, base: base.map(part).transpose()? })
}

fn open_at(dir: BorrowedFd<'_>, name: &str, path: &Path) -> Result<OwnedFd, RootfsError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(dir, name, flags, Mode::empty())
        .map_err(|errno| RootfsError::io(format!("opening {}", path.join(name).display()), errno))
}

/// Takes the ids that the pod's root has on the host for this thread's files. That costs it the capabilities
/// that go with uid 0, which are taken again.
fn become_root(userns: Option<Userns<'_>>) -> Result<(), RootfsError> {
    let Some(userns) = userns else { return Ok(()) };
    let failed = |errno| RootfsError::io("taking the file system ids of the pod's root", errno);
    let held = rustix::thread::capabilities(None).map_err(failed)?;
    let (uid, gid) = userns.maps.host_root();
    // SAFETY: these take plain numbers and change this thread alone; it ends with the mount.
    unsafe {
        libc::syscall(libc::SYS_setfsgid, gid);
        libc::syscall(libc::SYS_setfsuid, uid);
    }
    // They tell no errors: asking for an impossible id tells the present one.
    // SAFETY: as above; -1 changes nothing.
    let now = unsafe { (libc::syscall(libc::SYS_setfsuid, -1), libc::syscall(libc::SYS_setfsgid, -1)) };
    // The call returns an int, so that ids from 2^31 on come out negative.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an id in a register")]
    let now = (now.0 as u32, now.1 as u32);
    if now != (uid, gid) {
        return Err(failed(Errno::PERM));
    }
    rustix::thread::set_capabilities(None, held).map_err(failed)
}

enum Unable {
    /// This kernel's overlayfs takes no descriptors.
    NotKnown,
    Refused(RootfsError),
}

fn by_descriptor(parts: &Parts, base: Option<&Path>) -> Result<OwnedFd, Unable> {
    let refused = |context: Option<BorrowedFd<'_>>, errno: Errno| {
        let on = base.map(|path| format!(", the upper one on {}", file_system(path))).unwrap_or_default();
        let words = on + &context.map(words).unwrap_or_default();
        Unable::Refused(RootfsError::Overlay { layers: parts.lowers.len(), words, source: errno.into() })
    };
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| refused(None, errno))?;
    let context = context.as_fd();
    fsconfig_set_string(context, "source", "overlay").map_err(|errno| refused(Some(context), errno))?;
    for (i, lower) in parts.lowers.iter().enumerate() {
        match fsconfig_set_fd(context, "lowerdir+", lower.dir.as_fd()) {
            Ok(()) => {}
            Err(errno) if i == 0 && takes_no_descriptors(errno) => return Err(Unable::NotKnown),
            Err(errno) => return Err(refused(Some(context), errno)),
        }
    }
    if let (Some(part), Some(path)) = (&parts.base, base) {
        for (key, name) in [("upperdir", "upper"), ("workdir", "work")] {
            let dir = open_at(part.dir.as_fd(), name, path).map_err(Unable::Refused)?;
            fsconfig_set_fd(context, key, dir.as_fd()).map_err(|errno| refused(Some(context), errno))?;
        }
    }
    match fsconfig_create(context) {
        Ok(()) => {}
        Err(Errno::INVAL) if parts.lowers.iter().any(|lower| lower.mount.is_some()) => {
            return Err(Unable::NotKnown);
        }
        Err(errno) => return Err(refused(Some(context), errno)),
    }
    fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
        .map_err(|errno| refused(Some(context), errno))
}

/// Whether this is how a kernel refuses the first layer's descriptor that wants paths: INVAL or BADF before 6.13, and
/// before 6.15 for mounts that are attached nowhere; OPNOTSUPP before 6.5, whose overlayfs is of the old mount API.
pub(super) fn takes_no_descriptors(errno: Errno) -> bool {
    matches!(errno, Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP)
}

/// What the kernel says about a file system that it refused.
fn words(context: BorrowedFd<'_>) -> String {
    let mut all = String::new();
    let mut line = [0u8; 1024];
    // Each read is one message, as long as there are any.
    while let Ok(read) = rustix::io::read(context, &mut line)
        && read > 0
    {
        let text = String::from_utf8_lossy(line.get(..read).unwrap_or_default()).into_owned();
        let _ = write!(all, " ({})", text.trim().trim_start_matches(['e', 'w', 'i']).trim());
        if all.len() > 4096 {
            break;
        }
    }
    all
}

#[cfg(test)]
pub(super) fn mount_by_path(
    lowers: &[&Path],
    base: Option<&Path>,
    userns: Option<Userns<'_>>,
) -> Result<OwnedFd, RootfsError> {
    on_thread(|| {
        let parts = parts(lowers, base, userns)?;
        become_root(userns)?;
        by_path(&parts, lowers, base)
    })
}

/// In a mount namespace of this thread's own, in a directory with a short name for each layer: mount(2) takes
/// all options in one page.
fn by_path(parts: &Parts, lowers: &[&Path], base: Option<&Path>) -> Result<OwnedFd, RootfsError> {
    let layers = parts.lowers.len();
    let failed =
        |errno: Errno| RootfsError::Overlay { layers, words: " by paths".to_owned(), source: errno.into() };
    own_namespace()?;
    let scratch = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    fsconfig_create(scratch.as_fd()).map_err(failed)?;
    let scratch = fsmount(scratch.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty());
    let scratch = scratch.map_err(failed)?;
    let empty_paths = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let proc = open_tree(CWD, "/proc", OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(failed)?;
    move_mount(&scratch, "", &proc, "", empty_paths).map_err(failed)?;
    rustix::process::fchdir(&scratch).map_err(failed)?;
    let attach = |name: &str, part: &Part, path: &Path| -> Result<(), Errno> {
        rustix::fs::mkdirat(&scratch, name, Mode::RWXU)?;
        let copied;
        let mount = match &part.mount {
            Some(mount) => mount,
            None => {
                copied = copy_tree(path, false)?;
                &copied
            }
        };
        move_mount(mount, "", CWD, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
    };
    let mut options = String::from("lowerdir=");
    for (i, (part, path)) in parts.lowers.iter().zip(lowers).enumerate() {
        attach(&i.to_string(), part, path).map_err(failed)?;
        let _ = write!(options, "{}{i}", if i == 0 { "" } else { ":" });
    }
    if let (Some(part), Some(path)) = (&parts.base, base) {
        attach("b", part, path).map_err(failed)?;
        options.push_str(",upperdir=b/upper,workdir=b/work");
    }
    rustix::fs::mkdirat(&scratch, "m", Mode::RWXU).map_err(failed)?;
    let options = std::ffi::CString::new(options).map_err(|_| failed(Errno::INVAL))?;
    rustix::mount::mount("overlay", "m", "overlay", MountFlags::empty(), options.as_c_str())
        .map_err(failed)?;
    open_tree(CWD, "m", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC).map_err(failed)
}
