//! The gRPC codes of pulls. Exhaustive, as [`super::status`].

use sandboxd_image::PullError;
use sandboxd_image::registry::RegistryError;
use tonic::Code;

use super::container_code::image_code;

/// kubelet looks for a word it knows ("RegistryUnavailable", "SignatureValidationFailed") at the beginning of a
/// pull's error, and gRPC puts the code before the message, unless it is this one.
const KNOWN_TO_KUBELET: Code = Code::Unknown;

pub(super) fn pull_code(error: &PullError) -> Code {
    use PullError as P;
    match error {
        P::Registry(source) => registry_code(source),
        P::Store(source) => image_code(source),
        P::Signature { .. } => KNOWN_TO_KUBELET,
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
        R::TooMany { .. } => Code::ResourceExhausted,
        R::Unavailable { .. } => KNOWN_TO_KUBELET,
        R::Refused { .. } | R::BadAnswer { .. } | R::TooLarge { .. } => Code::FailedPrecondition,
        R::PlainCredentials { .. } | R::Downgrade { .. } => Code::FailedPrecondition,
        R::NoHost { .. } | R::Tls { .. } | R::Hosts(_) => Code::FailedPrecondition,
    }
}
