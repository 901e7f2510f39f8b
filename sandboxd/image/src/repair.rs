//! The store made whole when it is opened.
//!
//! A process killed at any byte leaves temporary names, and layers and blobs without an image. The machine's
//! power lost leaves, besides, layers whose files may be empty: blobs are synced one by one and records
//! depend on them, layers are synced in the background and unpacked again from their blobs if that did not
//! happen.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use crate::chores::delete;
use crate::content::{Algorithm, Digest};
use crate::error::ImageError;
use crate::layer::Found;
use crate::model::ImageId;
use crate::record::Record;
use crate::state::Known;
use crate::store::Images;

/// Reads the store and repairs it.
pub(crate) fn run(images: &Images) -> Result<(), ImageError> {
    for path in entries(images.blobs.ingest_dir())? {
        tracing::info!(path = %path.display(), "half-made blob removed");
        delete(&path);
    }
    for found in images.layers.read()? {
        match found {
            Found::Layer(layer, unpacked) => images.state().add_layer(layer, unpacked, 0),
            Found::Waste(path, why) => {
                tracing::warn!(path = %path.display(), why, "layer removed");
                delete(&path);
            }
        }
    }
    for algorithm in Algorithm::ALL {
        read_blobs(images, algorithm)?;
    }
    for (id, record) in images.records().read()? {
        match know(images, &id, &record) {
            Ok(known) => put(images, known)?,
            Err(error) if is_damage(&error) => {
                let chain = crate::error::chain(&error);
                tracing::warn!(image = %id, names = ?record.tags, error = chain, "image dropped: pull it again");
                images.records().remove(&id)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn read_blobs(images: &Images, algorithm: Algorithm) -> Result<(), ImageError> {
    for path in entries(&images.blobs.dir(algorithm))? {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let digest = format!("{}:{name}", algorithm.as_str()).parse::<Digest>();
        let metadata = fs::symlink_metadata(&path).map_err(ImageError::io("look at", &path))?;
        match digest {
            Ok(digest) if metadata.is_file() => images.state().add_blob(&digest, metadata.size(), 0),
            _ => {
                tracing::warn!(path = %path.display(), "no blob by its name; removed");
                delete(&path);
            }
        }
    }
    Ok(())
}

/// What a record comes to; a layer that is missing is unpacked again.
fn know(images: &Images, id: &ImageId, record: &Record) -> Result<Known, ImageError> {
    loop {
        match images.know(id, record.clone()) {
            Err(ImageError::NoLayer(layer)) => {
                tracing::warn!(image = %id, %layer, "layer is unpacked again");
                let blob = images.blob_of_layer(&record.manifest, &layer)?;
                let (layer, unpacked) = images.unpack(&blob, &layer, &AtomicBool::new(false))?;
                images.state().add_layer(layer, unpacked, 0);
            }
            other => return other,
        }
    }
}

/// Whether the image is no more, as opposed to a disk that fails just now.
fn is_damage(error: &ImageError) -> bool {
    !matches!(error, ImageError::Io { .. })
}

fn put(images: &Images, known: Known) -> Result<(), ImageError> {
    let put = images.state().put(known, &images.layers, &images.blobs);
    put.doomed.iter().for_each(|path| delete(path));
    put.changed.iter().try_for_each(|other| images.rewrite(other))
}

fn entries(dir: &Path) -> Result<Vec<std::path::PathBuf>, ImageError> {
    let read = fs::read_dir(dir).and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect());
    read.map_err(ImageError::io("read", dir))
}
