//! Mounts of a container: the usual ones, the pod's files, the image's volumes, the request's.
//!
//! As in containerd a mount of the request takes the place of a usual one at the same destination, one on /dev
//! also of those beneath it; what is bound comes after, the shallow before the deep.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;

use super::{ContainerInput, mount};
use crate::container::spec::{Mount as Asked, MountSource, Propagation};
use crate::pod::spec::IpcMode;

/// The source of the bind mount that is the pod's /dev/shm.
pub const POD_SHM: &str = "pod:shm";

/// Whose a mount is: what its source has to be made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// A new file system, or the pod's /dev/shm.
    Own,
    /// A file of the pod's under /etc.
    PodFile,
    /// A volume that the image asks for.
    Volume,
    /// Of `ContainerSpec.mounts`, by index.
    Request(usize),
    /// Of a CDI device.
    Device,
}

pub(super) fn mounts(input: &ContainerInput<'_>) -> Vec<(Mount, Origin)> {
    let asked: Vec<&str> = input.spec.mounts.iter().map(|m| m.container_path.as_str()).collect();
    let taken = |destination: &Path| asked.iter().any(|path| Path::new(path) == destination);
    // Who brings a /dev brings what is in it.
    let dev = taken(Path::new("/dev"));
    let covered = |destination: &Path| taken(destination) || dev && destination.starts_with("/dev");
    let mut all: Vec<(Mount, Origin)> =
        usual(input).into_iter().filter(|m| !covered(m.destination())).map(|m| (m, Origin::Own)).collect();
    let mut bound = Vec::new();
    if !taken(Path::new("/dev/shm")) {
        bound.push((shm(input), Origin::Own));
    }
    // A container whose root is read-only does not write to these either.
    let access = if input.spec.security.readonly_rootfs { "ro" } else { "rw" };
    for (destination, source) in input.files {
        if !taken(Path::new(destination)) {
            bound.push((bind(destination, source, &format!("rbind rprivate {access}")), Origin::PodFile));
        }
    }
    for (destination, source) in input.volumes {
        if !taken(Path::new(destination)) {
            bound.push((bind(destination, source, "rbind rprivate rw"), Origin::Volume));
        }
    }
    bound.extend(input.cdi.mounts.iter().cloned().map(|m| (m, Origin::Device)));
    bound.extend(input.spec.mounts.iter().enumerate().map(|(i, m)| (request(m), Origin::Request(i))));
    bound.sort_by_key(|(m, _)| m.destination().components().count());
    all.extend(bound);
    all
}

fn usual(input: &ContainerInput<'_>) -> Vec<Mount> {
    let terminals = match &input.pod.spec.namespaces.user {
        Some(maps) if maps.host_gid(5).is_none() => "",
        _ => "gid=5 ",
    };
    let access = if input.spec.security.privileged { "rw" } else { "ro" };
    vec![
        mount("/proc", "proc", "proc", "nosuid noexec nodev"),
        mount("/dev", "tmpfs", "tmpfs", "nosuid mode=755 size=65536k"),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &format!("nosuid noexec newinstance {terminals}ptmxmode=0666 mode=0620"),
        ),
        mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
        mount("/sys", "sysfs", "sysfs", &format!("nosuid noexec nodev {access}")),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &format!("nosuid noexec nodev relatime {access}")),
    ]
}

fn shm(input: &ContainerInput<'_>) -> Mount {
    let source = match input.pod.spec.namespaces.ipc {
        IpcMode::Pod => POD_SHM,
        IpcMode::Node => "/dev/shm",
    };
    mount("/dev/shm", "bind", source, "rbind rprivate nosuid nodev noexec")
}

fn bind(destination: &str, source: &Path, options: &str) -> Mount {
    mount(destination, "bind", &source.to_string_lossy(), options)
}

fn request(asked: &Asked) -> Mount {
    let source = match &asked.source {
        MountSource::Host(path) => path.clone(),
        MountSource::Image { image, .. } => PathBuf::from(format!("image:{}", image.image)),
    };
    let propagation = match asked.propagation {
        Propagation::Private => "rprivate",
        Propagation::HostToContainer => "rslave",
        Propagation::Bidirectional => "rshared",
    };
    let access = match (asked.recursive_read_only, asked.read_only) {
        (true, _) => "rro",
        (false, true) => "ro",
        (false, false) => "rw",
    };
    let more = asked.options.join(" ");
    let mut made = mount(&asked.container_path, "bind", "", &format!("rbind {propagation} {access} {more}"));
    made.set_source(Some(source));
    made
}

/// What the container's root itself needs so that mounts come through as asked.
pub(super) fn rootfs_propagation(mounts: &[Asked]) -> Option<String> {
    let any = |wanted| mounts.iter().any(|m| m.propagation == wanted);
    if any(Propagation::Bidirectional) {
        Some("rshared".to_owned())
    } else {
        any(Propagation::HostToContainer).then(|| "rslave".to_owned())
    }
}
