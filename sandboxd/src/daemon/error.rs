//! Why the daemon could not start, or ended.

use std::io;
use std::path::PathBuf;

#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    #[error(
        "CAP_SYS_ADMIN is missing, without which no pod can be made: run sandboxd as root (`sandboxd doctor` lists what else it needs)"
    )]
    NotPrivileged,
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "directory {path} may be changed by others than root (owner {uid}, mode {mode:o}): \
         chown root and chmod go-w it, or configure another"
    )]
    LooseDirectory { path: PathBuf, uid: u32, mode: u32 },
    #[error(
        "another sandboxd (pid {pid}) uses {path}: stop it, or give this one its own root and state directories"
    )]
    Locked { path: PathBuf, pid: String },
    #[error("somebody already listens on {path}: stop that daemon, or configure another socket")]
    SocketInUse { path: PathBuf },
    #[error("{path} is there and is no socket: remove it, or configure another socket")]
    NotASocket { path: PathBuf },
    #[error("no group {group:?} on this machine: create it, or empty the key that names it")]
    NoGroup { group: String },
    #[error(transparent)]
    Runtime(#[from] crate::runtime::RuntimeError),
    #[error(transparent)]
    Journal(#[from] crate::journal::JournalError),
    #[error(transparent)]
    Network(#[from] crate::network::NetworkError),
    #[error(transparent)]
    Cgroup(#[from] crate::cgroup::CgroupError),
    #[error(transparent)]
    Streaming(#[from] sandboxd_streaming::ServerError),
    #[error(transparent)]
    Console(#[from] crate::console::endpoint::EndpointError),
    #[error("opening the images")]
    Images(#[from] sandboxd_image::ImageError),
    #[error(transparent)]
    Policy(#[from] sandboxd_image::pull::BadPolicy),
    #[error("recovering the containers")]
    Containers(#[from] crate::container::error::ContainerError),
    #[error(transparent)]
    Traces(#[from] crate::telemetry::TracesError),
    #[error("starting the observer")]
    Observer(#[source] io::Error),
    #[error("loading the AppArmor profile")]
    AppArmor(#[source] io::Error),
    #[error("waiting for signals")]
    Signals(#[source] io::Error),
    #[error("serving the CRI failed")]
    Serve(#[source] tonic::transport::Error),
    #[error("listening for metrics on {address}: is the port taken?")]
    Metrics {
        address: std::net::SocketAddr,
        #[source]
        source: io::Error,
    },
}

impl DaemonError {
    pub(super) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}
