//! `ContainerConfig` to [`ContainerSpec`]: every value takes effect or is refused by name.

use sandboxd_api::cri;

use super::{Host, Invalid, Why};
use crate::container::spec::ContainerSpec;
use crate::pod::model::Pod;

/// Validates a container request for a pod.
///
/// # Errors
/// The first field that cannot be carried out.
pub fn container_spec(
    config: cri::ContainerConfig,
    _pod: &Pod,
    _host: &Host,
) -> Result<ContainerSpec, Invalid> {
    Err(Invalid::new("config.metadata", config.metadata, Why::Missing))
}
