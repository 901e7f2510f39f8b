//! Images on disk: one small file each, `images/HEX.json`, replaced by rename.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use crate::content::{Digest, private_dir, replace, sync_dir};
use crate::error::ImageError;
use crate::ingest::Names;
use crate::model::{Image, ImageId};
use crate::state::Known;

/// The layout of [`Record`].
const VERSION: u64 = 1;

/// The largest record that is read, in bytes: tens of thousands of names.
const MAX_RECORD: u64 = 4 * 1024 * 1024;

/// What cannot be read from the image's own documents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u64,
    /// Rises with each record written; where two have the same name, the later one has it.
    pub generation: u64,
    pub manifest: Digest,
    pub tags: BTreeSet<String>,
    pub digests: BTreeSet<String>,
}

impl Record {
    pub(crate) fn new(manifest: Digest, names: &Names) -> Self {
        Self {
            version: VERSION,
            generation: 0,
            manifest,
            tags: names.tags.iter().cloned().collect(),
            digests: names.digests.iter().cloned().collect(),
        }
    }

    pub(crate) fn of(known: &Known) -> Self {
        let mut record = Self::new(known.manifest.clone(), &Names::default());
        record.keep_names(&known.image);
        record
    }

    pub(crate) fn keep_names(&mut self, image: &Image) {
        self.tags.extend(image.repo_tags.iter().cloned());
        self.digests.extend(image.repo_digests.iter().cloned());
    }
}

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    generation: AtomicU64,
}

impl Records {
    pub(crate) fn open(root: &Path) -> Result<Self, ImageError> {
        let dir = root.join("images");
        private_dir(&dir)?;
        Ok(Self { dir, generation: AtomicU64::new(0) })
    }

    fn path(&self, id: &ImageId) -> PathBuf {
        let hex = id.0.split_once(':').map_or(id.0.as_str(), |(_, hex)| hex);
        self.dir.join(format!("{hex}.json"))
    }

    /// Writes a record, durably, with the next generation.
    pub(crate) fn write(&self, id: &ImageId, record: &mut Record) -> Result<(), ImageError> {
        record.generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let path = self.path(id);
        let bytes = serde_json::to_vec(record)
            .map_err(|e| ImageError::io("write", &path)(io::Error::new(io::ErrorKind::InvalidData, e)))?;
        replace(&path, &bytes)
    }

    /// Removes a record, durably. Gone already is fine.
    pub(crate) fn remove(&self, id: &ImageId) -> Result<(), ImageError> {
        let path = self.path(id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(ImageError::io("remove", &path)(e)),
            _ => sync_dir(&self.dir),
        }
    }

    /// All records that can be read, lowest generation first. Files that are none are removed.
    pub(crate) fn read(&self) -> Result<Vec<(ImageId, Record)>, ImageError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(ImageError::io("read", &self.dir))? {
            let path = entry.map_err(ImageError::io("read", &self.dir))?.path();
            match self.read_one(&path)? {
                Some(record) => found.push(record),
                None => fs::remove_file(&path).map_err(ImageError::io("remove", &path))?,
            }
        }
        found.sort_by_key(|(_, record)| record.generation);
        self.generation.store(found.last().map_or(0, |(_, last)| last.generation), Ordering::Relaxed);
        Ok(found)
    }

    /// `None` for what is no record. What only cannot be read just now is an error.
    fn read_one(&self, path: &Path) -> Result<Option<(ImageId, Record)>, ImageError> {
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        let algorithm = if stem.len() == 128 { "sha512" } else { "sha256" };
        let id = format!("{algorithm}:{stem}").parse::<Digest>();
        let (Ok(id), Some("json")) = (id, path.extension().and_then(|e| e.to_str())) else {
            tracing::warn!(path = %path.display(), "no image record by its name; removed");
            return Ok(None);
        };
        let bytes = read_bounded(path).map_err(ImageError::io("read", path))?;
        let record = match serde_json::from_slice::<serde_json::Value>(&bytes) {
            Ok(value) => match value.get("version").and_then(serde_json::Value::as_u64) {
                Some(found) if found > VERSION => {
                    return Err(ImageError::Version { path: path.to_owned(), found, known: VERSION });
                }
                _ => serde_json::from_value(value),
            },
            Err(error) => Err(error),
        };
        match record {
            Ok(record) => Ok(Some((ImageId(id.to_string()), record))),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "damaged image record; the image is dropped");
                Ok(None)
            }
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_RECORD).read_to_end(&mut bytes)?;
    Ok(bytes)
}
