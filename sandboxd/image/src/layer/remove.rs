//! Trees removed without following anything out of them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, openat, openat2, unlinkat};
use rustix::io::Errno;

/// Removes a file or a directory and all that is in it. Links are removed, not followed, and nothing that is
/// mounted in it is entered: that is an error. Gone already is fine.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    empty(openat(CWD, path, flags, Mode::empty())?)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// The same for a name in a directory.
pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    empty(open_child(dir, name)?)?;
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn open_child(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(dir, name, flags, Mode::empty(), resolve)?)
}

/// Empties a directory. Its depth is bounded by what was unpacked (`MAX_DEPTH`): one descriptor a level.
fn empty(dir: OwnedFd) -> io::Result<()> {
    let mut entries = Dir::new(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let dir = entries.fd()?;
        if entry.file_type() == FileType::Directory {
            empty(open_child(dir, name)?)?;
            unlinkat(dir, name, AtFlags::REMOVEDIR)?;
        } else {
            remove_at(dir, name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_removed_and_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, tree) = (dir.path().join("outside"), dir.path().join("tree"));
        std::fs::create_dir_all(outside.join("kept")).unwrap();
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::os::unix::fs::symlink(&outside, tree.join("a/link")).unwrap();
        remove_tree(&tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        // Also where the tree itself is a link.
        std::os::unix::fs::symlink(&outside, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(std::fs::symlink_metadata(&tree).is_err() && outside.join("kept").exists());
    }

    #[test]
    fn what_is_mounted_is_not_entered() {
        let dir = tempfile::tempdir().unwrap();
        let (outside, mounted) = (dir.path().join("outside"), dir.path().join("tree/mounted"));
        std::fs::create_dir_all(&outside).unwrap();
        std::fs::write(outside.join("kept"), "").unwrap();
        std::fs::create_dir_all(&mounted).unwrap();
        if let Err(error) = rustix::mount::mount_bind(&outside, &mounted) {
            eprintln!("SKIPPED: a bind mount needs root: {error}");
            return;
        }
        let removed = remove_tree(&dir.path().join("tree"));
        rustix::mount::unmount(&mounted, rustix::mount::UnmountFlags::DETACH).unwrap();
        assert_eq!(removed.unwrap_err().kind(), io::ErrorKind::CrossesDevices);
        assert!(outside.join("kept").exists());
    }
}
