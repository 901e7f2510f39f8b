//! The tars of `docker save`: a `manifest.json` that lists configurations, names and layers. There is no
//! manifest in them, so one is made; the same image from a registry has another one.

use serde::Deserialize;

use super::files::Files;
use super::import::Incoming;
use crate::config;
use crate::content::{Algorithm, Digest, Hasher};
use crate::error::ImageError;
use crate::ingest::Names;
use crate::layer::Compression;
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, or_default};
use crate::names::{Name, normalise};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default, deserialize_with = "or_default")]
    repo_tags: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    layers: Vec<String>,
}

/// Finds the images of an archive. Blocks.
pub(super) fn read(files: &Files, name: Option<&str>) -> Result<Vec<Incoming>, ImageError> {
    let bytes = files.document("manifest.json")?;
    let items: Vec<Item> = serde_json::from_slice(&bytes)
        .map_err(|e| files.wrong(format!("its manifest.json cannot be read: {e}")))?;
    let only = items.len() == 1;
    items.into_iter().map(|item| incoming(files, item, name.filter(|_| only))).collect()
}

fn incoming(files: &Files, item: Item, name: Option<&str>) -> Result<Incoming, ImageError> {
    let config = files.document(&item.config)?;
    let digest = Digest::of(&config);
    let document = config::parse(&digest, &config)?;
    if document.diff_ids.len() != item.layers.len() {
        let (layers, diff_ids) = (item.layers.len(), document.diff_ids.len());
        let file = &item.config;
        return Err(
            files.wrong(format!("{file} has {diff_ids} diff ids and manifest.json {layers} layers for it"))
        );
    }
    let mut layers = Vec::new();
    for (file, diff_id) in item.layers.iter().zip(&document.diff_ids) {
        layers.push(layer(files, file, &diff_id.0.parse()?)?);
    }
    let parsed = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST.to_owned(),
        config: Descriptor::new(OCI_CONFIG, digest, config.len() as u64),
        layers,
        annotations: std::collections::BTreeMap::new(),
    };
    let manifest = serde_json::to_vec(&parsed)
        .map_err(|e| files.wrong(format!("a manifest for {} cannot be written: {e}", item.config)))?;
    let tags = item.repo_tags.iter().map(String::as_str);
    let tags = tags.chain(name.filter(|_| item.repo_tags.is_empty()));
    let tags = tags.map(|tag| match normalise(tag) {
        Some(Name::Tag(tag)) => Ok(tag),
        _ => Err(files.wrong(format!("{tag:?} is no tag of an image"))),
    });
    let names = Names { tags: tags.collect::<Result<_, _>>()?, digests: Vec::new() };
    Ok(Incoming { manifest, parsed, config, diff_ids: document.diff_ids, files: item.layers, names })
}

/// A layer's descriptor. Plain layers have their diff id as digest, which is checked when they are copied;
/// the digest of others takes a reading.
fn layer(files: &Files, file: &str, diff_id: &Digest) -> Result<Descriptor, ImageError> {
    let mut content = files.get(file)?;
    let size = content.size();
    let read = ImageError::io("read", files.path());
    let suffix = match content.compression().map_err(read)? {
        Compression::None => return Ok(Descriptor::new(OCI_LAYER, diff_id.clone(), size)),
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
        Compression::Other(name) => return Err(files.wrong(format!("{file} is compressed with {name}"))),
    };
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.drain(&mut content).map_err(ImageError::io("read", files.path()))?;
    Ok(Descriptor::new(&format!("{OCI_LAYER}{suffix}"), hasher.finish(), size))
}
