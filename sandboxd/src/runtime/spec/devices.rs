//! Devices of a container: the nodes it gets besides the usual ones, and the rules of its devices cgroup.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use super::super::RuntimeError;
use crate::container::spec::Device;
use crate::pod::spec::IdMappings;

/// Directories of /dev that hold no devices of the node, or file systems of their own.
const SKIPPED: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
/// More nodes than any machine's /dev has.
const DEVICES_MAX: usize = 16_384;
const DEPTH_MAX: usize = 16;

/// Devices with what the container may do with them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct HostDevices(pub Vec<(LinuxDevice, String)>);

impl HostDevices {
    /// The devices of a request. A directory stands for all devices in it.
    ///
    /// # Errors
    /// [`RuntimeError`] naming what is no device, or is not there.
    pub fn of_request(asked: &[Device], maps: Option<&IdMappings>) -> Result<Self, RuntimeError> {
        let mut found = Self::default();
        for device in asked {
            let io = |source| RuntimeError::Io {
                action: format!("looking at the device {}", device.host_path.display()),
                source,
            };
            // Links such as /dev/disk/by-id/… are followed, once, here.
            let path = device.host_path.canonicalize().map_err(io)?;
            let meta = path.metadata().map_err(io)?;
            let inside = Path::new(&device.container_path);
            if meta.is_dir() {
                found.directory(&path, inside, &device.permissions, maps, 0).map_err(io)?;
            } else if let Some(node) = node(&meta, inside, maps) {
                found.0.push((node, device.permissions.clone()));
            } else {
                let what = format!(
                    "{} is neither a device nor a directory of devices: correct config.devices",
                    device.host_path.display()
                );
                return Err(RuntimeError::Unsupported { what });
            }
        }
        Ok(found)
    }

    /// Every device of the node: what a privileged container gets.
    ///
    /// # Errors
    /// [`RuntimeError::Io`] where /dev cannot be read.
    pub fn all() -> Result<Self, RuntimeError> {
        let mut found = Self::default();
        let dev = Path::new("/dev");
        found
            .directory(dev, dev, "rwm", None, 0)
            .map_err(|source| RuntimeError::Io { action: "listing the devices in /dev".into(), source })?;
        Ok(found)
    }

    fn directory(
        &mut self,
        path: &Path,
        inside: &Path,
        permissions: &str,
        maps: Option<&IdMappings>,
        depth: usize,
    ) -> io::Result<()> {
        if depth > DEPTH_MAX {
            return Err(io::Error::other(format!("more than {DEPTH_MAX} directories deep")));
        }
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name();
            if depth == 0 && name == "console" || SKIPPED.iter().any(|skipped| name == *skipped) {
                continue;
            }
            // Devices come and go while they are listed. Links are not followed: their targets are listed too.
            let Ok(meta) = entry.path().symlink_metadata() else { continue };
            if meta.is_dir() {
                self.directory(&entry.path(), &inside.join(&name), permissions, maps, depth + 1)?;
            } else if let Some(node) = node(&meta, &inside.join(&name), maps) {
                if self.0.len() >= DEVICES_MAX {
                    return Err(io::Error::other(format!("more than {DEVICES_MAX} devices")));
                }
                self.0.push((node, permissions.to_owned()));
            }
        }
        Ok(())
    }
}

fn node(meta: &std::fs::Metadata, inside: &Path, maps: Option<&IdMappings>) -> Option<LinuxDevice> {
    let kind = meta.file_type();
    let typ = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let mut device = LinuxDevice::default();
    device
        .set_path(inside.to_owned())
        .set_typ(typ)
        .set_major(i64::from(rustix::fs::major(meta.rdev())))
        .set_minor(i64::from(rustix::fs::minor(meta.rdev())))
        .set_file_mode(Some(meta.mode() & 0o777))
        // The same ids inside, as far as a pod with a user namespace has them.
        .set_uid(Some(meta.uid()).filter(|uid| maps.is_none_or(|maps| maps.host_uid(*uid).is_some())))
        .set_gid(Some(meta.gid()).filter(|gid| maps.is_none_or(|maps| maps.host_gid(*gid).is_some())));
    Some(device)
}

/// The first rule denies everything. To what follows the cgroup room, and every OCI runtime, adds the devices that
/// all containers have.
pub(super) fn rules(granted: &HostDevices, privileged: bool) -> Vec<LinuxDeviceCgroup> {
    use LinuxDeviceType::{A, C, P};
    if privileged {
        return vec![rule(true, A, None, None, "rwm")];
    }
    // net/tun: what is made with it belongs to the container's own network.
    let mut rules = vec![rule(false, A, None, None, "rwm"), rule(true, C, Some(10), Some(200), "rwm")];
    // A pipe is nobody's but the container's.
    for (device, permissions) in granted.0.iter().filter(|(device, _)| device.typ() != P) {
        rules.push(rule(true, device.typ(), Some(device.major()), Some(device.minor()), permissions));
    }
    rules
}

fn rule(
    allow: bool,
    typ: LinuxDeviceType,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow)
        .set_typ(Some(typ))
        .set_major(major)
        .set_minor(minor)
        .set_access(Some(access.to_owned()));
    rule
}

/// The last one on a path wins.
pub(super) fn unique(devices: &HostDevices) -> Vec<LinuxDevice> {
    let mut by_path: std::collections::BTreeMap<PathBuf, LinuxDevice> = std::collections::BTreeMap::new();
    for (device, _) in &devices.0 {
        by_path.insert(device.path().clone(), device.clone());
    }
    by_path.into_values().collect()
}
