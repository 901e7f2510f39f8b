//! A tar made into a layer's files.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::make::{Made, Maker};
use super::pipe::Pipe;
use super::tree::Tree;
use super::{UnpackError, Unpacked};
use crate::content::Digest;
use crate::settings::Limits;
use crate::state::on_disk;
use crate::tar::{Reader, TarError};

/// What is unpacked.
#[derive(Debug)]
pub(crate) struct Source<'a> {
    pub file: File,
    pub diff_id: Digest,
    /// Set when nobody waits any more.
    pub stop: &'a AtomicBool,
}

/// Unpacks into an empty directory. What is in it after an error, the caller removes.
pub(super) fn unpack(files: &Path, source: Source<'_>, limits: &Limits) -> Result<Unpacked, UnpackError> {
    let tree = Tree::open(files).map_err(UnpackError::io("open", files))?;
    std::thread::scope(|scope| {
        let algorithm = source.diff_id.algorithm();
        let pipe = Pipe::start(scope, source.file, algorithm, limits.max_layer, source.stop)?;
        let mut reader = Reader::new(pipe);
        let made = make(&mut reader, Maker::new(tree, limits));
        let mut pipe = reader.into_inner();
        let made = match made {
            // The pipe knows better why it ended.
            Err(UnpackError::Tar(error @ TarError::Read { .. })) => {
                return Err(pipe.failure().unwrap_or(error.into()));
            }
            other => other?,
        };
        let (got, tar_size) = pipe.finish()?;
        if got != source.diff_id {
            return Err(UnpackError::DiffId { expected: source.diff_id, got });
        }
        Ok(Unpacked {
            version: 0,
            max_uid: made.max_uid,
            max_gid: made.max_gid,
            // The layer's own directory, the root of its files, and `layer.json`.
            bytes: made.bytes + 3 * on_disk(1),
            inodes: made.inodes + 3,
            tar_size,
            boot_id: String::new(),
        })
    })
}

fn make(reader: &mut Reader<Pipe<'_>>, mut maker: Maker<'_>) -> Result<Made, UnpackError> {
    while let Some(entry) = reader.next()? {
        maker.entry(&entry, reader)?;
    }
    maker.finish()
}
