//! Puts a container together up to the point where a runtime takes over: its OCI spec, its root file system as
//! a detached mount, the sources of its mounts that are no paths, its ids.

mod files;
mod sources;

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use oci_spec::runtime::Spec;
use rustix::fs::{Mode, OFlags};
use sandboxd_image::Image;

use super::cdi::{self, CdiError};
use super::model::{ContainerId, Ids};
use super::relabel::RelabelError;
use super::rootfs::{self, RootfsError, Userns};
use super::signal;
use super::spec::ContainerSpec;
use super::user::{self, UserError};
use super::volumes::{self, VolumeError};
use crate::pod::model::{NsKind, Pod};
use crate::pod::spec::IdMappings;
use crate::runtime::spec::{self, ContainerInput, User};
use crate::runtime::{HandlerFeatures, RuntimeError, namespaces};

/// Finds an image by its id.
pub type FindImage = dyn Fn(&str) -> Option<Arc<Image>> + Send + Sync;

/// What a container is made of.
pub struct Input {
    pub id: ContainerId,
    pub pod: Arc<Pod>,
    pub spec: ContainerSpec,
    pub image: Arc<Image>,
    /// For the images of mounts.
    pub find_image: Arc<FindImage>,
    pub features: HandlerFeatures,
    /// The pod's directory under the state directory: pins, resolv.conf, hostname.
    pub pod_dir: PathBuf,
    /// The container's directory under the root directory, made where it is missing. Afterwards the caller's to
    /// remove, also on an error.
    pub dir: PathBuf,
    /// Where the container's cgroup is, under each hierarchy.
    pub cgroup: String,
    /// Set when nobody waits for it any more.
    pub cancelled: Arc<AtomicBool>,
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
    /// The prefix is kubelet's.
    #[error("RROUnsupported: this handler cannot make {path} recursively read-only")]
    RecursiveReadOnly { path: String },
    /// The prefix is kubelet's.
    #[error("ImageVolumeMountFailed: image {image:?} on {path}{words}")]
    ImageVolume {
        image: String,
        path: String,
        words: String,
        #[source]
        source: Option<Box<RootfsError>>,
    },
    #[error("{path} is on {mount}, which is not {needed} on the node: what is mounted would not get through. Use PROPAGATION_PRIVATE, or `mount --make-shared {mount}`", path = path.display(), mount = mount.display())]
    Propagation { path: PathBuf, mount: PathBuf, needed: &'static str },
    #[error("the pod's user namespace is not pinned at {}: the pod is gone", path.display())]
    NoUserns { path: PathBuf },
    #[error(transparent)]
    Rootfs(#[from] RootfsError),
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Volume(#[from] VolumeError),
    #[error(transparent)]
    Cdi(#[from] CdiError),
    #[error(transparent)]
    Relabel(#[from] RelabelError),
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
    let pod = &input.pod;
    let pinned = pinned_userns(input)?;
    let maps = pod.spec.namespaces.user.as_ref();
    let userns = pinned.as_ref().zip(maps).map(|(fd, maps)| Userns { fd: fd.as_fd(), maps });
    let rootfs::Made { mount: root, mut warnings } = rootfs::root(&input.image.layers, &input.dir, userns)?;
    warnings.extend(maps.and_then(|maps| unmapped(&input.image, maps)));
    let config = &input.image.config;
    let user = user::resolve(&input.spec.security, &config.user.0, root.as_fd(), maps)?;
    let mut spec = input.spec.clone();
    sources::resolve(&mut spec.mounts, input.features)?;
    let hostname = files::hostname(pod, &input.pod_dir)?;
    let files = files::files(pod, &hostname, &input.pod_dir, &input.dir)?;
    let taken: Vec<&str> = spec.mounts.iter().map(|mount| mount.container_path.as_str()).collect();
    let volumes = volumes::make(root.as_fd(), &config.volumes, &taken, &input.dir, maps)?;
    let directories = cdi::DIRECTORIES.map(Path::new);
    let edits = cdi::edits(&spec.cdi_devices, &directories, &user)?;
    sources::relabel(&spec, &input.cancelled, &mut warnings)?;
    let made = spec::container(&ContainerInput {
        id: &input.id,
        pod,
        spec: &spec,
        image: &input.image,
        user: &user,
        hostname: &hostname,
        files: &files,
        volumes: &volumes,
        cgroup: &input.cgroup,
        cdi: &edits,
    })?;
    warnings.extend(made.warnings.iter().cloned());
    let sources = sources::open(input, &spec, &made, userns, &mut warnings)?;
    let stop_signal = stop_signal(&spec, &config.stop_signal, &mut warnings);
    let User { uid, gid, groups, .. } = user;
    Ok(Prepared {
        spec: made.spec,
        rootfs: root,
        sources,
        ids: Ids { uid, gid, groups },
        stop_signal,
        warnings,
    })
}

/// The pod's user namespace by its pin: a name that nothing else can have taken.
fn pinned_userns(input: &Input) -> Result<Option<OwnedFd>, PrepareError> {
    if input.pod.spec.namespaces.user.is_none() {
        return Ok(None);
    }
    let pin = input.pod.namespace(NsKind::User).and_then(|namespace| namespace.pin.clone());
    let path = pin.unwrap_or_else(|| input.pod_dir.join("ns").join(NsKind::User.name()));
    if !namespaces::is_pinned(&path) {
        return Err(PrepareError::NoUserns { path });
    }
    let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
    let action = || format!("opening the pod's user namespace {}", path.display());
    opened.map(Some).map_err(|errno| PrepareError::Io { action: action(), source: errno.into() })
}

/// Files of the image whose ids the pod does not have.
fn unmapped(image: &Image, maps: &IdMappings) -> Option<String> {
    let uid = image.layers.iter().map(|layer| layer.max_uid).max()?;
    let gid = image.layers.iter().map(|layer| layer.max_gid).max()?;
    let beyond = maps.host_uid(uid).is_none() || maps.host_gid(gid).is_none();
    beyond.then(|| {
        format!(
            "the image has files of ids up to {uid}:{gid}, more than the pod's user namespace maps: they belong to \
             nobody there"
        )
    })
}

/// The request's, the image's, SIGTERM.
fn stop_signal(spec: &ContainerSpec, image: &str, warnings: &mut Vec<String>) -> i32 {
    if let Some(signal) = spec.stop_signal {
        return signal;
    }
    let of_image = signal::of_image(image);
    if of_image.is_none() && !image.is_empty() {
        warnings.push(format!("the image's stop signal {image:?} is none: SIGTERM instead"));
    }
    of_image.unwrap_or(libc::SIGTERM)
}

#[cfg(test)]
mod tests;
