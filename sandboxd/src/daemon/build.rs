//! Builds the rooms, in the order in which they lean on each other.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::future::join_all;
use sandboxd_image::Images;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::DaemonError;
use super::dirs::{self, Lock};
use super::node::{self, Node};
use super::socket::Socket;
use crate::apparmor::AppArmor;
use crate::cgroup::{CgroupSettings, Cgroups, DriverChoice};
use crate::config::{CgroupDriver, Config, Handler, RuntimeKind};
use crate::console::Sources;
use crate::console::access::Operators;
use crate::console::endpoint::Endpoint;
use crate::console::events::Follow;
use crate::console::leaks::Leaks;
use crate::container::{Containers, Foundations};
use crate::cri::validate::Host;
use crate::cri::{Cri, Events, HandlerReport, Known};
use crate::doctor;
use crate::image::{self, ImageRoom};
use crate::journal::Journal;
use crate::network::{Network, NetworkSettings};
use crate::observer::{Attribution, Observer, follow_containers};
use crate::pod::{PodDefaults, PodHandler, Pods, Rooms};
use crate::runtime::Runtime;
use crate::runtime::namespaces::HostInodes;
use crate::runtime::native::NativeRuntime;
use crate::runtime::oci::OciRuntime;
use crate::stats::Stats;
use crate::streaming::{NodeTargets, Served, Streaming};
use crate::telemetry::{Telemetry, Traces, TracesError};

/// Everything that serves, not yet serving.
#[derive(Debug)]
pub struct Daemon {
    pub(super) cri: Cri,
    pub(super) pods: Arc<Pods>,
    pub(super) containers: Arc<Containers>,
    pub(super) images: Arc<Images>,
    pub(super) image_room: ImageRoom,
    pub(super) sources: Arc<Sources>,
    pub(super) cri_socket: Socket,
    pub(super) console_socket: Socket,
    pub(super) console_endpoint: Option<Endpoint>,
    pub(super) streams: Served,
    pub(super) network: Arc<Network>,
    pub(super) telemetry: Telemetry,
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
        let console_socket = Socket::bind(&config.console_socket, config.console_socket_group())?;
        let operators = Operators::of(&config.console).map_err(|group| DaemonError::NoGroup { group })?;
        let console_endpoint = match config.console.network() {
            Some((address, tls)) => Some(Endpoint::bind(address, tls).await?),
            None => None,
        };

        let attribution = Arc::new(Attribution::default());
        // Loading the program takes longer than all the rest: it goes on beside it.
        let observer = {
            let settings = config.observer.settings();
            let attribution = Arc::clone(&attribution);
            tokio::task::spawn_blocking(move || Observer::start(&settings, attribution))
        };
        let apparmor = tokio::task::spawn_blocking(AppArmor::start);
        let host = HostInodes::read()?;
        let journal = Arc::new(Journal::open(&config.state)?);
        let network = Network::new(network_settings(&config))?;
        let cgroups = Cgroups::detect(&cgroup_settings(&config))?;
        let native = Arc::new(NativeRuntime::new(config.shim()).await?);
        let handlers = pod_handlers(&config, &native).await;
        let reported = reports(&config, &handlers);
        let observer = observer.await.map_err(|e| DaemonError::Observer(std::io::Error::other(e)))?;
        let apparmor = apparmor.await.map_err(|e| DaemonError::AppArmor(std::io::Error::other(e)))?;
        let apparmor = Arc::new(apparmor);

        let rooms = Rooms {
            journal: Arc::clone(&journal),
            network: Arc::clone(&network),
            cgroups: cgroups.clone(),
            observer: observer.clone(),
            attribution: Arc::clone(&attribution),
            host: host.clone(),
            defaults: PodDefaults {
                unprivileged_ports: config.pod.unprivileged_ports,
                unprivileged_icmp: config.pod.unprivileged_icmp,
            },
        };
        let pods = Pods::new(handlers, former(&config, &native), Arc::new(rooms));
        pods.recover(&journal).await?;
        pods.collect_garbage(&network).await;
        let images = Images::open(&config.root.join("images"), image::settings(&config.image))?;
        let image_room = ImageRoom::new(Arc::clone(&images), &config.image, &config.root)?;
        let containers = Containers::new(Foundations {
            pods: Arc::clone(&pods),
            images: Arc::clone(&images),
            cgroups: cgroups.clone(),
            apparmor: Arc::clone(&apparmor),
            root: config.root.clone(),
            state: config.state.clone(),
        })?;
        tokio::spawn(follow_containers(Arc::clone(containers.store()), attribution, observer.clone()));
        containers.recover().await?;
        // The containers have taken their layers again; what nobody took is what a crash left.
        let store = Arc::clone(&images);
        drop(tokio::task::spawn_blocking(move || store.collect()));
        let known = Arc::new(Known::new(Arc::clone(&containers)));

        let stats = Stats::new(cgroups.clone(), Arc::clone(&known) as _);
        let degradations = node::degradations(&native, apparmor.support());
        let facts = node::facts(&cgroups, &host, degradations.clone());
        let telemetry = Telemetry::new(traces(&config, &facts.name)?);
        let events = Follow {
            pods: Arc::clone(pods.store()),
            containers: Arc::clone(containers.store()),
            network: network.watch(),
            degradations: degradations.clone(),
            observer: observer.degradations(),
        }
        .start();
        let sources = Arc::new(Sources {
            node: facts,
            pods: Arc::clone(&pods),
            containers: Arc::clone(&containers),
            observer: observer.clone(),
            network: Arc::clone(&network),
            events,
            leaks: Leaks::default(),
            stats: stats.clone(),
            figures: Arc::clone(telemetry.figures()),
            operators,
            targets: NodeTargets { pods: Arc::clone(&pods), containers: Arc::clone(&containers) },
            acts: TaskTracker::new(),
            closing: CancellationToken::new(),
            config: config.clone(),
        });
        let node = Node::new(&config, reported, Arc::clone(&network), &cgroups, observer, degradations);
        let targets = NodeTargets { pods: Arc::clone(&pods), containers: Arc::clone(&containers) };
        let (streaming, streams) = Streaming::listen(config.streaming.settings(), Arc::new(targets)).await?;
        let cri =
            Cri::new(Arc::new(Arc::clone(&pods)), Arc::new(node), Host::probe(apparmor.support().clone()))
                .with_images(image_room.clone())
                .with_containers(Arc::new(Arc::clone(&containers)))
                .with_stats(stats)
                .with_events(Events::follow(Arc::clone(pods.store()), known))
                .with_streaming(streaming)
                .with_telemetry(telemetry.clone());
        Ok(Self {
            cri,
            pods,
            containers,
            images,
            image_room,
            sources,
            cri_socket,
            console_socket,
            console_endpoint,
            streams,
            network,
            telemetry,
            config,
            locks,
        })
    }
}

/// The way to a collector, where one is configured.
fn traces(config: &Config, node: &str) -> Result<Option<Traces>, TracesError> {
    let endpoint = &config.tracing.otlp_endpoint;
    (!endpoint.is_empty()).then(|| Traces::to(endpoint, node)).transpose()
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

/// The handlers that make pods.
async fn pod_handlers(config: &Config, native: &Arc<NativeRuntime>) -> BTreeMap<String, PodHandler> {
    let made = config.handlers().into_iter().map(|(name, handler)| async move {
        let runtime: Arc<dyn Runtime> = match (handler.runtime, &handler.path) {
            (RuntimeKind::Oci, Some(path)) => {
                Arc::new(OciRuntime::new(Arc::clone(native), &name, path, &config.state).await)
            }
            (RuntimeKind::Native, _) | (RuntimeKind::Oci, None) => Arc::clone(native) as Arc<dyn Runtime>,
        };
        (name, PodHandler { runtime, flow: handler.flow })
    });
    join_all(made).await.into_iter().collect()
}

/// Handlers of OCI runtimes that kept state here and are not in the configuration any more.
fn former(config: &Config, native: &Arc<NativeRuntime>) -> BTreeMap<String, Arc<dyn Runtime>> {
    let known = config.handlers();
    let left = OciRuntime::kept(&config.state).into_iter().filter(|name| !known.contains_key(name));
    left.map(|name| {
        let runtime: Arc<dyn Runtime> =
            Arc::new(OciRuntime::former(Arc::clone(native), &name, &config.state));
        (name, runtime)
    })
    .collect()
}

/// What CRI Status says of each handler: no feature is true that was not seen to work.
fn reports(config: &Config, handlers: &BTreeMap<String, PodHandler>) -> BTreeMap<String, HandlerReport> {
    let report = |name: &str, handler: Handler| {
        let features = handlers.get(name).map(|made| made.runtime.features()).unwrap_or_default();
        HandlerReport { handler, features }
    };
    let all = config.handlers().into_iter();
    all.map(|(name, handler)| (name.clone(), report(&name, handler))).collect()
}
