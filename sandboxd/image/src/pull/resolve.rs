//! From a reference to a manifest and a configuration, every digest checked.

use serde::Deserialize;

use super::error::PullError;
use super::platform;
use crate::content::Digest;
use crate::manifest::{
    DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST, Descriptor, Index, MAX_DOCUMENT, Manifest, OCI_CONFIG,
    OCI_INDEX, OCI_MANIFEST, Platform,
};
use crate::model::LayerId;
use crate::reference::{Reference, Version};
use crate::registry::Registry;

/// Indexes that point at indexes.
const DEPTH_MAX: u32 = 4;
const LAYERS_MAX: usize = 512;

/// An image whose layers are known.
#[derive(Debug)]
pub(super) struct Resolved {
    /// What the reference came to: the digest a repo digest names.
    pub top: Digest,
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    /// Lowest first.
    pub layers: Vec<(Descriptor, LayerId)>,
}

/// What tells kinds of documents apart.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Shape {
    schema_version: u32,
    media_type: Option<String>,
    artifact_type: Option<String>,
    manifests: Option<serde::de::IgnoredAny>,
    layers: Option<serde::de::IgnoredAny>,
    config: Option<serde::de::IgnoredAny>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

enum Document {
    Index(Index),
    Manifest(Box<Manifest>),
}

pub(super) struct Resolver<'a> {
    pub registry: &'a Registry,
    pub reference: &'a Reference,
}

impl Resolver<'_> {
    /// The digest a reference has at the registry, and the document.
    pub(super) async fn top(&self) -> Result<(Digest, Vec<u8>, String), PullError> {
        self.fetch(self.reference.version(), None).await
    }

    /// Goes down to this machine's manifest and its configuration.
    pub(super) async fn resolve(
        &self,
        (top, bytes, media_type): (Digest, Vec<u8>, String),
    ) -> Result<Resolved, PullError> {
        let (mut bytes, mut media_type) = (bytes, media_type);
        for _ in 0..DEPTH_MAX {
            match self.parse(&bytes, &media_type)? {
                Document::Manifest(manifest) => return self.image(top, bytes, *manifest).await,
                Document::Index(index) => {
                    let child = self.choose(&index)?;
                    let version = Version::Digest(child.digest.clone());
                    (_, bytes, media_type) = self.fetch(&version, Some(&child)).await?;
                }
            }
        }
        Err(PullError::Nested { reference: self.reference.to_string(), limit: DEPTH_MAX })
    }

    async fn fetch(
        &self,
        version: &Version,
        descriptor: Option<&Descriptor>,
    ) -> Result<(Digest, Vec<u8>, String), PullError> {
        if let Some(child) = descriptor.filter(|child| child.size > MAX_DOCUMENT) {
            return Err(self.invalid(format!("it points at a manifest of {} bytes", child.size)));
        }
        let document = self.registry.manifest(version, MAX_DOCUMENT).await?;
        let mismatch = |expected: String, got: String| PullError::Mismatch {
            reference: self.reference.to_string(),
            host: document.host.clone(),
            what: "a manifest",
            expected,
            got,
        };
        let digest = match version {
            Version::Digest(digest) if digest.matches(&document.bytes) => digest.clone(),
            Version::Digest(digest) => {
                return Err(mismatch(digest.to_string(), Digest::of(&document.bytes).to_string()));
            }
            Version::Tag(_) => {
                let digest = Digest::of(&document.bytes);
                let announced = document.announced.as_ref().and_then(|text| text.parse::<Digest>().ok());
                match announced {
                    Some(announced) if !announced.matches(&document.bytes) => {
                        return Err(mismatch(announced.to_string(), digest.to_string()));
                    }
                    _ => digest,
                }
            }
        };
        if let Some(child) = descriptor
            && child.size != document.bytes.len() as u64
        {
            let (said, got) = (child.size, document.bytes.len());
            return Err(self.invalid(format!("it gives {digest} {said} bytes, which has {got}")));
        }
        Ok((digest, document.bytes, document.media_type))
    }

    fn invalid(&self, why: String) -> PullError {
        PullError::Manifest { reference: self.reference.to_string(), why }
    }

    fn parse(&self, bytes: &[u8], served_as: &str) -> Result<Document, PullError> {
        let reference = || self.reference.to_string();
        let Ok(shape) = serde_json::from_slice::<Shape>(bytes) else {
            let media_type = if served_as.is_empty() { "no JSON" } else { served_as }.to_owned();
            let host = self.reference.domain().to_owned();
            return Err(PullError::NotAManifest { reference: reference(), host, media_type });
        };
        if shape.schema_version == 1 || shape.fs_layers.is_some() {
            return Err(PullError::Schema1 { reference: reference() });
        }
        // A document that is both would be one image to some tools and another to others.
        if shape.manifests.is_some() && (shape.layers.is_some() || shape.config.is_some()) {
            return Err(self.invalid("it is an index and a manifest at once".to_owned()));
        }
        let media_type = shape.media_type.as_deref().filter(|m| !m.is_empty()).unwrap_or(served_as);
        let is_index = match media_type {
            OCI_INDEX | DOCKER_LIST => true,
            OCI_MANIFEST | DOCKER_MANIFEST => false,
            _ if shape.manifests.is_some() => true,
            _ if shape.config.is_some() => false,
            "" => {
                let (host, media_type) = (self.reference.domain().to_owned(), "JSON of no kind".to_owned());
                return Err(PullError::NotAManifest { reference: reference(), host, media_type });
            }
            other => {
                return Err(PullError::Artifact { reference: reference(), media_type: other.to_owned() });
            }
        };
        let unreadable = |e: serde_json::Error| self.invalid(e.to_string());
        if is_index {
            return serde_json::from_slice(bytes).map(Document::Index).map_err(unreadable);
        }
        let manifest: Manifest = serde_json::from_slice(bytes).map_err(unreadable)?;
        let config = manifest.config.media_type.as_str();
        if !matches!(config, OCI_CONFIG | DOCKER_CONFIG | "" | "application/octet-stream") {
            let media_type =
                shape.artifact_type.filter(|t| !t.is_empty()).unwrap_or_else(|| config.to_owned());
            return Err(PullError::Artifact { reference: reference(), media_type });
        }
        Ok(Document::Manifest(Box::new(manifest)))
    }

    /// The best manifest for this machine; one that does not say what it is for, only if it is all there is.
    fn choose(&self, index: &Index) -> Result<Descriptor, PullError> {
        let ranked = |d: &Descriptor| match &d.platform {
            Some(platform) => platform::rank(platform),
            None => (!d.media_type.is_empty() || index.manifests.len() == 1).then_some(usize::MAX),
        };
        let best = index.manifests.iter().filter_map(|d| Some((ranked(d)?, d))).min_by_key(|(rank, _)| *rank);
        best.map(|(_, descriptor)| descriptor.clone()).ok_or_else(|| {
            let words = |p: &Platform| platform::words(&p.os, &p.architecture, &p.variant);
            let mut has: Vec<_> =
                index.manifests.iter().filter_map(|d| d.platform.as_ref().map(words)).collect();
            has.dedup();
            has.truncate(20);
            let has = if has.is_empty() { "nothing".to_owned() } else { has.join(", ") };
            PullError::Platform {
                reference: self.reference.to_string(),
                wanted: platform::this_machine(),
                has,
            }
        })
    }

    async fn image(&self, top: Digest, bytes: Vec<u8>, manifest: Manifest) -> Result<Resolved, PullError> {
        if manifest.layers.len() > LAYERS_MAX {
            return Err(self.invalid(format!(
                "it has {} layers, at most {LAYERS_MAX} are taken",
                manifest.layers.len()
            )));
        }
        let config = self.config(&manifest.config).await?;
        let document = crate::config::parse(&manifest.config.digest, &config)?;
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct For {
            os: String,
            architecture: String,
            variant: String,
        }
        let made_for: For = serde_json::from_slice(&config).unwrap_or_default();
        let platform = Platform {
            os: made_for.os,
            architecture: made_for.architecture,
            variant: made_for.variant,
            ..Platform::default()
        };
        if platform::rank(&platform).is_none() {
            let has = platform::words(&platform.os, &platform.architecture, &platform.variant);
            let wanted = platform::this_machine();
            return Err(PullError::Platform { reference: self.reference.to_string(), wanted, has });
        }
        let (layers, diff_ids) = (manifest.layers.len(), document.diff_ids.len());
        if layers != diff_ids {
            return Err(
                self.invalid(format!("it has {layers} layers and its configuration {diff_ids} diff ids"))
            );
        }
        let layers = manifest.layers.into_iter().zip(document.diff_ids).collect();
        Ok(Resolved { top, manifest: bytes, config, layers })
    }

    /// The configuration, which is small, in memory.
    async fn config(&self, descriptor: &Descriptor) -> Result<Vec<u8>, PullError> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(self.invalid(format!("its configuration has {} bytes", descriptor.size)));
        }
        let mut last = None;
        for host in self.registry.hosts() {
            match self.registry.small_blob(host, &descriptor.digest.to_string(), descriptor.size).await {
                Ok(bytes) if descriptor.digest.matches(&bytes) => return Ok(bytes),
                Ok(bytes) => {
                    last = Some(PullError::Mismatch {
                        reference: self.reference.to_string(),
                        host: self.registry.name_of(host),
                        what: "a configuration",
                        expected: descriptor.digest.to_string(),
                        got: Digest::of(&bytes).to_string(),
                    });
                }
                Err(error) => last = Some(error.into()),
            }
        }
        Err(last.unwrap_or_else(|| self.registry.no_host("the configuration".to_owned(), "pull").into()))
    }
}
