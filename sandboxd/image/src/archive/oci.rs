//! OCI layouts: an `index.json` and blobs by digest.

use super::files::Files;
use super::import::Incoming;
use super::{NAME, REF_NAME};
use crate::config;
use crate::content::Digest;
use crate::error::ImageError;
use crate::ingest::Names;
use crate::manifest::{DOCKER_LIST, Descriptor, Index, Manifest, OCI_INDEX, Platform};
use crate::names::{Name, normalise};

/// Indexes in indexes in indexes.
const MAX_NESTING: u32 = 4;

/// Finds the images of a layout. Blocks.
pub(super) fn read(files: &Files, name: Option<&str>) -> Result<Vec<Incoming>, ImageError> {
    let bytes = files.document("index.json")?;
    let index: Index = serde_json::from_slice(&bytes)
        .map_err(|e| files.wrong(format!("its index.json cannot be read: {e}")))?;
    let only = index.manifests.len() == 1;
    let mut found: Vec<Incoming> = Vec::new();
    let mut others = Vec::new();
    for top in &index.manifests {
        let Some(manifest) = choose(files, top, MAX_NESTING, &mut others)? else { continue };
        let mut names = Names::default();
        let whole = name_of(files, top, name.filter(|_| only), name)?;
        if let Some(tag) = whole {
            let repository = tag.rsplit_once(':').map_or(tag.as_str(), |(repository, _)| repository);
            names.digests.push(format!("{repository}@{}", top.digest));
            names.tags.push(tag);
        }
        // An image of several names is in the index once for each.
        match found.iter_mut().find(|other| Digest::of(&other.manifest) == manifest.digest) {
            Some(other) => {
                other.names.tags.append(&mut names.tags);
                other.names.digests.append(&mut names.digests);
            }
            None => found.push(incoming(files, &manifest, names)?),
        }
    }
    if found.is_empty() {
        let host = host();
        return Err(files.wrong(format!(
            "it has no image for {}/{}, only for {}",
            host.os,
            host.architecture,
            if others.is_empty() { "nothing".to_owned() } else { others.join(", ") }
        )));
    }
    Ok(found)
}

/// The name of an image: whole, or a tag of the repository that the caller knows.
fn name_of(
    files: &Files,
    top: &Descriptor,
    whole: Option<&str>,
    repository: Option<&str>,
) -> Result<Option<String>, ImageError> {
    let annotated = top.annotations.get(NAME).or_else(|| top.annotations.get(REF_NAME));
    let text = match (annotated, whole, repository) {
        (Some(text), _, _) if text.contains([':', '/']) => text.clone(),
        (Some(tag), _, Some(repository)) => format!("{repository}:{tag}"),
        (Some(_), _, None) | (None, None, _) => return Ok(None),
        (None, Some(whole), _) => whole.to_owned(),
    };
    match normalise(&text) {
        Some(Name::Tag(tag)) => Ok(Some(tag)),
        _ => Err(files.wrong(format!("{text:?} is no tag of an image"))),
    }
}

/// The manifest for this machine behind a descriptor, which may be an index.
fn choose(
    files: &Files,
    descriptor: &Descriptor,
    nesting: u32,
    others: &mut Vec<String>,
) -> Result<Option<Descriptor>, ImageError> {
    if !matches!(descriptor.media_type.as_str(), OCI_INDEX | DOCKER_LIST) {
        let Some(platform) = descriptor.platform.as_ref().filter(|p| !fits(p)) else {
            return Ok(Some(descriptor.clone()));
        };
        others.push(format!("{}/{}", platform.os, platform.architecture));
        return Ok(None);
    }
    if nesting == 0 {
        return Err(files.wrong("it has indexes in indexes, more than four deep"));
    }
    let bytes = blob(files, descriptor)?;
    let index: Index = crate::store::json("index", &descriptor.digest, &bytes)?;
    for inner in &index.manifests {
        if let Some(found) = choose(files, inner, nesting - 1, others)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

fn incoming(files: &Files, descriptor: &Descriptor, names: Names) -> Result<Incoming, ImageError> {
    let manifest = blob(files, descriptor)?;
    let parsed: Manifest = crate::store::json("manifest", &descriptor.digest, &manifest)?;
    let config = blob(files, &parsed.config)?;
    let document = config::parse(&parsed.config.digest, &config)?;
    if document.diff_ids.len() != parsed.layers.len() {
        return Err(ImageError::LayerCount {
            digest: descriptor.digest.clone(),
            layers: parsed.layers.len(),
            diff_ids: document.diff_ids.len(),
        });
    }
    let layers = parsed.layers.iter().map(|layer| path(&layer.digest)).collect();
    Ok(Incoming { manifest, config, diff_ids: document.diff_ids, files: layers, names, parsed })
}

/// A document of the layout, its digest checked.
fn blob(files: &Files, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let bytes = files.document(&path(&descriptor.digest))?;
    if !descriptor.digest.matches(&bytes) {
        return Err(ImageError::Mismatch { expected: descriptor.digest.clone(), got: Digest::of(&bytes) });
    }
    Ok(bytes)
}

pub(super) fn path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// This machine, in OCI's words.
fn host() -> Platform {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    };
    Platform { architecture: architecture.to_owned(), os: "linux".to_owned(), ..Platform::default() }
}

fn fits(platform: &Platform) -> bool {
    let host = host();
    platform.os == host.os && platform.architecture == host.architecture
}
