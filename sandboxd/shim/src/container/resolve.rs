//! Places in a rootfs that nobody trusts. Every step is resolved by the kernel with the rootfs as "/", so a
//! symbolic link of the image leads nowhere but into the image.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};

use crate::kernel::{Guest, Kind, Last};

/// Dangling links followed while a path is made: the kernel's own bound.
const MAX_LINKS: usize = 40;

/// What lies at a path.
pub fn existing<K: Guest>(kernel: &K, root: BorrowedFd<'_>, path: &str) -> Result<Option<OwnedFd>> {
    match kernel.resolve(root, relative(path), Last::Follow) {
        Ok(found) => Ok(Some(found)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// A place to mount on: what exists, else a new directory or empty file, with the directories above it.
/// Tells whether it was made.
pub fn place<K: Guest>(kernel: &K, root: BorrowedFd<'_>, path: &str, kind: Kind) -> Result<(OwnedFd, bool)> {
    let mut path = relative(path).to_owned();
    for _ in 0..MAX_LINKS {
        match kernel.resolve(root, &path, Last::Follow) {
            Ok(found) => return Ok((found, false)),
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        match make(kernel, root, &path, kind)? {
            None => return kernel.resolve(root, &path, Last::Follow).map(|made| (made, true)),
            Some(through_link) => path = through_link,
        }
    }
    Err(Errno::LOOP)
}

/// The parent of a path, made where it is missing, and the last name.
pub fn parent<'a, K: Guest>(kernel: &K, root: BorrowedFd<'_>, path: &'a str) -> Result<(OwnedFd, &'a str)> {
    let path = relative(path);
    let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
    if name.is_empty() || name == "." || name == ".." {
        return Err(Errno::INVAL);
    }
    place(kernel, root, dir, Kind::Directory).map(|(dir, _)| (dir, name))
}

/// Makes what is missing of a path. A dangling link on the way: the path that leads around it.
fn make<K: Guest>(kernel: &K, root: BorrowedFd<'_>, path: &str, kind: Kind) -> Result<Option<String>> {
    let mut above: Option<OwnedFd> = None;
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    let mut start = 0;
    for end in ends {
        let (prefix, name) = (path.get(..end).unwrap_or(path), path.get(start..end).unwrap_or_default());
        let before = path.get(..start).unwrap_or_default();
        start = end + 1;
        if name.is_empty() {
            continue;
        }
        match kernel.resolve(root, prefix, Last::Follow) {
            Ok(found) => {
                above = Some(found);
                continue;
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let rest = path.get(end..).unwrap_or_default();
        match kernel.resolve(root, prefix, Last::Link) {
            Ok(link) => {
                let target = kernel.target(link.as_fd())?;
                return Ok(Some(match target.strip_prefix('/') {
                    Some(absolute) => format!("{}{rest}", relative(absolute)),
                    None => format!("{before}{target}{rest}"),
                }));
            }
            Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno),
        }
        let dir = above.as_ref().map_or(root, AsFd::as_fd);
        if rest.is_empty() && kind == Kind::Other {
            kernel.make_file(dir, name, 0o644, &[])?;
        } else {
            kernel.make_dir(dir, name)?;
            above = Some(kernel.resolve(root, prefix, Last::Follow)?);
        }
    }
    Ok(None)
}

pub fn relative(path: &str) -> &str {
    path.trim_start_matches('/')
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::kernel::Linux;

    /// A tree, opened, and beside it what must not be touched.
    fn tree() -> (tempfile::TempDir, OwnedFd) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("root/etc")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        let root = rustix::fs::open(
            dir.path().join("root"),
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        );
        (dir, root.unwrap())
    }

    #[test]
    fn missing_places_are_made() {
        let (dir, root) = tree();
        let made = place(&Linux, root.as_fd(), "/var/lib/x/", Kind::Directory).unwrap();
        assert!(made.1 && dir.path().join("root/var/lib/x").is_dir());
        let made = place(&Linux, root.as_fd(), "/etc/hosts", Kind::Other).unwrap();
        assert!(made.1 && dir.path().join("root/etc/hosts").is_file());
        assert!(!place(&Linux, root.as_fd(), "/etc/hosts", Kind::Other).unwrap().1);
    }

    #[test]
    fn links_of_the_image_stay_in_the_image() {
        let (dir, root) = tree();
        let inside = dir.path().join("root");
        for (link, target) in [
            ("up", "../../outside"),
            ("absolute", "/new/place"),
            ("host", dir.path().join("outside").to_str().unwrap()),
        ] {
            symlink(target, inside.join(link)).unwrap();
            place(&Linux, root.as_fd(), &format!("/{link}/x/y"), Kind::Other).unwrap();
        }
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
        assert!(inside.join("outside/x/y").is_file());
        assert!(inside.join("new/place/x/y").is_file());
        let host = dir.path().join("outside");
        assert!(inside.join(host.strip_prefix("/").unwrap()).join("x/y").is_file());
    }

    #[test]
    fn a_dangling_link_as_the_last_name_is_made_where_it_points() {
        let (dir, root) = tree();
        symlink("../run/conf", dir.path().join("root/etc/resolv.conf")).unwrap();
        place(&Linux, root.as_fd(), "/etc/resolv.conf", Kind::Other).unwrap();
        assert!(dir.path().join("root/run/conf").is_file());
    }

    #[test]
    fn links_that_go_round_are_an_error() {
        let (dir, root) = tree();
        symlink("b", dir.path().join("root/a")).unwrap();
        symlink("a", dir.path().join("root/b")).unwrap();
        assert!(place(&Linux, root.as_fd(), "/a/x", Kind::Directory).is_err());
        assert!(parent(&Linux, root.as_fd(), "/").is_err());
    }
}
