//! Why a pod could not be made, stopped or removed. `cri::status` maps each to its gRPC code.

use crate::cgroup::CgroupError;
use crate::journal::JournalError;
use crate::network::NetworkError;
use crate::pod::model::{NsInode, PodId};
use crate::runtime::RuntimeError;

/// An error of the flow.
#[derive(Debug, thiserror::Error)]
pub enum PodError {
    #[error("pod name {name:?} is reserved by pod {by}: remove that one first, or raise the attempt")]
    NameReserved { name: String, by: PodId },
    #[error("no handler named {handler:?}: configured are {known}")]
    UnknownHandler { handler: String, known: String },
    #[error("id prefix {prefix:?} names {count} pods: give more digits")]
    AmbiguousId { prefix: String, count: usize },
    /// `explanation`: the observer's or the ownership's words on a denied check.
    #[error("creating the infra container failed{}", explanation.as_deref().map(|e| format!(" ({e})")).unwrap_or_default())]
    Create {
        explanation: Option<String>,
        #[source]
        source: RuntimeError,
    },
    #[error("{action} failed")]
    Runtime {
        action: &'static str,
        #[source]
        source: RuntimeError,
    },
    #[error(
        "network namespace {netns} is owned by user namespace {owner}, not by the pod's {userns}: \
         refusing to hand it to CNI"
    )]
    WrongOwner { netns: NsInode, owner: NsInode, userns: NsInode },
    #[error("setting up the pod's network failed")]
    Network(#[source] NetworkError),
    #[error("tearing down the pod's network failed; the address stays journaled and is tried again")]
    Teardown(#[source] NetworkError),
    #[error("setting up the pod's cgroup failed")]
    Cgroup(#[source] CgroupError),
    #[error("changing the limits of the pod's cgroup failed; they are what they were")]
    Update(#[source] Box<CgroupError>),
    #[error("keeping the pod's journal failed")]
    Journal(#[source] JournalError),
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: std::io::Error,
    },
    #[error("pod {id} is not ready: it was stopped, or its infra container has ended; make a new one")]
    NotReady { id: String },
    /// The caller cancelled, or its deadline passed.
    #[error("the caller went away while the pod was being made; it was undone")]
    Abandoned,
    #[error("the daemon is shutting down")]
    ShuttingDown,
}
