//! The one place where errors become gRPC codes. Each `match` is exhaustive: a new error has to choose.

use std::error::Error;
use std::io;

use tonic::{Code, Status};

use super::CriError;
use super::container_code::container_code;
use crate::cgroup::CgroupError;
use crate::network::NetworkError;
use crate::pod::PodError;
use crate::runtime::RuntimeError;
use crate::streaming::StreamingError;

/// gRPC sends the message as a header, and peers bound those (hyper and Go: 16 KiB and up; every byte may
/// take three when it is percent-encoded).
const MESSAGE_MAX: usize = 4096;

impl From<CriError> for Status {
    fn from(error: CriError) -> Self {
        Self::new(code(&error), message(&error))
    }
}

/// The error and everything behind it, joined by ": ".
fn message(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    if text.len() > MESSAGE_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_MAX));
        text.push('…');
    }
    text
}

fn code(error: &CriError) -> Code {
    match error {
        CriError::Invalid(_) | CriError::NoId | CriError::NoContainerId => Code::InvalidArgument,
        CriError::NoPod { .. } | CriError::NoContainer { .. } => Code::NotFound,
        CriError::Unimplemented { .. } => Code::Unimplemented,
        CriError::Pull(pull) => super::image_code::pull_code(pull),
        CriError::Image(image) => super::container_code::image_code(image),
        CriError::Reference(_) | CriError::Credentials(_) | CriError::NoImageGiven => Code::InvalidArgument,
        CriError::Pod(pod) => pod_code(pod),
        CriError::Container(container) => container_code(container),
        CriError::Streaming(error) => streaming_code(error),
    }
}

fn streaming_code(error: &StreamingError) -> Code {
    use StreamingError as S;
    match error {
        S::NoPod { .. } => Code::NotFound,
        S::PodNotReady { .. } | S::Refused { .. } => Code::FailedPrecondition,
        S::Full(_) => Code::ResourceExhausted,
        S::Container(error) => container_code(error),
        S::Pod(error) => pod_code(error),
        S::Io { source, .. } => io_code(source),
    }
}

pub(super) fn pod_code(error: &PodError) -> Code {
    match error {
        PodError::NameReserved { .. } => Code::AlreadyExists,
        // Not NotFound: that is about the pods, containers and images of an rpc, and kubelet takes it for
        // "gone already". A handler's name is an argument.
        PodError::UnknownHandler { .. } | PodError::AmbiguousId { .. } => Code::InvalidArgument,
        PodError::ShuttingDown => Code::Unavailable,
        PodError::NotReady { .. } => Code::FailedPrecondition,
        PodError::Create { source, .. } | PodError::Runtime { source, .. } => runtime_code(source),
        PodError::WrongOwner { .. } => Code::Internal,
        PodError::Abandoned => Code::Cancelled,
        PodError::Network(source) | PodError::Teardown(source) => network_code(source),
        PodError::Cgroup(source) => cgroup_code(source),
        PodError::Update(source) => cgroup_code(source),
        PodError::Journal(source) => chain_code(source),
        PodError::Io { source, .. } => io_code(source),
    }
}

pub(super) fn runtime_code(error: &RuntimeError) -> Code {
    match error {
        // A mount or setns the kernel denied is a fact about the node or the handler's flow, and asking
        // again does not change it.
        RuntimeError::InPod { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
            Code::FailedPrecondition
        }
        RuntimeError::InPod { source, .. }
        | RuntimeError::InContainer { source, .. }
        | RuntimeError::Io { source, .. } => io_code(source),
        RuntimeError::Command { .. } => Code::InvalidArgument,
        RuntimeError::Shim { .. } | RuntimeError::Oci { .. } => Code::Internal,
        RuntimeError::Unsupported { .. } => Code::FailedPrecondition,
    }
}

fn network_code(error: &NetworkError) -> Code {
    use NetworkError as N;
    match error {
        // kubelet tries again when the network comes up.
        N::NotReady { .. } => Code::Unavailable,
        N::PodId { .. } | N::CniArg { .. } | N::Quantity { .. } => Code::InvalidArgument,
        N::PortMappings { .. }
        | N::Bandwidth { .. }
        | N::PluginMissing { .. }
        | N::ResolvConfSize { .. }
        | N::NotAttached { .. } => Code::FailedPrecondition,
        N::Timeout { .. } => Code::DeadlineExceeded,
        // CNI's well-known code 11: try again later.
        N::Plugin { report, .. } if report.code == Some(11) => Code::Unavailable,
        N::Io { source, .. } | N::Spawn { source, .. } | N::Loopback { source, .. } => io_code(source),
        N::Plugin { .. }
        | N::TooMuchOutput { .. }
        | N::BadResult { .. }
        | N::ResultVersion { .. }
        | N::NoAddress { .. }
        | N::Request { .. }
        | N::Lease { .. }
        | N::TaskLost { .. } => Code::Internal,
    }
}

pub(super) fn cgroup_code(error: &CgroupError) -> Code {
    use CgroupError as C;
    match error {
        C::Io { source, .. } | C::Write { source, .. } => io_code(source),
        C::BadParent { .. }
        | C::SliceForCgroupfs { .. }
        | C::PathForSystemd { .. }
        | C::UnifiedKey { .. }
        | C::DeviceRule { .. }
        | C::SwapBelowMemory { .. }
        | C::SwapAlone { .. } => Code::InvalidArgument,
        C::NotMounted { .. }
        | C::NoController { .. }
        | C::NoFile { .. }
        | C::UnifiedOnV1 { .. }
        | C::NoBusctl => Code::FailedPrecondition,
        C::MemoryInUse { .. } => Code::FailedPrecondition,
        C::Busy { .. } => Code::Unavailable,
        C::SystemdSlow { .. } => Code::DeadlineExceeded,
        C::Systemd { .. } | C::NoBus { .. } => Code::Internal,
    }
}

/// The code of the operating system's error at the end of a chain.
pub(super) fn chain_code(error: &(dyn Error + 'static)) -> Code {
    let mut cause = Some(error);
    while let Some(current) = cause {
        if let Some(io) = current.downcast_ref::<io::Error>() {
            return io_code(io);
        }
        cause = current.source();
    }
    Code::Internal
}

pub(super) fn io_code(error: &io::Error) -> Code {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            Code::ResourceExhausted
        }
        io::ErrorKind::TimedOut => Code::DeadlineExceeded,
        // A file, a sysctl or a value that this node does not have or take: asking again does not change it.
        io::ErrorKind::NotFound
        | io::ErrorKind::InvalidInput
        | io::ErrorKind::AlreadyExists
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::ReadOnlyFilesystem => Code::FailedPrecondition,
        _ => match error.raw_os_error() {
            // ENOSPC is also clone3's answer when user.max_*_namespaces is reached (StorageFull above).
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM) => Code::ResourceExhausted,
            Some(libc::ERANGE) => Code::FailedPrecondition,
            _ => Code::Internal,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::PodId;

    fn os(errno: i32) -> io::Error {
        io::Error::from_raw_os_error(errno)
    }

    #[test]
    fn codes() {
        let in_pod =
            |errno| RuntimeError::InPod { step: "mount sysfs on /sys".into(), pid: 7, source: os(errno) };
        let create = |source| PodError::Create { explanation: None, source };
        let cases = [
            (
                PodError::NameReserved { name: "a".into(), by: PodId::from_string("b".into()) },
                Code::AlreadyExists,
            ),
            (PodError::UnknownHandler { handler: "x".into(), known: "native".into() }, Code::InvalidArgument),
            (PodError::AmbiguousId { prefix: "a".into(), count: 2 }, Code::InvalidArgument),
            (PodError::Network(NetworkError::NotReady { message: "no conf".into() }), Code::Unavailable),
            (
                PodError::Cgroup(CgroupError::SliceForCgroupfs { parent: "a.slice".into() }),
                Code::InvalidArgument,
            ),
            (PodError::ShuttingDown, Code::Unavailable),
            (create(in_pod(libc::EPERM)), Code::FailedPrecondition),
            (create(in_pod(libc::ENOSPC)), Code::ResourceExhausted),
            (create(in_pod(libc::EINVAL)), Code::FailedPrecondition),
            (
                create(RuntimeError::Io { action: "fork".into(), source: os(libc::EMFILE) }),
                Code::ResourceExhausted,
            ),
            (create(RuntimeError::Shim { problem: "is gone".into() }), Code::Internal),
            (create(RuntimeError::Unsupported { what: "x".into() }), Code::FailedPrecondition),
            (
                PodError::Io { action: "waiting".into(), source: io::ErrorKind::TimedOut.into() },
                Code::DeadlineExceeded,
            ),
            (
                PodError::Journal(crate::journal::JournalError::Io {
                    action: "writing",
                    path: "/run/x".into(),
                    source: os(libc::ENOSPC),
                }),
                Code::ResourceExhausted,
            ),
        ];
        for (error, expected) in cases {
            assert_eq!(pod_code(&error), expected, "{error}");
        }
    }

    #[test]
    fn the_message_has_the_whole_chain_once() {
        let source =
            RuntimeError::InPod { step: "mount sysfs on /sys".into(), pid: 7, source: os(libc::EPERM) };
        let explanation = Some("the netns is owned by the host".to_owned());
        let status = Status::from(CriError::Pod(PodError::Create { explanation, source }));
        assert_eq!(
            status.message(),
            "creating the infra container failed (the netns is owned by the host): mount sysfs on /sys (in \
             the pod's infra container, pid 7): Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let message = "ü".repeat(MESSAGE_MAX);
        let status = Status::from(CriError::Pod(PodError::Network(NetworkError::NotReady { message })));
        assert!(status.message().len() <= MESSAGE_MAX + '…'.len_utf8());
        assert!(status.message().ends_with('…'));
    }
}
