//! Trees removed without following anything out of them.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;

/// Levels that are walked at once. What is deeper is moved up first: a container can make a tree deeper than
/// there are descriptors, or stack.
const MAX_WALK: u32 = 64;

/// Removes a file or a directory and all that is in it. Links are removed, not followed, and nothing that is
/// mounted in it is entered: that is an error. Gone already is fine. However deep it is, few descriptors and
/// little stack are used. Blocks.
///
/// # Errors
/// When something in it cannot be removed; the rest may be gone then.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match unlinkat(CWD, path, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let top = openat(CWD, path, flags, Mode::empty())?;
    empty_top(&top)?;
    Ok(unlinkat(CWD, path, AtFlags::REMOVEDIR)?)
}

/// The same for a name in a directory.
pub(crate) fn remove_at(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    empty_top(&open_child(dir, name)?)?;
    Ok(unlinkat(dir, name, AtFlags::REMOVEDIR)?)
}

fn open_child(dir: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(dir, name, flags, Mode::empty(), resolve)?)
}

/// Empties a directory, and what was moved up into it from below.
fn empty_top(top: &OwnedFd) -> io::Result<()> {
    let mut moved = 0;
    loop {
        let before = moved;
        empty(top, open_child(top.as_fd(), c".")?, MAX_WALK, &mut moved)?;
        if moved == before {
            return Ok(());
        }
    }
}

fn empty(top: &OwnedFd, dir: OwnedFd, levels: u32, moved: &mut u64) -> io::Result<()> {
    let mut entries = Dir::new(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if name == c"." || name == c".." {
            continue;
        }
        let dir = entries.fd()?;
        match unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) if levels == 0 => move_up(dir, name, top, moved)?,
            Err(Errno::ISDIR | Errno::PERM) => {
                empty(top, open_child(dir, name)?, levels - 1, moved)?;
                unlinkat(dir, name, AtFlags::REMOVEDIR)?;
            }
            Err(e) => return Err(e.into()),
        }
    }
    Ok(())
}

/// Gives a directory a name in the topmost one that nothing there has.
fn move_up(dir: BorrowedFd<'_>, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat_with(dir, name, top, format!(".deep-{moved}"), RenameFlags::NOREPLACE) {
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
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
    fn trees_of_any_depth_and_what_has_the_names_they_are_moved_to() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join(".deep-1")).unwrap();
        let mut here = std::fs::File::open(&tree).map(OwnedFd::from).unwrap();
        for level in 0..3000 {
            rustix::fs::mkdirat(&here, "d", Mode::from_raw_mode(0o755)).unwrap();
            if level % 100 == 0 {
                rustix::fs::symlinkat("/", &here, "link").unwrap();
            }
            here = open_child(here.as_fd(), c"d").unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
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
