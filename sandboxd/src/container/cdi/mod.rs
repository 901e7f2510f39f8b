//! Devices by name: the Container Device Interface.
//!
//! Vendors describe their devices in files, in directories of which the later takes precedence. A name is looked
//! up when a container asks for it, so that a device is found as soon as its file is there.

mod file;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Mount};

use crate::runtime::spec::{HostDevices, User};

use file::{Changes, File, Node};

/// Where vendors put their files.
pub const DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// What devices change in a container.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Edits {
    /// "NAME=value".
    pub env: Vec<String>,
    pub devices: HostDevices,
    pub mounts: Vec<Mount>,
    /// Further supplementary groups.
    pub gids: Vec<u32>,
}

/// Why a device cannot be given to a container.
#[derive(Debug, thiserror::Error)]
pub enum CdiError {
    #[error("no CDI device {name:?} is described in {places}{broken}")]
    Unknown { name: String, places: String, broken: String },
    #[error("CDI device {name:?} is described twice, in {} and {}: remove one", one.display(), other.display())]
    Twice { name: String, one: PathBuf, other: PathBuf },
    #[error("CDI device {name:?} needs {what}, which this version does not do")]
    Unsupported { name: String, what: String },
    #[error("CDI device {name:?}: {problem} {value:?} in {}", file.display())]
    Invalid { name: String, problem: &'static str, value: String, file: PathBuf },
    #[error("looking at {} for CDI device {name:?}", path.display())]
    Io {
        name: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}

/// What the named devices change in a container of this user.
///
/// # Errors
/// [`CdiError`] naming the device.
pub fn edits(names: &[String], directories: &[&Path], user: &User) -> Result<Edits, CdiError> {
    let mut edits = Edits::default();
    if names.is_empty() {
        return Ok(edits);
    }
    let mut broken = Vec::new();
    let found: Vec<Vec<File>> =
        directories.iter().map(|directory| file::read_all(directory, &mut broken)).collect();
    let mut general: BTreeMap<&Path, ()> = BTreeMap::new();
    for name in names {
        let (file, device) = find(name, &found)?.ok_or_else(|| unknown(name, directories, &broken))?;
        let mut apply = Apply { name, file: &file.path, user, edits: &mut edits };
        apply.all(device)?;
        // What goes with every device of a file, once.
        if general.insert(&file.path, ()).is_none() {
            apply.all(&file.general)?;
        }
    }
    Ok(edits)
}

/// The device in the last directory that has it.
fn find<'f>(name: &str, found: &'f [Vec<File>]) -> Result<Option<(&'f File, &'f Changes)>, CdiError> {
    for directory in found.iter().rev() {
        let mut matching = directory.iter().filter_map(|file| Some((file, file.device(name)?)));
        if let Some((file, device)) = matching.next() {
            if let Some((other, _)) = matching.next() {
                let (one, other) = (file.path.clone(), other.path.clone());
                return Err(CdiError::Twice { name: name.to_owned(), one, other });
            }
            return Ok(Some((file, device)));
        }
    }
    Ok(None)
}

fn unknown(name: &str, directories: &[&Path], broken: &[String]) -> CdiError {
    let places: Vec<String> = directories.iter().map(|path| path.display().to_string()).collect();
    // It may well be in one that cannot be read.
    let broken =
        if broken.is_empty() { String::new() } else { format!(" (not read: {})", broken.join("; ")) };
    CdiError::Unknown { name: name.to_owned(), places: places.join(" or "), broken }
}

struct Apply<'a> {
    name: &'a str,
    file: &'a Path,
    user: &'a User,
    edits: &'a mut Edits,
}

impl Apply<'_> {
    fn all(&mut self, changes: &Changes) -> Result<(), CdiError> {
        if let Some(hook) = changes.hooks.first() {
            return Err(self.unsupported(format!("the hook {} ({})", hook.path, hook.hook_name)));
        }
        if changes.intel_rdt.is_some() {
            return Err(self.unsupported("intelRdt".to_owned()));
        }
        if !changes.net_devices.is_empty() {
            return Err(self.unsupported("netDevices".to_owned()));
        }
        for env in &changes.env {
            if env.find('=').is_none_or(|at| at == 0) || env.contains('\0') {
                return Err(self.invalid("not a variable", env));
            }
        }
        self.edits.env.extend(changes.env.iter().cloned());
        for node in &changes.device_nodes {
            let device = self.device(node)?;
            self.edits.devices.0.push(device);
        }
        for mount in &changes.mounts {
            for path in [&mount.host_path, &mount.container_path] {
                if !path.starts_with('/') {
                    return Err(self.invalid("not an absolute path", path));
                }
            }
            let mut made = Mount::default();
            let usual = || ["rbind", "rprivate", "ro"].map(String::from).to_vec();
            let options = if mount.options.is_empty() { usual() } else { mount.options.clone() };
            made.set_destination(super::clean(&mount.container_path).into())
                .set_typ(Some(mount.typ.clone().filter(|typ| !typ.is_empty()).unwrap_or("bind".into())))
                .set_source(Some(PathBuf::from(&mount.host_path)))
                .set_options(Some(options));
            self.edits.mounts.retain(|known| known.destination() != made.destination());
            self.edits.mounts.push(made);
        }
        self.edits.gids.extend(changes.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }

    /// What the file leaves out, the node itself says.
    fn device(&self, node: &Node) -> Result<(LinuxDevice, String), CdiError> {
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
        if !node.path.starts_with('/') {
            return Err(self.invalid("not an absolute path", &node.path));
        }
        let typ = match node.typ.as_deref() {
            None | Some("") => None,
            Some("c" | "u") => Some(LinuxDeviceType::C),
            Some("b") => Some(LinuxDeviceType::B),
            Some("p") => Some(LinuxDeviceType::P),
            Some(other) => return Err(self.invalid("not a type of device", other)),
        };
        let mut device = LinuxDevice::default();
        device.set_path(super::clean(&node.path).into());
        let complete = typ.filter(|typ| *typ == LinuxDeviceType::P || node.major.is_some());
        match complete {
            Some(typ) => {
                device
                    .set_typ(typ)
                    .set_major(node.major.unwrap_or(0))
                    .set_minor(node.minor.unwrap_or(0))
                    .set_file_mode(node.file_mode);
            }
            None => {
                let path = Path::new(node.host_path.as_ref().unwrap_or(&node.path));
                let meta = path.metadata().map_err(|source| CdiError::Io {
                    name: self.name.to_owned(),
                    path: path.to_owned(),
                    source,
                })?;
                let found = match meta.file_type() {
                    kind if kind.is_char_device() => LinuxDeviceType::C,
                    kind if kind.is_block_device() => LinuxDeviceType::B,
                    _ => return Err(self.invalid("not a device:", &path.display().to_string())),
                };
                if typ.is_some_and(|typ| typ != found) {
                    return Err(self.invalid("not a device of its type:", &path.display().to_string()));
                }
                device
                    .set_typ(found)
                    .set_major(i64::from(rustix::fs::major(meta.rdev())))
                    .set_minor(i64::from(rustix::fs::minor(meta.rdev())))
                    .set_file_mode(node.file_mode.or(Some(meta.mode() & 0o777)));
            }
        }
        // Without an owner of its own a device belongs to the container's user.
        let own = |id: u32| (id > 0).then_some(id);
        device.set_uid(node.uid.or(own(self.user.uid))).set_gid(node.gid.or(own(self.user.gid)));
        let permissions = node.permissions.as_deref().filter(|p| !p.is_empty()).unwrap_or("rwm");
        if !permissions.chars().all(|letter| "rwm".contains(letter)) {
            return Err(self.invalid("not permissions", permissions));
        }
        Ok((device, permissions.to_owned()))
    }

    fn unsupported(&self, what: String) -> CdiError {
        CdiError::Unsupported { name: self.name.to_owned(), what }
    }

    fn invalid(&self, problem: &'static str, value: &str) -> CdiError {
        let file = self.file.to_owned();
        CdiError::Invalid { name: self.name.to_owned(), problem, value: value.to_owned(), file }
    }
}

#[cfg(test)]
mod tests;
