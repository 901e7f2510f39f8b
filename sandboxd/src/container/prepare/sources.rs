//! Where a container's mounts come from: paths of the host, which are there when the container is, idmapped
//! copies of them for a pod with a user namespace, images.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use rustix::fs::{AtFlags, CWD, StatxFlags};

use super::{Input, PrepareError};
use crate::container::relabel;
use crate::container::rootfs::{self, Depth, RootfsError, Userns};
use crate::container::spec::{ContainerSpec, Mount, MountSource, Propagation};
use crate::runtime::HandlerFeatures;
use crate::runtime::spec::{Made, Origin};

/// Follows symbolic links, makes missing directories, and refuses what the node cannot do.
pub(super) fn resolve(mounts: &mut [Mount], features: HandlerFeatures) -> Result<(), PrepareError> {
    for mount in mounts {
        if mount.recursive_read_only && !features.recursive_read_only_mounts {
            return Err(PrepareError::RecursiveReadOnly { path: mount.container_path.clone() });
        }
        if let MountSource::Host(path) = &mut mount.source {
            *path = existing(path)?;
            through(path, mount.propagation)?;
        }
    }
    Ok(())
}

/// As container runtimes have always done: what is not there is made, a directory.
fn existing(path: &Path) -> Result<PathBuf, PrepareError> {
    let failed = |action: &str, source: io::Error| PrepareError::Io {
        action: format!("{action} the mount source {}", path.display()),
        source,
    };
    match path.canonicalize() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            std::fs::create_dir_all(path).map_err(|error| failed("making", error))?;
            path.canonicalize().map_err(|error| failed("resolving", error))
        }
        other => other.map_err(|error| failed("resolving", error)),
    }
}

/// Mounts get through only where the source's own mount lets them.
fn through(path: &Path, propagation: Propagation) -> Result<(), PrepareError> {
    let (fields, needed): (&[&str], _) = match propagation {
        Propagation::Private => return Ok(()),
        Propagation::HostToContainer => (&["shared:", "master:"], "shared or a slave"),
        Propagation::Bidirectional => (&["shared:"], "shared"),
    };
    let io = |action: String| move |source: io::Error| PrepareError::Io { action, source };
    let stat = rustix::fs::statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID)
        .map_err(|errno| io(format!("looking at {}", path.display()))(errno.into()))?;
    let table = std::fs::read_to_string("/proc/thread-self/mountinfo")
        .map_err(io("reading the node's mount table".into()))?;
    let id = stat.stx_mnt_id.to_string();
    let line = table.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let Some(line) = line.into_iter().find(|line| line.first() == Some(&id.as_str())) else { return Ok(()) };
    // Optional fields are those from the seventh up to a lone "-" (proc_pid_mountinfo(5)).
    let mut optional = line.iter().skip(6).take_while(|field| **field != "-");
    if optional.any(|field| fields.iter().any(|prefix| field.starts_with(prefix))) {
        return Ok(());
    }
    let mount = line.get(4).copied().unwrap_or("/");
    Err(PrepareError::Propagation { path: path.to_owned(), mount: mount.into(), needed })
}

/// For SELinux, before anything is mounted. A container without a label of its own has the node's, or there is no
/// SELinux: it needs none.
pub(super) fn relabel(
    spec: &ContainerSpec,
    cancelled: &AtomicBool,
    warnings: &mut Vec<String>,
) -> Result<(), PrepareError> {
    let Some(process) = &spec.security.selinux else { return Ok(()) };
    let label = relabel::file_label(process);
    for mount in spec.mounts.iter().filter(|mount| mount.selinux_relabel) {
        match &mount.source {
            MountSource::Host(path) => {
                warnings.extend(relabel::relabel(path, &label, cancelled)?.warning(path));
            }
            // Containers with other labels have the same layers; kubelet asks for it all the same.
            MountSource::Image { image, .. } => warnings.push(format!(
                "the files of image {:?} on {} are shared and keep their labels for SELinux, which may keep the \
                 container from using them",
                image.image, mount.container_path
            )),
        }
    }
    Ok(())
}

/// The sources that are no paths, by the index of their mounts.
pub(super) fn open(
    input: &Input,
    spec: &ContainerSpec,
    made: &Made,
    userns: Option<Userns<'_>>,
    warnings: &mut Vec<String>,
) -> Result<Vec<(usize, OwnedFd)>, PrepareError> {
    let mut sources = Vec::new();
    let mounts = made.spec.mounts().iter().flatten();
    for (index, (mount, origin)) in mounts.zip(&made.origins).enumerate() {
        let asked = match origin {
            Origin::Request(i) => spec.mounts.get(*i),
            _ => None,
        };
        let source = match (origin, asked.map(|asked| &asked.source)) {
            (_, Some(MountSource::Image { image, sub_path })) => {
                let path = mount.destination().display().to_string();
                let dir = input.dir.join("images").join(index.to_string());
                let made = of_image(input, image, sub_path, (&path, &dir), userns)?;
                warnings.extend(made.warnings);
                Some(made.mount)
            }
            // A volume's files have the ids of the host.
            (Origin::Own | Origin::Volume, _) => None,
            (Origin::PodFile | Origin::Device | Origin::Request(_), _) => {
                let path = mount.source().as_deref().unwrap_or(Path::new("/"));
                let wanted = asked.is_some_and(|asked| asked.id_mappings.is_some());
                userns.map(|userns| mapped(path, userns, wanted, warnings)).transpose()?.flatten()
            }
        };
        sources.extend(source.map(|source| (index, source)));
    }
    Ok(sources)
}

fn of_image(
    input: &Input,
    reference: &crate::container::spec::ImageRef,
    sub_path: &str,
    (path, dir): (&str, &Path),
    userns: Option<Userns<'_>>,
) -> Result<rootfs::Made, PrepareError> {
    let failed = |words: &str, source| PrepareError::ImageVolume {
        image: reference.image.clone(),
        path: path.to_owned(),
        words: words.to_owned(),
        source,
    };
    // By the id that it had when its layers were held: a tag may have moved since.
    let image = Some(&reference.image_id).filter(|id| !id.is_empty()).and_then(|id| (input.find_image)(id));
    let image = image.ok_or_else(|| failed(": the image is not on this node, pull it first", None))?;
    rootfs::image(&image.layers, sub_path, dir, userns)
        .map_err(|source| failed(" cannot be mounted", Some(Box::new(source))))
}

/// An idmapped copy, with all mounts beneath where they can be. A file system that cannot is an error only where
/// the request itself asks for the mapping.
fn mapped(
    path: &Path,
    userns: Userns<'_>,
    wanted: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<OwnedFd>, PrepareError> {
    let beneath = match rootfs::idmap(path, userns, Depth::All) {
        Err(RootfsError::NoIdmap { .. }) => match rootfs::idmap(path, userns, Depth::Top) {
            Ok(mount) => Ok((mount, true)),
            Err(error) => Err(error),
        },
        other => other.map(|mount| (mount, false)),
    };
    match beneath {
        Ok((mount, partly)) => {
            if partly {
                warnings.push(format!("not all mounts beneath {} can be idmapped", path.display()));
            }
            Ok(Some(mount))
        }
        Err(RootfsError::NoIdmap { path, fs, .. }) if !wanted => {
            warnings.push(format!(
                "{} is mounted with the node's ids: its file system {fs} cannot be idmapped",
                path.display()
            ));
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
