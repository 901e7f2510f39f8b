//! Archives brought in.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::files::{Content, Files};
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
        let (limit, name) = (self.settings.limits.max_layer, name.map(str::to_owned));
        let read = move || {
            let files = Files::open(&path, &spool, limit)?;
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
