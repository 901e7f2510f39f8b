//! Builds the rooms, in the order in which they lean on each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::DaemonError;
use super::dirs::{self, Lock};
use super::node::{self, Node};
use super::socket::Socket;
use crate::cgroup::{CgroupSettings, Cgroups, DriverChoice};
use crate::config::{CgroupDriver, Config, Handler, RuntimeKind};
use crate::console::Sources;
use crate::cri::validate::Host;
use crate::cri::{Cri, HandlerReport};
use crate::doctor;
use crate::journal::Journal;
use crate::network::{Network, NetworkSettings};
use crate::observer::{Attribution, Observer, ObserverSettings};
use crate::pod::{PodDefaults, PodHandler, Pods, Rooms};
use crate::runtime::Runtime;
use crate::runtime::namespaces::HostInodes;
use crate::runtime::native::NativeRuntime;

/// Everything that serves, not yet serving.
#[derive(Debug)]
pub struct Daemon {
    pub(super) cri: Cri,
    pub(super) pods: Arc<Pods>,
    pub(super) sources: Arc<Sources>,
    pub(super) cri_socket: Socket,
    pub(super) console_socket: Socket,
    pub(super) network: Arc<Network>,
    pub(super) config: Config,
    /// Given up last.
    pub(super) locks: [Lock; 2],
}

impl Daemon {
    /// Directories, locks and sockets first: after them this is the only daemon here. Clients that connect
    /// meanwhile wait until [`Daemon::run`] accepts them. The pods of an earlier daemon are adopted or
    /// undone before anything is served.
    ///
    /// # Errors
    /// The first thing that could not be built; what was built is undone.
    pub async fn build(config: Config) -> Result<Self, DaemonError> {
        if !doctor::may_make_pods() {
            return Err(DaemonError::NotPrivileged);
        }
        dirs::make(&config.root)?;
        dirs::make(&config.state)?;
        let locks = [Lock::take(&config.state)?, Lock::take(&config.root)?];
        let cri_socket = Socket::bind(&config.cri_socket, &config.socket_group)?;
        let console_socket = Socket::bind(&config.console_socket, &config.socket_group)?;

        let attribution = Arc::new(Attribution::default());
        // Loading the program takes longer than all the rest: it goes on beside it.
        let observer = {
            let settings = ObserverSettings {
                enabled: config.observer.enabled,
                history: config.observer.history,
                rungs: config.observer.rungs.clone(),
            };
            let attribution = Arc::clone(&attribution);
            tokio::task::spawn_blocking(move || Observer::start(&settings, attribution))
        };
        let host = HostInodes::read()?;
        let journal = Arc::new(Journal::open(&config.state)?);
        let network = Network::new(network_settings(&config))?;
        let cgroups = Cgroups::detect(&cgroup_settings(&config))?;
        let native = Arc::new(NativeRuntime::new(config.shim()).await?);
        let handlers = pod_handlers(&config, &native);
        let observer = observer.await.map_err(|e| DaemonError::Observer(std::io::Error::other(e)))?;

        let rooms = Rooms {
            journal: Arc::clone(&journal),
            network: Arc::clone(&network),
            cgroups: cgroups.clone(),
            observer: observer.clone(),
            attribution,
            host: host.clone(),
            defaults: PodDefaults {
                unprivileged_ports: config.pod.unprivileged_ports,
                unprivileged_icmp: config.pod.unprivileged_icmp,
            },
        };
        let pods = Pods::new(handlers, Arc::new(rooms));
        pods.recover(&journal).await?;
        pods.collect_garbage(&network).await;

        let sources = Arc::new(Sources {
            node: node::facts(&cgroups, &host, &native),
            pods: Arc::clone(&pods),
            observer: observer.clone(),
            network: Arc::clone(&network),
            config: config.clone(),
        });
        let node =
            Node::new(&config, reports(&config, &native), Arc::clone(&network), &cgroups, observer, &native);
        let cri = Cri::new(Arc::new(Arc::clone(&pods)), Arc::new(node), Host::probe());
        Ok(Self { cri, pods, sources, cri_socket, console_socket, network, config, locks })
    }
}

fn network_settings(config: &Config) -> NetworkSettings {
    NetworkSettings {
        conf_dir: config.cni.conf_dir.clone(),
        bin_dirs: config.cni.bin_dirs.clone(),
        lease_dir: config.root.join("cni"),
        add_timeout: config.cni.add_timeout,
        del_timeout: config.cni.del_timeout,
    }
}

fn cgroup_settings(config: &Config) -> CgroupSettings {
    let driver = match config.cgroup.driver {
        CgroupDriver::Auto => DriverChoice::Auto,
        CgroupDriver::Cgroupfs => DriverChoice::Cgroupfs,
        CgroupDriver::Systemd => DriverChoice::Systemd,
    };
    CgroupSettings { driver, ..CgroupSettings::default() }
}

/// The handlers that make pods: those of the native runtime.
fn pod_handlers(config: &Config, native: &Arc<NativeRuntime>) -> BTreeMap<String, PodHandler> {
    let native_ones = config.handlers().into_iter().filter(|(_, h)| h.runtime == RuntimeKind::Native);
    native_ones
        .map(|(name, handler)| {
            let runtime: Arc<dyn Runtime> = Arc::clone(native) as Arc<dyn Runtime>;
            (name, PodHandler { runtime, flow: handler.flow })
        })
        .collect()
}

/// What CRI Status says of each handler: no feature is true that was not seen to work.
fn reports(config: &Config, native: &NativeRuntime) -> BTreeMap<String, HandlerReport> {
    let report = |handler: Handler| {
        let features = match handler.runtime {
            RuntimeKind::Native => native.features(),
            RuntimeKind::Oci => Default::default(),
        };
        HandlerReport { handler, features }
    };
    config.handlers().into_iter().map(|(name, handler)| (name, report(handler))).collect()
}
