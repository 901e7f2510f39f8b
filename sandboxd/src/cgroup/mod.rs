//! The pod's cgroup: cgroupfs v1 and v2, systemd slices where systemd runs the cgroups.

/// Why a cgroup could not be made, filled or removed.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: std::path::PathBuf,
        #[source]
        source: std::io::Error,
    },
}
