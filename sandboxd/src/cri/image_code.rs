//! The gRPC codes of pulls. Exhaustive, as [`super::status`].

use sandboxd_image::PullError;
use sandboxd_image::registry::{Cause, RegistryError};
use tonic::Code;

use super::container_code::image_code;

pub(super) fn pull_code(error: &PullError) -> Code {
    use PullError as P;
    match error {
        P::Registry(source) => registry_code(source),
        P::Store(source) => image_code(source),
        P::Signature { .. } => Code::PermissionDenied,
        // What the registry has is no image for this node; asking again does not change it.
        P::Platform { .. } => Code::NotFound,
        P::Schema1 { .. } | P::Artifact { .. } | P::NotAManifest { .. } => Code::FailedPrecondition,
        P::Nested { .. } | P::Manifest { .. } => Code::FailedPrecondition,
        P::Mismatch { .. } => Code::DataLoss,
        P::Timeout { .. } => Code::DeadlineExceeded,
        P::CalledOff { .. } => Code::Cancelled,
    }
}

fn registry_code(error: &RegistryError) -> Code {
    use RegistryError as R;
    match error {
        R::NotFound { .. } => Code::NotFound,
        R::Unauthorized { .. } => Code::Unauthenticated,
        R::Denied { .. } => Code::PermissionDenied,
        R::Unavailable { cause: Cause::TooMany { .. }, .. } => Code::ResourceExhausted,
        R::Unavailable { .. } => Code::Unavailable,
        R::Refused { .. } | R::BadAnswer { .. } | R::TooLarge { .. } => Code::FailedPrecondition,
        R::PlainCredentials { .. } | R::Downgrade { .. } => Code::FailedPrecondition,
        R::NoHost { .. } | R::Tls { .. } | R::Hosts(_) => Code::FailedPrecondition,
    }
}
