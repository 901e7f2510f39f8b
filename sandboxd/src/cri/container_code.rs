//! The gRPC codes of the container room's errors: a part of [`super::status`], as exhaustive.

use std::error::Error;

use sandboxd_image::ImageError;
use tonic::Code;

use super::status::{cgroup_code, chain_code, io_code, pod_code, runtime_code};
use crate::container::error::ContainerError;
use crate::container::prepare::PrepareError;

pub(super) fn container_code(error: &ContainerError) -> Code {
    use ContainerError as C;
    match error {
        C::NameReserved { .. } => Code::AlreadyExists,
        C::AmbiguousId { .. } => Code::InvalidArgument,
        C::NotFound { .. } | C::NoImage { .. } | C::NoTarget { .. } => Code::NotFound,
        C::PodNotReady { .. } | C::State { .. } => Code::FailedPrecondition,
        // What the node has loaded and can load: asking again does not change it.
        C::AppArmor(_) => Code::FailedPrecondition,
        C::Image(source) => image_code(source),
        C::Prepare(source) => prepare_code(source),
        C::Cgroup(source) => cgroup_code(source),
        C::Pod(source) => pod_code(source),
        C::Runtime { source, .. } => runtime_code(source),
        C::ExecTimeout { .. } => Code::DeadlineExceeded,
        C::Io { source, .. } => io_code(source),
        C::Abandoned => Code::Cancelled,
        C::ShuttingDown => Code::Unavailable,
    }
}

fn prepare_code(error: &PrepareError) -> Code {
    use PrepareError as P;
    match error {
        // Facts of the node, the image or the request that asking again does not change.
        P::RecursiveReadOnly { .. } | P::ImageVolume { .. } | P::Propagation { .. } | P::NoUserns { .. } => {
            Code::FailedPrecondition
        }
        P::Rootfs(source) => or_precondition(source),
        P::User(source) => or_precondition(source),
        P::Volume(source) => or_precondition(source),
        P::Cdi(source) => or_precondition(source),
        P::Relabel(source) => or_precondition(source),
        P::Runtime(source) => runtime_code(source),
        P::Io { source, .. } => io_code(source),
    }
}

/// The code of the operating system's error behind it; without one it is a fact about image or node.
fn or_precondition(error: &(dyn Error + 'static)) -> Code {
    if error.source().is_none() { Code::FailedPrecondition } else { chain_code(error) }
}

pub(super) fn image_code(error: &ImageError) -> Code {
    use ImageError as I;
    match error {
        I::Io { source, .. } => io_code(source),
        I::Locked { .. } | I::Version { .. } => Code::FailedPrecondition,
        I::Digest(_) | I::Ambiguous { .. } | I::Reference { .. } | I::Archive { .. } => Code::InvalidArgument,
        I::NoBlob(_) | I::NoLayer(_) | I::NoImage(_) => Code::NotFound,
        I::TooLarge { .. } | I::Document { .. } => Code::ResourceExhausted,
        I::Unpack { source, .. } => or_precondition(source),
        I::Size { .. } | I::Mismatch { .. } | I::LayerType { .. } | I::Json { .. } | I::LayerCount { .. } => {
            Code::FailedPrecondition
        }
        I::Task(_) => Code::Unavailable,
    }
}
