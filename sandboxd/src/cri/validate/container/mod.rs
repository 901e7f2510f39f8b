//! `ContainerConfig` to [`ContainerSpec`]: every value takes effect or is refused by name.
//!
//! What a container shares with its pod is compared with the pod: its network and IPC namespaces, its user
//! namespace, the right to be privileged.

mod apparmor;
mod devices;
mod mounts;
mod namespaces;
mod security;
mod signal;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use sandboxd_api::cri;

use super::{Host, Invalid, PATH_MAX, Why, count, identity, resources, text};
use crate::container::clean;
use crate::container::env::EnvValue;
use crate::container::spec::{ContainerSpec, ImageRef, Metadata};
use crate::pod::model::Pod;

/// `MAX_ARG_STRLEN`: what execve takes as one argument or variable.
const STRING_MAX: usize = 131_071;
/// All arguments and variables together: a quarter of the usual 8 MiB of stack, execve's bound.
const STRINGS_MAX: usize = 2 << 20;
const ENTRIES_MAX: usize = 65_536;
/// A DNS subdomain, the longest name Kubernetes gives anything.
const NAME_MAX: usize = 253;
/// Longer than any reference: a name of 255, a tag of 128, a digest.
const IMAGE_MAX: usize = 1024;

/// Validates a container request for a pod.
///
/// # Errors
/// The first field that cannot be carried out.
pub fn container_spec(
    config: cri::ContainerConfig,
    pod: &Pod,
    host: &Host,
) -> Result<ContainerSpec, Invalid> {
    if config.windows.is_some() {
        return Err(Invalid::new("config.windows", "set", Why::Windows));
    }
    let linux = config.linux.unwrap_or_default();
    let image = config.image.ok_or_else(|| Invalid::new("config.image", "", Why::Missing))?;
    strings("config.command", &config.command)?;
    strings("config.args", &config.args)?;
    Ok(ContainerSpec {
        metadata: metadata(config.metadata)?,
        image: image_ref("config.image", image)?,
        working_dir: working_dir(config.working_dir)?,
        envs: envs(config.envs)?,
        mounts: mounts::mounts(config.mounts, pod.spec.namespaces.user.as_ref())?,
        devices: devices::devices(config.devices)?,
        cdi_devices: devices::cdi(config.cdi_devices, &config.annotations)?,
        labels: identity::pairs("config.labels", config.labels)?,
        annotations: identity::pairs("config.annotations", config.annotations)?,
        log_path: log_path(&config.log_path, pod)?,
        // Without standard input there is nothing that could end with its first client.
        stdin_once: config.stdin && config.stdin_once,
        stdin: config.stdin,
        tty: config.tty,
        stop_signal: signal::number(config.stop_signal)?,
        resources: resources("config.linux.resources", linux.resources)?,
        security: security::security(linux.security_context.unwrap_or_default(), pod, host)?,
        command: config.command,
        args: config.args,
    })
}

/// What may have any bytes in it but NUL: arguments, paths, values.
fn bytes(field: &str, value: impl AsRef<[u8]>, max: usize) -> Result<(), Invalid> {
    let value = value.as_ref();
    let why = if value.len() > max {
        Why::TooLong { max }
    } else if value.contains(&0) {
        Why::Nul
    } else {
        return Ok(());
    };
    Err(Invalid::new(field, String::from_utf8_lossy(value), why))
}

fn strings(field: &str, values: &[String]) -> Result<(), Invalid> {
    count(field, values.len(), ENTRIES_MAX)?;
    for (i, value) in values.iter().enumerate() {
        bytes(&format!("{field}[{i}]"), value, STRING_MAX)?;
    }
    together(field, values.iter().map(String::len).sum())
}

fn together(field: &str, bytes: usize) -> Result<(), Invalid> {
    if bytes > STRINGS_MAX {
        return Err(Invalid::new(field, format_args!("{bytes} bytes"), Why::TooMuch { max: STRINGS_MAX }));
    }
    Ok(())
}

fn metadata(metadata: Option<cri::ContainerMetadata>) -> Result<Metadata, Invalid> {
    let Some(m) = metadata else { return Err(Invalid::new("config.metadata", "", Why::Missing)) };
    if m.name.is_empty() {
        return Err(Invalid::new("config.metadata.name", m.name, Why::Missing));
    }
    text("config.metadata.name", &m.name, NAME_MAX)?;
    Ok(Metadata { name: m.name, attempt: m.attempt })
}

/// An `ImageSpec`: `image_ref` stands in where `image` is empty.
fn image_ref(field: &str, spec: cri::ImageSpec) -> Result<ImageRef, Invalid> {
    let image = if spec.image.is_empty() { spec.image_ref } else { spec.image };
    if image.is_empty() {
        return Err(Invalid::new(format!("{field}.image"), image, Why::Missing));
    }
    text(&format!("{field}.image"), &image, IMAGE_MAX)?;
    text(&format!("{field}.user_specified_image"), &spec.user_specified_image, IMAGE_MAX)?;
    text(&format!("{field}.runtime_handler"), &spec.runtime_handler, NAME_MAX)?;
    Ok(ImageRef {
        image,
        user_specified_image: spec.user_specified_image,
        runtime_handler: spec.runtime_handler,
        image_id: String::new(),
        annotations: identity::pairs(&format!("{field}.annotations"), spec.annotations)?,
    })
}

/// Resolved in the container, so `..` goes no further than its root.
fn working_dir(value: String) -> Result<String, Invalid> {
    const FIELD: &str = "config.working_dir";
    bytes(FIELD, &value, PATH_MAX)?;
    if !value.is_empty() && !value.starts_with('/') {
        return Err(Invalid::new(FIELD, value, Why::NotAbsolute));
    }
    Ok(value)
}

fn envs(envs: Vec<cri::KeyValue>) -> Result<Vec<(String, EnvValue)>, Invalid> {
    const FIELD: &str = "config.envs";
    count(FIELD, envs.len(), ENTRIES_MAX)?;
    together(FIELD, envs.iter().map(|e| e.key.len() + e.value.len()).sum())?;
    let one = |(i, env): (usize, cri::KeyValue)| {
        let key = format!("{FIELD}[{i}].key");
        if env.key.is_empty() {
            return Err(Invalid::new(key, env.key, Why::Missing));
        }
        if env.key.contains('=') {
            return Err(Invalid::new(key, env.key, Why::EnvName));
        }
        bytes(&key, &env.key, STRING_MAX)?;
        bytes(&format!("{FIELD}[{i}].value"), &env.value, STRING_MAX)?;
        Ok((env.key, env.value.into()))
    };
    envs.into_iter().enumerate().map(one).collect()
}

/// Beneath the pod's log directory; a pod without one has no logs, as elsewhere.
fn log_path(path: &str, pod: &Pod) -> Result<Option<PathBuf>, Invalid> {
    const FIELD: &str = "config.log_path";
    text(FIELD, path, PATH_MAX)?;
    if path.split('/').any(|part| part == "..") {
        return Err(Invalid::new(FIELD, path, Why::DotDot));
    }
    let path = path.trim_start_matches('/');
    let directory = pod.spec.log_directory.as_ref().filter(|_| !path.is_empty());
    Ok(directory.map(|directory| directory.join(path)))
}

fn unique(field: &str, values: &[String]) -> Result<(), Invalid> {
    let mut seen = BTreeMap::new();
    for (i, value) in values.iter().enumerate() {
        if seen.insert(value, i).is_some() {
            return Err(Invalid::new(format!("{field}[{i}]"), value, Why::Twice));
        }
    }
    Ok(())
}
