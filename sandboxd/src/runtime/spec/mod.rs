//! OCI runtime specs: what any runtime would be given.
//!
//! [`infra()`] is a pod's infra container, [`container()`] one of its application containers, whose processes'
//! executions come from [`exec_process`]. Paths and mounts are containerd's defaults.

pub(crate) mod container;
mod devices;
mod infra;
mod mounts;
mod process;

use std::path::Path;

use oci_spec::OciSpecError;
use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder, Mount};

use super::RuntimeError;
use crate::pod::spec::IdMap;

pub use container::{ContainerInput, Made, container};
pub use devices::HostDevices;
pub use infra::{binds_sysfs, infra};
pub use mounts::{Origin, POD_SHM};
pub use process::{User, exec_process};

fn mappings(maps: &[IdMap]) -> Result<Vec<LinuxIdMapping>, RuntimeError> {
    let line = |map: &IdMap| {
        LinuxIdMappingBuilder::default()
            .container_id(map.container_id)
            .host_id(map.host_id)
            .size(map.length)
            .build()
            .map_err(invalid)
    };
    maps.iter().map(line).collect()
}

#[expect(clippy::needless_pass_by_value, reason = "a map_err argument")]
fn invalid(error: OciSpecError) -> RuntimeError {
    RuntimeError::Unsupported { what: format!("the container's OCI spec is not valid: {error}") }
}

fn mount(destination: &str, typ: &str, source: &str, options: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(Path::new(destination).to_owned())
        .set_typ(Some(typ.to_owned()))
        .set_source(Some(source.into()))
        .set_options(Some(options.split_whitespace().map(str::to_owned).collect()));
    mount
}
