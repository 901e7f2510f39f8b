//! Why a container could not be made, changed or ended.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sandboxd_image::ImageError;

use super::model::{ContainerId, ContainerState};
use super::prepare::PrepareError;
use crate::apparmor::AppArmorError;
use crate::cgroup::CgroupError;
use crate::pod::PodError;
use crate::pod::model::{PodId, PodState};
use crate::runtime::RuntimeError;

/// An error of the container room.
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("the container name {name:?} (attempt {attempt}) of pod {pod} is taken by container {by}")]
    NameReserved { pod: PodId, name: String, attempt: u32, by: ContainerId },
    #[error("{count} containers have an id that begins with {prefix:?}: give more of it")]
    AmbiguousId { prefix: String, count: usize },
    #[error("no container has the id {id:?}: it was removed, or never made")]
    NotFound { id: String },
    #[error("pod {pod} is {state:?}, not READY: containers are made in a pod that runs")]
    PodNotReady { pod: PodId, state: PodState },
    #[error("container {id} is {state:?}: {needed}")]
    State { id: ContainerId, state: ContainerState, needed: &'static str },
    #[error("image {image:?} is not on this node: pull it first")]
    NoImage { image: String },
    #[error("the target {target:?} of the pid namespace is no running container of pod {pod}")]
    NoTarget { target: String, pod: PodId },
    #[error(transparent)]
    AppArmor(#[from] AppArmorError),
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Pod(#[from] PodError),
    #[error("{action}")]
    Runtime {
        action: &'static str,
        #[source]
        source: RuntimeError,
    },
    #[error("the command did not end within {} s and was killed", .after.as_secs_f64())]
    ExecTimeout { after: Duration },
    #[error("{action} {}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the caller went away: the container was undone")]
    Abandoned,
    #[error("sandboxd is shutting down: try again when it is back")]
    ShuttingDown,
}
