//! Why a session cannot be had. [`crate::cri`] maps each to its gRPC code.

use std::io;

use sandboxd_streaming::{BackendError, Full};

use crate::container::error::ContainerError;
use crate::pod::PodError;
use crate::pod::model::PodId;

/// An error of the streaming room.
#[derive(Debug, thiserror::Error)]
pub enum StreamingError {
    #[error("no pod has the id {id:?}: it was removed, or never made")]
    NoPod { id: String },
    #[error("pod {pod} is not ready: nothing in it can be connected to")]
    PodNotReady { pod: PodId },
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error(transparent)]
    Full(#[from] Full),
    #[error("{action}")]
    Io {
        action: &'static str,
        #[source]
        source: io::Error,
    },
    /// Every address that was tried, with its error.
    #[error("connecting to port {port} in the pod: {tried}")]
    Refused { port: u16, tried: String },
}

/// The client gets the whole chain.
impl From<StreamingError> for BackendError {
    fn from(error: StreamingError) -> Self {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(text)
    }
}
