//! Mounts of a container.

use sandboxd_api::cri::{self, MountPropagation};

use super::super::namespaces::Lines;
use super::super::{Invalid, PATH_MAX, Why, absolute, count, known};
use super::{bytes, clean, image_ref};
use crate::container::spec::{Mount, MountSource, Propagation};
use crate::pod::spec::{IdMap, IdMappings};

const FIELD: &str = "config.mounts";
const MOUNTS_MAX: usize = 4096;
/// What a volume may be mounted with; all else has a field of its own, or is the file system's.
const OPTIONS: [&str; 3] = ["nosuid", "nodev", "noexec"];

pub(super) fn mounts(mounts: Vec<cri::Mount>, userns: Option<&IdMappings>) -> Result<Vec<Mount>, Invalid> {
    count(FIELD, mounts.len(), MOUNTS_MAX)?;
    let one = |(i, mount)| self::mount(&format!("{FIELD}[{i}]"), mount, userns);
    mounts.into_iter().enumerate().map(one).collect()
}

fn mount(field: &str, m: cri::Mount, userns: Option<&IdMappings>) -> Result<Mount, Invalid> {
    let at = |name: &str| format!("{field}.{name}");
    let propagation = match known(&at("propagation"), m.propagation)? {
        MountPropagation::PropagationPrivate => Propagation::Private,
        MountPropagation::PropagationHostToContainer => Propagation::HostToContainer,
        MountPropagation::PropagationBidirectional => Propagation::Bidirectional,
    };
    if m.recursive_read_only && !m.readonly {
        return Err(Invalid::new(at("recursive_read_only"), true, Why::RecursiveWithoutReadonly));
    }
    if m.recursive_read_only && propagation != Propagation::Private {
        return Err(Invalid::new(at("recursive_read_only"), true, Why::RecursivePropagation));
    }
    for (i, option) in m.mount_options.iter().enumerate() {
        if !OPTIONS.contains(&option.as_str()) {
            return Err(Invalid::new(format!("{field}.mount_options[{i}]"), option, Why::MountOption));
        }
    }
    let container_path = container_path(&at("container_path"), &m.container_path)?;
    let id_mappings = id_mappings(field, &m.uid_mappings, &m.gid_mappings, userns)?;
    let source = source(field, m.host_path, m.image, m.image_sub_path)?;
    let of_image = matches!(source, MountSource::Image { .. });
    if of_image && !m.readonly {
        return Err(Invalid::new(at("readonly"), false, Why::ImageWritable));
    }
    if of_image && propagation != Propagation::Private {
        return Err(Invalid::new(at("propagation"), propagation, Why::ImagePropagation));
    }
    let mut options = m.mount_options;
    options.sort();
    options.dedup();
    Ok(Mount {
        container_path,
        source,
        read_only: m.readonly,
        recursive_read_only: m.recursive_read_only,
        propagation,
        selinux_relabel: m.selinux_relabel,
        options,
        id_mappings,
    })
}

fn container_path(field: &str, path: &str) -> Result<String, Invalid> {
    if path.is_empty() {
        return Err(Invalid::new(field, path, Why::Missing));
    }
    bytes(field, path, PATH_MAX)?;
    let cleaned = clean(path);
    if cleaned == "/" {
        return Err(Invalid::new(field, path, Why::MountOnRoot));
    }
    Ok(cleaned)
}

/// `host_path` or `image`, exactly one.
fn source(
    field: &str,
    host_path: String,
    image: Option<cri::ImageSpec>,
    sub_path: String,
) -> Result<MountSource, Invalid> {
    // kubelet may send an empty ImageSpec along with a host path.
    let image = image.filter(|i| !(i.image.is_empty() && i.image_ref.is_empty()));
    match image {
        Some(_) if !host_path.is_empty() => {
            Err(Invalid::new(format!("{field}.host_path"), host_path, Why::TwoSources))
        }
        None if host_path.is_empty() => {
            Err(Invalid::new(format!("{field}.host_path"), host_path, Why::NoSource))
        }
        None if !sub_path.is_empty() => {
            Err(Invalid::new(format!("{field}.image_sub_path"), sub_path, Why::SubPathWithoutImage))
        }
        None => absolute(&format!("{field}.host_path"), host_path).map(MountSource::Host),
        Some(image) => {
            let at = format!("{field}.image_sub_path");
            bytes(&at, &sub_path, PATH_MAX)?;
            if sub_path.starts_with('/') || sub_path.split('/').any(|part| part == "..") {
                return Err(Invalid::new(at, sub_path, Why::SubPath));
            }
            Ok(MountSource::Image { image: image_ref(&format!("{field}.image"), image)?, sub_path })
        }
    }
}

/// Both empty, or the pod's own.
fn id_mappings(
    field: &str,
    uids: &[cri::IdMapping],
    gids: &[cri::IdMapping],
    userns: Option<&IdMappings>,
) -> Result<Option<IdMappings>, Invalid> {
    if uids.is_empty() && gids.is_empty() {
        return Ok(None);
    }
    let none = Vec::new();
    for (name, asked, pods) in [
        ("uidMappings", uids, userns.map_or(&none, |u| &u.uids)),
        ("gidMappings", gids, userns.map_or(&none, |u| &u.gids)),
    ] {
        let at = format!("{field}.{name}");
        if userns.is_none() {
            if asked.is_empty() {
                continue;
            }
            return Err(Invalid::new(at, Lines(asked), Why::MappingWithoutUserns));
        }
        let same = asked.len() == pods.len()
            && asked
                .iter()
                .zip(pods)
                .all(|(a, p)| (a.container_id, a.host_id, a.length) == (p.container_id, p.host_id, p.length));
        if !same {
            return Err(Invalid::new(at, Lines(asked), Why::MappingNotPods { pod: lines(pods) }));
        }
    }
    Ok(userns.cloned())
}

fn lines(maps: &[IdMap]) -> String {
    let line = |m: &IdMap| format!("{} {} {}", m.container_id, m.host_id, m.length);
    maps.iter().map(line).collect::<Vec<_>>().join(", ")
}
