//! Hard links, also to what comes later.

use std::io;

use rustix::fs::{AtFlags, FileType, linkat, statat};
use rustix::io::Errno;

use super::{Maker, Place};
use crate::layer::UnpackError;
use crate::layer::tree::{Clean, clean};
use crate::tar::{Entry, lossy};

impl Maker<'_> {
    pub(super) fn hard_link(&mut self, place: &Place<'_>, entry: &Entry) -> Result<(), UnpackError> {
        let target =
            clean(&entry.link).map_err(|_| link_error(place.path, &entry.link)).and_then(|target| {
                if target.name.is_none() { Err(link_error(place.path, &entry.link)) } else { Ok(target) }
            })?;
        match self.link(place, &target)? {
            true => Ok(()),
            false => {
                self.keep(entry.path.len() + entry.link.len())?;
                self.links.push((entry.path.clone(), entry.link.clone()));
                Ok(())
            }
        }
    }

    /// Makes a hard link; false when there is no target.
    fn link(&mut self, place: &Place<'_>, target: &Clean) -> Result<bool, UnpackError> {
        let Some(name) = &target.name else { return Ok(false) };
        let from = match self.tree.existing(&target.parent) {
            Ok(from) => from,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => {
                return Err(UnpackError::Make {
                    path: lossy(place.path),
                    action: "reach its target",
                    source,
                });
            }
        };
        let stat = match statat(&from, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            Err(Errno::NOENT) => return Ok(false),
            Err(e) => return Err(place.failed("look at its target")(e)),
        };
        if let Ok(there) = statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW) {
            // A link to itself, or made before: removing it first would remove the target.
            if (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino) {
                return Ok(true);
            }
        }
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(UnpackError::Entry { path: lossy(place.path), why: "is a hard link to a directory" });
        }
        self.create(place, |p| linkat(&from, name, &p.parent, p.name, AtFlags::empty()))?;
        self.inodes = self.inodes.saturating_sub(1);
        Ok(true)
    }

    /// A hard link that came before its target.
    pub(super) fn late_link(&mut self, path: &[u8], target: &[u8]) -> Result<(), UnpackError> {
        let (Ok(Clean { parent, name: Some(name) }), Ok(cleaned)) = (clean(path), clean(target)) else {
            return Err(link_error(path, target));
        };
        let failed = |source| UnpackError::Make { path: lossy(path), action: "reach its directory", source };
        let parent = self.tree.directory(&parent).map_err(failed)?;
        let place = Place { parent, name: &name, path };
        if statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            // A later entry has the name.
            return Ok(());
        }
        if self.link(&place, &cleaned)? { Ok(()) } else { Err(link_error(path, target)) }
    }
}

fn link_error(path: &[u8], target: &[u8]) -> UnpackError {
    UnpackError::LinkTarget { path: lossy(path), target: lossy(target) }
}
