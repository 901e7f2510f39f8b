//! Archives brought in.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use super::files::{Content, Files, nameless};
use super::{docker, oci};
use crate::content::BlobWriter;
use crate::error::ImageError;
use crate::ingest::{Ingest, Names, Slot};
use crate::manifest::{Descriptor, Manifest};
use crate::model::{Image, LayerId};
use crate::store::Images;

/// An image found in an archive: its documents, and where its layers are.
#[derive(Debug)]
pub(super) struct Incoming {
    pub manifest: Vec<u8>,
    pub parsed: Manifest,
    pub config: Vec<u8>,
    pub diff_ids: Vec<LayerId>,
    /// The archive's name of each layer's file.
    pub files: Vec<String>,
    pub names: Names,
}

/// What errors call an archive that has no path.
const SENT: &str = "(as sent)";

/// An archive being sent: a file without a name, gone with whoever holds it.
#[derive(Debug)]
pub struct Inbox {
    file: File,
    written: u64,
    limit: u64,
}

impl Images {
    /// Imports all images of an archive: an OCI layout as a directory or a tar, or a tar as `docker save` and
    /// `skopeo copy … docker-archive:` write them; tars may be compressed. `name` is the repository of images
    /// of which the archive has only a tag, or the whole name of the one image that has none.
    ///
    /// # Errors
    /// When the archive is neither, or lacks a file, or has images of other platforms only, or one cannot be
    /// brought in. Images that came before it stay.
    pub async fn import(
        self: &Arc<Self>,
        archive: &Path,
        name: Option<&str>,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let (path, spool) = (archive.to_owned(), self.blobs.ingest_dir().to_owned());
        let limit = self.settings.limits.max_layer;
        self.import_files(move || Files::open(&path, &spool, limit), name).await
    }

    /// Where the bytes of an archive that is sent are collected. Blocks.
    ///
    /// # Errors
    /// When no file can be made.
    pub fn inbox(&self) -> Result<Inbox, ImageError> {
        let file = nameless(self.blobs.ingest_dir())?;
        Ok(Inbox { file, written: 0, limit: self.settings.limits.max_layer })
    }

    /// [`import`](Self::import) of what was sent.
    ///
    /// # Errors
    /// As there.
    pub async fn import_sent(
        self: &Arc<Self>,
        inbox: Inbox,
        name: Option<&str>,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let (spool, limit) = (self.blobs.ingest_dir().to_owned(), self.settings.limits.max_layer);
        self.import_files(move || Files::of(inbox.file, Path::new(SENT), &spool, limit), name).await
    }

    async fn import_files(
        self: &Arc<Self>,
        open: impl FnOnce() -> Result<Files, ImageError> + Send + 'static,
        name: Option<&str>,
    ) -> Result<Vec<Arc<Image>>, ImageError> {
        let name = name.map(str::to_owned);
        let read = move || {
            let files = open()?;
            let found = if files.find("index.json")?.is_some() {
                oci::read(&files, name.as_deref())?
            } else if files.find("manifest.json")?.is_some() {
                docker::read(&files, name.as_deref())?
            } else {
                return Err(files
                    .wrong("it has neither an index.json (OCI layout) nor a manifest.json (docker save)"));
            };
            Ok((Arc::new(files), found))
        };
        let (files, found) = tokio::task::spawn_blocking(read).await??;
        let mut images = Vec::new();
        for incoming in found {
            images.push(self.import_one(&files, incoming).await?);
        }
        Ok(images)
    }

    async fn import_one(
        self: &Arc<Self>,
        files: &Arc<Files>,
        incoming: Incoming,
    ) -> Result<Arc<Image>, ImageError> {
        let ingest = self.begin();
        for (descriptor, file) in incoming.parsed.layers.iter().zip(&incoming.files) {
            bring(&ingest, descriptor, files, file.clone()).await?;
        }
        let layers = incoming.parsed.layers.iter().cloned().zip(incoming.diff_ids).collect();
        ingest.unpack_layers(layers).await?;
        ingest.commit(incoming.manifest, incoming.config, incoming.names).await
    }
}

impl Inbox {
    /// Appends bytes. Blocks for as long as copying them into the page cache takes.
    ///
    /// # Errors
    /// When they are more than an archive may have, or the disk refuses them.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ImageError> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.limit {
            let why = format!("it is larger than the limit of {} bytes", self.limit);
            return Err(ImageError::Archive { path: SENT.into(), why });
        }
        self.file.write_all(bytes).map_err(ImageError::io("write the archive", Path::new(SENT)))
    }
}

/// Copies a blob from the archive, unless it is there.
async fn bring(
    ingest: &Ingest,
    blob: &Descriptor,
    files: &Arc<Files>,
    name: String,
) -> Result<(), ImageError> {
    let Slot::Missing(writer) = ingest.blob(blob).await? else { return Ok(()) };
    let files = Arc::clone(files);
    tokio::task::spawn_blocking(move || copy(*writer, files.get(&name)?, files.path())).await?
}

fn copy(mut writer: BlobWriter, mut content: Content, path: &Path) -> Result<(), ImageError> {
    content.skip(writer.offset());
    let mut buffer = vec![0; 256 * 1024];
    loop {
        let length = content.read(&mut buffer).map_err(ImageError::io("read", path))?;
        if length == 0 {
            return writer.finish();
        }
        writer.write(&buffer[..length])?;
    }
}
