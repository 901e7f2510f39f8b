//! Why a request could not be served. [`super::status`] maps each to its gRPC code.

use super::validate::Invalid;
use crate::container::error::ContainerError;
use crate::pod::PodError;
use crate::streaming::StreamingError;

/// An error of an rpc.
#[derive(Debug, thiserror::Error)]
pub enum CriError {
    #[error(transparent)]
    Invalid(#[from] Invalid),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("no pod has the id {id:?}: it was removed, or never made")]
    NoPod { id: String },
    #[error("no container has the id {id:?}: it was removed, or never made")]
    NoContainer { id: String },
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error("container_id = \"\": required, give a container's id or the beginning of it")]
    NoContainerId,
    #[error("pod_sandbox_id = \"\": required, give a pod's id or the beginning of it")]
    NoId,
    #[error(transparent)]
    Pull(#[from] std::sync::Arc<sandboxd_image::PullError>),
    #[error(transparent)]
    Image(#[from] sandboxd_image::ImageError),
    #[error(transparent)]
    Reference(#[from] sandboxd_image::BadReference),
    #[error(transparent)]
    Credentials(#[from] sandboxd_image::registry::BadCredentials),
    #[error("image.image = \"\": required, name an image, such as registry.example/app:1.0")]
    NoImageGiven,
    #[error(transparent)]
    Streaming(#[from] StreamingError),
    #[error("{rpc} is not implemented by this version of sandboxd")]
    Unimplemented { rpc: &'static str },
}
