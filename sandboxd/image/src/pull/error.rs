//! Why an image was not pulled.

use std::time::Duration;

use crate::error::ImageError;
use crate::registry::RegistryError;

/// Each names what it is about. Callers that shared a pull share its error.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Store(#[from] ImageError),
    /// kubelet knows the first word.
    #[error("SignatureValidationFailed: {reference}: {why}")]
    Signature { reference: String, why: String },
    #[error("{reference} is not built for {wanted}: it has {has}")]
    Platform { reference: String, wanted: String, has: String },
    #[error(
        "{reference} is a manifest of schema 1, which docker deprecated in 2017: push it again with a newer tool"
    )]
    Schema1 { reference: String },
    #[error("{reference} is an artifact ({media_type}), not a container image")]
    Artifact { reference: String, media_type: String },
    #[error("{reference}: {host} sent {media_type:?} where a manifest belongs")]
    NotAManifest { reference: String, host: String, media_type: String },
    #[error("{reference}: its index points at indexes more than {0} deep", .limit)]
    Nested { reference: String, limit: u32 },
    #[error("{reference}: {host} sent {what} whose digest is {got}, not {expected}")]
    Mismatch { reference: String, host: String, what: &'static str, expected: String, got: String },
    #[error("{reference}: its manifest is not valid: {why}")]
    Manifest { reference: String, why: String },
    #[error("{reference} was not pulled within {after:?}: the limit is image.pull_timeout")]
    Timeout { reference: String, after: Duration },
    #[error("the pull of {reference} was called off")]
    CalledOff { reference: String },
}
