//! Devices of the node, by path or by CDI name.

use std::collections::HashMap;

use sandboxd_api::cri;

use super::super::{Invalid, PATH_MAX, Why, absolute, count};
use super::{bytes, clean, unique};
use crate::container::spec::Device;

const DEVICES_MAX: usize = 4096;
/// vendor/class=device: a domain name, a word, a word, each as long as the CDI specification lets it be.
const CDI_NAME_MAX: usize = 512;

pub(super) fn devices(devices: Vec<cri::Device>) -> Result<Vec<Device>, Invalid> {
    const FIELD: &str = "config.devices";
    count(FIELD, devices.len(), DEVICES_MAX)?;
    let one = |(i, d): (usize, cri::Device)| {
        let at = |name: &str| format!("{FIELD}[{i}].{name}");
        if d.container_path.is_empty() {
            return Err(Invalid::new(at("container_path"), d.container_path, Why::Missing));
        }
        bytes(&at("container_path"), &d.container_path, PATH_MAX)?;
        let once = |letter: char| d.permissions.matches(letter).count() <= 1;
        let letters = d.permissions.chars().all(|c| "rwm".contains(c) && once(c));
        if d.permissions.is_empty() || !letters {
            return Err(Invalid::new(at("permissions"), d.permissions, Why::DevicePermissions));
        }
        Ok(Device {
            container_path: clean(&d.container_path),
            host_path: absolute(&at("host_path"), d.host_path)?,
            permissions: d.permissions,
        })
    };
    devices.into_iter().enumerate().map(one).collect()
}

/// Annotations whose keys begin so name CDI devices as well: device plugins of kubelets that have no field for them,
/// and of some that have (CDI's pkg/cdi/annotations.go).
const CDI_ANNOTATION: &str = "cdi.k8s.io/";

pub(super) fn cdi(
    devices: Vec<cri::CdiDevice>,
    annotations: &HashMap<String, String>,
) -> Result<Vec<String>, Invalid> {
    const FIELD: &str = "config.CDI_devices";
    count(FIELD, devices.len(), DEVICES_MAX)?;
    let mut names: Vec<String> = devices.into_iter().map(|d| d.name).collect();
    for (i, name) in names.iter().enumerate() {
        if name.len() > CDI_NAME_MAX || !is_cdi_name(name) {
            return Err(Invalid::new(format!("{FIELD}[{i}].name"), name, Why::CdiName));
        }
    }
    unique(FIELD, &names)?;
    let mut annotated: Vec<_> =
        annotations.iter().filter(|(key, _)| key.starts_with(CDI_ANNOTATION)).collect();
    annotated.sort();
    for (key, value) in annotated {
        for name in value.split(',').map(str::trim) {
            if name.len() > CDI_NAME_MAX || !is_cdi_name(name) {
                return Err(Invalid::new(format!("config.annotations[{key:?}]"), name, Why::CdiName));
            }
            if !names.iter().any(|known| known == name) {
                names.push(name.to_owned());
            }
        }
    }
    count(FIELD, names.len(), DEVICES_MAX)?;
    Ok(names)
}

/// The CDI specification's qualified names: `vendor/class=device`.
fn is_cdi_name(name: &str) -> bool {
    let word = |word: &str, more: &[u8], letter_first: bool| {
        let bytes = word.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
        let fine = |b: &u8| b.is_ascii_alphanumeric() || more.contains(b);
        (if letter_first { first.is_ascii_alphabetic() } else { first.is_ascii_alphanumeric() })
            && last.is_ascii_alphanumeric()
            && bytes.iter().all(fine)
    };
    name.split_once('/')
        .and_then(|(vendor, rest)| rest.split_once('=').map(|(class, device)| (vendor, class, device)))
        .is_some_and(|(vendor, class, device)| {
            word(vendor, b"_-.", true) && word(class, b"_-.", true) && word(device, b"_-.:", false)
        })
}
