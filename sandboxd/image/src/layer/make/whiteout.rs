//! Whiteouts: files whose names say what of the layers below is hidden, in overlayfs's form.

use std::ffi::{CStr, CString};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, XattrFlags, fsetxattr, mknodat, openat, statat};
use rustix::io::Errno;

use super::{Maker, Place};
use crate::layer::UnpackError;
use crate::layer::tree::{DIRECTORY, OPAQUE};
use crate::tar::lossy;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// Whether a name is a whiteout's.
pub(super) fn is_whiteout_name(name: &CStr) -> bool {
    name.to_bytes().starts_with(WHITEOUT)
}

impl Maker<'_> {
    pub(super) fn whiteout(&mut self, place: &Place<'_>) -> Result<(), UnpackError> {
        let name = place.name.to_bytes();
        if name == WHITEOUT_OPAQUE {
            return fsetxattr(&place.parent, OPAQUE, b"y", XattrFlags::empty())
                .map_err(place.failed("make its directory opaque"));
        }
        if name.starts_with(WHITEOUT_META) {
            // aufs kept its own affairs there.
            return Ok(());
        }
        let hidden = &name[WHITEOUT.len()..];
        let why = "is a whiteout of no name";
        let entry_error = || UnpackError::Entry { path: lossy(place.path), why };
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(entry_error());
        }
        let hidden = CString::new(hidden).map_err(|_| entry_error())?;
        let at = Place { parent: Rc::clone(&place.parent), name: &hidden, path: place.path };
        match mknodat(&at.parent, at.name, FileType::CharacterDevice, Mode::empty(), 0) {
            Ok(()) => {
                self.inodes += 1;
                Ok(())
            }
            // It hides what is in the layers below, not what this layer has: a file does so by itself.
            Err(Errno::EXIST) => match openat(&at.parent, at.name, DIRECTORY, Mode::empty()) {
                Ok(dir) => fsetxattr(&dir, OPAQUE, b"y", XattrFlags::empty())
                    .map_err(place.failed("make the directory it hides opaque")),
                Err(Errno::NOTDIR | Errno::LOOP) => Ok(()),
                Err(e) => Err(place.failed("open the directory it hides")(e)),
            },
            Err(e) => Err(place.failed("make it")(e)),
        }
    }

    pub(super) fn is_whiteout(&self, place: &Place<'_>) -> bool {
        statat(&place.parent, place.name, AtFlags::SYMLINK_NOFOLLOW).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
        })
    }
}
