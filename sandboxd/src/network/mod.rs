//! The pod's network: CNI plugins run on the pinned network namespace, `lo` set up by the daemon itself.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::watch;

/// Where configurations and plugins are.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    pub conf_dir: PathBuf,
    pub bin_dirs: Vec<PathBuf>,
    /// CNI's intents and results, one file per pod, outliving the boot (under the root directory).
    pub lease_dir: PathBuf,
    pub add_timeout: Duration,
    /// Teardown has its own deadline, whatever the caller's.
    pub del_timeout: Duration,
}

/// What CRI Status reports as NetworkReady.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    pub ready: bool,
    /// CamelCase, e.g. "NoNetworkConfig"; empty when ready.
    pub reason: String,
    pub message: String,
}

/// What a pod got from CNI ADD.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// The primary address first, IPv4 and IPv6 as the plugins report them.
    pub ips: Vec<IpAddr>,
    /// Spent in plugins.
    pub cni: Duration,
}

/// The node's CNI network.
#[derive(Debug)]
pub struct Network {
    settings: NetworkSettings,
    status: watch::Sender<NetworkStatus>,
}

/// Why the network could not be set up or torn down.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
}
