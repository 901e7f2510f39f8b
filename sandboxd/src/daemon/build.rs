//! Builds the rooms, in the order in which they lean on each other.

use std::sync::Arc;

use tokio::sync::watch;

use super::DaemonError;
use super::dirs::{self, Lock};
use super::node::Node;
use super::socket::Socket;
use crate::config::Config;
use crate::cri::validate::Host;
use crate::cri::{Cri, HandlerReport};
use crate::network::NetworkStatus;
use crate::pod::Pods;
use crate::runtime::HandlerFeatures;

/// Everything that serves, not yet serving.
#[derive(Debug)]
pub struct Daemon {
    pub(super) cri: Cri,
    pub(super) cri_socket: Socket,
    pub(super) config: Config,
    /// Given up last.
    pub(super) locks: [Lock; 2],
}

impl Daemon {
    /// Directories, locks and sockets first: after them this is the only daemon here. Clients that connect
    /// meanwhile wait until [`Daemon::run`] accepts them.
    ///
    /// # Errors
    /// The first thing that could not be built; what was built is undone.
    pub async fn build(config: Config) -> Result<Self, DaemonError> {
        dirs::make(&config.root)?;
        dirs::make(&config.state)?;
        let locks = [Lock::take(&config.state)?, Lock::take(&config.root)?];
        let cri_socket = Socket::bind(&config.cri_socket, &config.socket_group)?;

        let (network, network_status) = watch::channel(NetworkStatus {
            ready: false,
            reason: "NoNetworkConfig".to_owned(),
            message: format!("no CNI configuration was loaded from {}", config.cni.conf_dir.display()),
        });
        drop(network);
        let handlers = config.handlers().into_iter().map(|(name, handler)| {
            let features = HandlerFeatures::default();
            (name, HandlerReport { handler, features })
        });
        let node = Arc::new(Node {
            config: config.clone(),
            handlers: handlers.collect(),
            network: network_status,
            pod_cidr: Default::default(),
        });
        let pods: Arc<Pods> = Arc::default();
        let cri = Cri::new(Arc::new(pods), node, Host::probe());
        Ok(Self { cri, cri_socket, config, locks })
    }
}
