//! `PodSandboxConfig` to [`PodSpec`]: every value takes effect or is refused by name.
//!
//! A refusal names the field's path, its value, the reason and what to do ([`Invalid`]). Nothing here
//! touches the node: what must be known of it comes in [`Host`].

mod container;
mod identity;
mod namespaces;
mod network;
mod resources;
mod security;
mod sysctls;
mod why;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

use sandboxd_api::cri;

use crate::apparmor::Support;
use crate::pod::spec::PodSpec;

pub use container::container_spec;
pub use resources::{changed_resources, resources};
pub use why::{Invalid, Why};

/// What validation must know of the node.
#[derive(Debug, Clone, Default)]
pub struct Host {
    pub hostname: String,
    pub apparmor: Support,
    pub selinux: bool,
}

impl Host {
    /// Asks the running kernel.
    #[must_use]
    pub fn probe(apparmor: Support) -> Self {
        Self {
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            apparmor,
            selinux: std::path::Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// Validates a request whose handler is known.
///
/// `handler` is the name in the configuration, `runtime_handler` what the caller wrote.
///
/// # Errors
/// The first field that cannot be carried out.
pub fn pod_spec(
    config: cri::PodSandboxConfig,
    handler: String,
    runtime_handler: String,
    host: &Host,
) -> Result<PodSpec, Invalid> {
    if config.windows.is_some() {
        return Err(Invalid::new("config.windows", "set", Why::Windows));
    }
    let linux = config.linux.unwrap_or_default();
    let context = linux.security_context.unwrap_or_default();
    let namespaces = namespaces::namespaces(context.namespace_options.as_ref())?;
    let metadata = identity::metadata(config.metadata)?;
    Ok(PodSpec {
        hostname: identity::hostname(config.hostname, namespaces.network, host)?,
        log_directory: log_directory(config.log_directory)?,
        dns: network::dns(config.dns_config.unwrap_or_default())?,
        port_mappings: network::port_mappings(&config.port_mappings, namespaces.network)?,
        labels: identity::pairs("config.labels", config.labels)?,
        annotations: identity::pairs("config.annotations", config.annotations)?,
        cgroup_parent: cgroup_parent(linux.cgroup_parent)?,
        sysctls: sysctls::sysctls(linux.sysctls, &namespaces)?,
        resources: resources("config.linux.resources", linux.resources)?,
        overhead: resources("config.linux.overhead", linux.overhead)?,
        security: security::security(context, namespaces.user.as_ref(), host)?,
        metadata,
        handler,
        runtime_handler,
        namespaces,
    })
}

const PATH_MAX: usize = 4095;

/// Refuses what no text field of a pod may contain, or more of it than `max` bytes.
fn text(field: &str, value: &str, max: usize) -> Result<(), Invalid> {
    if value.len() > max {
        return Err(Invalid::new(field, value, Why::TooLong { max }));
    }
    if value.chars().any(char::is_control) {
        return Err(Invalid::new(field, value, Why::ControlCharacter));
    }
    Ok(())
}

fn count(field: &str, len: usize, max: usize) -> Result<(), Invalid> {
    if len > max {
        return Err(Invalid::new(field, format_args!("{len} entries"), Why::TooMany { max }));
    }
    Ok(())
}

/// A number of a proto3 enum that this version knows.
fn known<E: TryFrom<i32>>(field: &str, number: i32) -> Result<E, Invalid> {
    E::try_from(number).map_err(|_| Invalid::new(field, number, Why::UnknownEnum))
}

/// An absolute path without `..`.
fn absolute(field: &str, value: String) -> Result<PathBuf, Invalid> {
    text(field, &value, PATH_MAX)?;
    if !value.starts_with('/') {
        return Err(Invalid::new(field, value, Why::NotAbsolute));
    }
    if value.split('/').any(|part| part == "..") {
        return Err(Invalid::new(field, value, Why::DotDot));
    }
    Ok(value.into())
}

fn log_directory(value: String) -> Result<Option<PathBuf>, Invalid> {
    if value.is_empty() { Ok(None) } else { absolute("config.log_directory", value).map(Some) }
}

/// Only its text: which form it must have depends on the cgroup driver, which checks it.
fn cgroup_parent(value: String) -> Result<String, Invalid> {
    const FIELD: &str = "config.linux.cgroup_parent";
    text(FIELD, &value, PATH_MAX)?;
    if value.split('/').any(|part| part == "..") {
        return Err(Invalid::new(FIELD, value, Why::DotDot));
    }
    Ok(value)
}
