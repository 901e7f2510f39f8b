//! Volumes that an image asks for: a directory each beside the container's root, filled with what the image has
//! there, gone with the container.
//!
//! They are copied out of the container's finished root, where all ids are the host's: the directory is mounted
//! as it lies on the disk, in a pod with a user namespace too.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;

use super::copy::{self, CopyError, Options};
use super::rootfs::open_beneath;
use crate::pod::spec::IdMappings;

/// Volumes of one image.
const VOLUMES_MAX: usize = 1024;

/// Why a volume could not be made.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    #[error("the image asks for {count} volumes, {VOLUMES_MAX} are the most")]
    TooMany { count: usize },
    #[error("{action} for the image's volume {volume}")]
    Io {
        action: &'static str,
        volume: String,
        #[source]
        source: io::Error,
    },
    #[error("filling the image's volume {volume}")]
    Copy {
        volume: String,
        #[source]
        source: CopyError,
    },
}

/// Makes the volumes of an image under `dir/volumes`, but for those at whose place the request mounts something.
///
/// # Errors
/// [`VolumeError`]; what was made lies under `dir`.
pub fn make(
    root: BorrowedFd<'_>,
    volumes: &[String],
    taken: &[&str],
    dir: &Path,
    maps: Option<&IdMappings>,
) -> Result<Vec<(String, PathBuf)>, VolumeError> {
    if volumes.len() > VOLUMES_MAX {
        return Err(VolumeError::TooMany { count: volumes.len() });
    }
    let mut made: Vec<(String, PathBuf)> = Vec::new();
    for volume in volumes {
        let path = super::clean(volume);
        if path == "/" || taken.contains(&path.as_str()) || made.iter().any(|(known, _)| *known == path) {
            continue;
        }
        let place = dir.join("volumes").join(made.len().to_string());
        fill(root, &path, &place, maps)?;
        made.push((path, place));
    }
    Ok(made)
}

fn fill(
    root: BorrowedFd<'_>,
    volume: &str,
    place: &Path,
    maps: Option<&IdMappings>,
) -> Result<(), VolumeError> {
    let failed = |action, source| VolumeError::Io { action, volume: volume.to_owned(), source };
    std::fs::create_dir_all(place).map_err(|error| failed("making a directory", error))?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let to: OwnedFd = rustix::fs::openat(CWD, place, flags, Mode::empty())
        .map_err(|errno| failed("opening the directory", errno.into()))?;
    match open_beneath(root, volume, OFlags::RDONLY | OFlags::DIRECTORY) {
        Ok(from) => copy::copy(from.as_fd(), to.as_fd(), Options::default())
            .map(drop)
            .map_err(|source| VolumeError::Copy { volume: volume.to_owned(), source }),
        Err(Errno::NOENT) => {
            let (uid, gid) = maps.map_or((0, 0), IdMappings::host_root);
            let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
            rustix::fs::fchown(&to, Some(uid), Some(gid))
                .and_then(|()| rustix::fs::fchmod(&to, Mode::from_raw_mode(0o755)))
                .map_err(|errno| failed("giving the directory to the container's root", errno.into()))
        }
        Err(errno) => Err(failed("looking at what the image has", errno.into())),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    use super::*;
    use crate::container::rootfs::tests::{Held, disk, layer, root_only};
    use crate::container::rootfs::{self};

    #[test]
    fn volumes_begin_with_what_the_image_has() {
        if !root_only() {
            return;
        }
        let dir = disk();
        let held = Held::new();
        let base = layer(dir.path().join("layer"));
        fs::create_dir_all(base.path.join("var/data/sub")).unwrap();
        fs::write(base.path.join("var/data/sub/f"), "x").unwrap();
        std::os::unix::fs::chown(base.path.join("var/data"), Some(999), Some(998)).unwrap();
        symlink("/var/data", base.path.join("link")).unwrap();
        symlink(format!("{}{}", "../".repeat(30), dir.path().display()), base.path.join("out")).unwrap();
        fs::write(base.path.join("file"), "").unwrap();
        let layers = [base];
        for userns in [None, Some(held.userns())] {
            let own = dir.path().join(format!("c{}", userns.is_some()));
            let root = rootfs::root(&layers, &own, userns).unwrap().mount;
            let asked = ["/var/data", "new/one/", "/link", "/taken", "/", "/var//data"].map(String::from);
            let maps = userns.map(|u| u.maps);
            let made = make(root.as_fd(), &asked, &["/taken"], &own, maps).unwrap();
            let paths: Vec<&str> = made.iter().map(|(path, _)| path.as_str()).collect();
            assert_eq!(paths, ["/var/data", "/new/one", "/link"]);
            let offset = userns.map_or(0, |u| u.maps.host_root().0);
            let meta = fs::metadata(&made[0].1).unwrap();
            assert_eq!((meta.uid(), meta.gid()), (offset + 999, offset + 998));
            assert_eq!(fs::read_to_string(made[0].1.join("sub/f")).unwrap(), "x");
            assert_eq!(fs::metadata(made[0].1.join("sub/f")).unwrap().uid(), offset);
            let meta = fs::metadata(&made[1].1).unwrap();
            assert_eq!((meta.uid(), meta.mode() & 0o7777), (offset, 0o755));
            assert!(made[2].1.join("sub/f").exists());
            // A link out of the root leads to nothing.
            let out = make(root.as_fd(), &["/out".into()], &[], &own.join("out"), maps).unwrap();
            assert_eq!(fs::read_dir(&out[0].1).unwrap().count(), 0);
            let error = make(root.as_fd(), &["/file".into()], &[], &own.join("file"), maps).unwrap_err();
            assert!(error.to_string().contains("/file"), "{error}");
        }
    }
}
