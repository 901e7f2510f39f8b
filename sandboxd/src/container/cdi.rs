//! Devices by name: the Container Device Interface.

use oci_spec::runtime::Mount;

use crate::runtime::spec::HostDevices;

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
