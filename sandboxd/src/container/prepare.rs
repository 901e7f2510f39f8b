//! Puts a container together up to the point where a runtime takes over: its OCI spec, its root file system as
//! a detached mount, the sources of its mounts that are no paths, its ids.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::Spec;
use sandboxd_image::Image;

use super::model::{ContainerId, Ids};
use super::spec::{ContainerSpec, ImageRef};
use crate::pod::model::Pod;
use crate::runtime::{HandlerFeatures, RuntimeError};

/// Finds an image that a mount names, by id, tag or digest.
pub type FindImage = dyn Fn(&ImageRef) -> Option<Arc<Image>> + Send + Sync;

/// What a container is made of.
pub struct Input {
    pub id: ContainerId,
    pub pod: Arc<Pod>,
    pub spec: ContainerSpec,
    pub image: Arc<Image>,
    pub find_image: Arc<FindImage>,
    pub features: HandlerFeatures,
    /// The pod's directory under the state directory: pins, resolv.conf, hostname.
    pub pod_dir: PathBuf,
    /// The container's directory under the root directory, made where it is missing. Afterwards the caller's to
    /// remove, also on an error.
    pub dir: PathBuf,
    /// Where the container's cgroup is, under each hierarchy.
    pub cgroup: String,
}

impl fmt::Debug for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Input").field("id", &self.id).field("pod", &self.pod.id).finish_non_exhaustive()
    }
}

/// A container that a runtime can make. All but the directory goes when this is dropped.
#[derive(Debug)]
pub struct Prepared {
    pub spec: Spec,
    /// A detached mount.
    pub rootfs: OwnedFd,
    /// Sources of `spec.mounts`, by index: detached mounts.
    pub sources: Vec<(usize, OwnedFd)>,
    pub ids: Ids,
    pub stop_signal: i32,
    /// What is not as asked for, for the log.
    pub warnings: Vec<String>,
}

/// Why a container could not be prepared.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Request and image do not go together.
    #[error("{what}")]
    Invalid { what: String },
    /// What this node, kernel or version cannot do.
    #[error("{what}")]
    Unsupported { what: String },
    /// The prefix is kubelet's.
    #[error("RROUnsupported: {what}")]
    RecursiveReadOnly { what: String },
    /// The prefix is kubelet's.
    #[error("ImageVolumeMountFailed: {what}")]
    ImageVolume {
        what: String,
        #[source]
        source: Option<io::Error>,
    },
    #[error(transparent)]
    Runtime(#[from] RuntimeError),
    #[error("{action}")]
    Io {
        action: String,
        #[source]
        source: io::Error,
    },
}

/// Prepares a container. Waits on disks: for a thread that may.
///
/// # Errors
/// [`PrepareError`]; only files in the container's directory are left.
pub fn prepare(input: &Input) -> Result<Prepared, PrepareError> {
    Err(PrepareError::Unsupported { what: format!("container {} cannot be prepared yet", input.id) })
}
