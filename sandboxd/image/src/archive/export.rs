//! Images written as archives.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;

use super::oci::path as blob_path;
use super::{NAME, REF_NAME};
use crate::content::Digest;
use crate::error::{ImageError, chain};
use crate::ingest::Ingest;
use crate::layer::decompressed;
use crate::manifest::{Descriptor, Index, MAX_DOCUMENT, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::model::Image;
use crate::names::{Name, normalise};
use crate::store::Images;

/// How an archive is laid out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// An OCI layout in a tar: `skopeo`'s and `podman`'s oci-archive. Blobs are as they came.
    #[default]
    Oci,
    /// What `docker save` writes and every tool reads: layers uncompressed.
    Docker,
}

/// An image to be written.
struct Outgoing {
    image: Arc<Image>,
    digest: Digest,
    manifest: Manifest,
    /// Those it is written under; all it has when it was asked for by its id.
    tags: Vec<String>,
}

impl Images {
    /// Writes images into an archive file, which is there whole or not at all.
    ///
    /// # Errors
    /// When there is no such image, or a blob cannot be read, or the file not be written.
    pub async fn export(
        self: &Arc<Self>,
        references: &[String],
        format: Format,
        archive: &Path,
    ) -> Result<(), ImageError> {
        let (images, references, archive) = (Arc::clone(self), references.to_vec(), archive.to_owned());
        let write = move || {
            let mut name = archive.file_name().unwrap_or_default().to_owned();
            name.push(format!(".{}.tmp", std::process::id()));
            let temporary = archive.with_file_name(name);
            let result =
                File::create(&temporary).map_err(ImageError::io("make", &temporary)).and_then(|file| {
                    images.export_to(&references, format, BufWriter::with_capacity(256 * 1024, file))?;
                    fs::rename(&temporary, &archive).map_err(ImageError::io("name", &archive))
                });
            if result.is_err() {
                let _ = fs::remove_file(&temporary);
            }
            result
        };
        tokio::task::spawn_blocking(write).await?
    }

    /// Writes images as an archive. Blocks.
    ///
    /// # Errors
    /// As [`export`](Self::export).
    pub fn export_to<W: Write>(
        self: &Arc<Self>,
        references: &[String],
        format: Format,
        output: W,
    ) -> Result<(), ImageError> {
        // Keeps the blobs, should an image be removed meanwhile.
        let hold = self.begin();
        let mut outgoing: Vec<Outgoing> = Vec::new();
        for reference in references {
            let new = self.outgoing(reference, &hold)?;
            match outgoing.iter_mut().find(|known| known.image.id == new.image.id) {
                Some(known) => known.tags.extend(new.tags),
                None => outgoing.push(new),
            }
        }
        let mut tar = crate::tar::Writer::new(output);
        match format {
            Format::Oci => self.write_oci(&outgoing, &mut tar)?,
            Format::Docker => self.write_docker(&outgoing, &mut tar)?,
        }
        tar.finish().map_err(write_error)?;
        Ok(())
    }

    fn outgoing(&self, reference: &str, hold: &Ingest) -> Result<Outgoing, ImageError> {
        let missing = || ImageError::NoImage(reference.to_owned());
        let image = self.find(reference)?.ok_or_else(missing)?;
        let digest = self.manifest_of(&image.id).ok_or_else(missing)?;
        let bytes = self.blobs.document(&digest, MAX_DOCUMENT)?;
        let manifest: Manifest = crate::store::json("manifest", &digest, &bytes)?;
        for descriptor in manifest.layers.iter().chain([&manifest.config]) {
            hold.keep(&descriptor.digest)?;
        }
        hold.keep(&digest)?;
        let tags = match normalise(reference) {
            Some(Name::Tag(tag)) if image.repo_tags.contains(&tag) => vec![tag],
            _ => image.repo_tags.clone(),
        };
        Ok(Outgoing { image, digest, manifest, tags })
    }

    fn write_oci<W: Write>(
        &self,
        outgoing: &[Outgoing],
        tar: &mut crate::tar::Writer<W>,
    ) -> Result<(), ImageError> {
        document(tar, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut index = Index { schema_version: 2, media_type: OCI_INDEX.to_owned(), manifests: Vec::new() };
        let mut blobs = BTreeSet::new();
        for Outgoing { digest, manifest, tags, .. } in outgoing {
            let size = self.state().has_blob(digest).unwrap_or_default();
            let media_type = if manifest.media_type.is_empty() { OCI_MANIFEST } else { &manifest.media_type };
            let descriptor = Descriptor::new(media_type, digest.clone(), size);
            let named = |tag: &String| Descriptor {
                annotations: BTreeMap::from([
                    (NAME.to_owned(), tag.clone()),
                    (REF_NAME.to_owned(), tag.clone()),
                ]),
                ..descriptor.clone()
            };
            index.manifests.extend(tags.iter().map(named));
            if tags.is_empty() {
                index.manifests.push(descriptor.clone());
            }
            blobs.extend(manifest.layers.iter().map(|layer| layer.digest.clone()));
            blobs.extend([manifest.config.digest.clone(), digest.clone()]);
        }
        document(tar, "index.json", &to_json(&index)?)?;
        for digest in blobs {
            let mut file = self.blobs.file(&digest)?;
            let size = file.metadata().map_err(ImageError::io("look at", &self.blobs.path(&digest)))?.len();
            tar.file(&blob_path(&digest), size, &mut file).map_err(write_error)?;
        }
        Ok(())
    }

    fn write_docker<W: Write>(
        &self,
        outgoing: &[Outgoing],
        tar: &mut crate::tar::Writer<W>,
    ) -> Result<(), ImageError> {
        #[derive(Serialize)]
        #[serde(rename_all = "PascalCase")]
        struct Item {
            config: String,
            repo_tags: Vec<String>,
            layers: Vec<String>,
        }
        let mut items = Vec::new();
        let mut written = BTreeSet::new();
        for Outgoing { image, manifest, tags, .. } in outgoing {
            let mut layers = Vec::new();
            for (layer, blob) in image.layers.iter().zip(&manifest.layers) {
                let hex = layer.id.0.split_once(':').map_or(layer.id.0.as_str(), |(_, hex)| hex);
                // The names of old tars end at 100 bytes.
                let path = format!("{}/layer.tar", hex.get(..64).unwrap_or(hex));
                if written.insert(path.clone()) {
                    let size = self.state().layer(&layer.id).map(|(_, unpacked)| unpacked.tar_size);
                    let size = size.ok_or_else(|| ImageError::NoLayer(layer.id.clone()))?;
                    let read = decompressed(self.blobs.file(&blob.digest)?);
                    let mut read = read.map_err(|source| ImageError::Unpack {
                        layer: layer.id.clone(),
                        blob: blob.digest.clone(),
                        source,
                    })?;
                    tar.file(&path, size, &mut read).map_err(write_error)?;
                }
                layers.push(path);
            }
            let config = format!("{}.json", manifest.config.digest.hex().get(..64).unwrap_or_default());
            if written.insert(config.clone()) {
                document(tar, &config, &self.raw_config(&image.id)?)?;
            }
            items.push(Item { config, repo_tags: tags.clone(), layers });
        }
        document(tar, "manifest.json", &to_json(&items)?)
    }
}

fn document<W: Write>(tar: &mut crate::tar::Writer<W>, path: &str, bytes: &[u8]) -> Result<(), ImageError> {
    tar.file(path, bytes.len() as u64, &mut io::Cursor::new(bytes)).map_err(write_error)
}

fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value).map_err(|e| write_error(io::Error::other(chain(&e))))
}

fn write_error(source: io::Error) -> ImageError {
    ImageError::Io { action: "write the", path: "archive".into(), source }
}
