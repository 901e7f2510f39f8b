//! The pod's network: CNI plugins run on the pinned network namespace, `lo` set up by the daemon itself.
//!
//! ```text
//!            prepare              add                    del
//!   nothing ───────▶ leased ─────────────▶ attached ───────────▶ nothing
//!                      │   (failed, or the daemon died)  ▲
//!                      └─────────────── del ─────────────┘
//! ```
//!
//! - [`Network::prepare`] puts the intent on disk before any plugin runs ([`lease`]).
//! - [`Network::add`] runs the chain (`chain`, `exec`); whoever gets an error from it calls
//!   [`Network::del`], which undoes whatever part was done.
//! - [`Network::del`] runs in a task and under a deadline of its own, with what ADD was given. The lease
//!   goes only when all plugins have succeeded, so an address is never forgotten: at start, leases
//!   ([`Network::leases`]) without a pod get DEL again.
//!
//! Pods do not wait for each other; the operations of one pod take turns, as the CNI specification asks.
//! Which network is used, and whether it is ready, is `readiness`'s.

pub mod conf;
pub mod dns;
pub mod error;
pub mod lease;
mod orphans;
pub mod result;
pub mod version;

mod capability;
mod chain;
mod exec;
mod inotify;
mod loopback;
mod quantity;
mod readiness;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::fs::statfs;
use tokio::sync::watch;

use crate::pod::model::PodId;
use crate::pod::spec::PodSpec;

pub use error::{NetworkError, PluginReport};
pub use exec::Verb;
pub use lease::Lease;
pub use loopback::loopback_up;

use conf::NetworkConfig;
use exec::{Deadline, Plugins};
use lease::Leases;
use readiness::Readiness;

/// Where configurations and plugins are.
#[derive(Debug, Clone)]
pub struct NetworkSettings {
    pub conf_dir: PathBuf,
    pub bin_dirs: Vec<PathBuf>,
    /// CNI's intents and results, outliving the boot (under the root directory).
    pub lease_dir: PathBuf,
    /// For the whole chain of plugins; CHECK has the same.
    pub add_timeout: Duration,
    /// Teardown has its own deadline, whatever the caller's.
    pub del_timeout: Duration,
}

/// What CRI Status reports as NetworkReady.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkStatus {
    pub ready: bool,
    /// NoNetworkConfig, InvalidNetworkConfig, PluginMissing, PluginVersion, PluginNotReady; empty when ready.
    pub reason: String,
    /// When ready: files that were passed over, if any.
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

/// How long a pod waits for the plugins' first VERSION answers after the daemon's start.
const FIRST_PROBE: Duration = Duration::from_secs(5);

/// The node's CNI network.
#[derive(Debug)]
pub struct Network {
    shared: Arc<Shared>,
    follower: tokio::task::AbortHandle,
}

#[derive(Debug)]
struct Shared {
    settings: NetworkSettings,
    plugins: Plugins,
    leases: Leases,
    readiness: Arc<Readiness>,
    pod_cidrs: ArcSwap<Vec<String>>,
    /// The operation of a pod that is under way.
    turns: Mutex<HashMap<PodId, Weak<tokio::sync::Mutex<()>>>>,
}

impl Drop for Network {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl Network {
    /// Opens the lease directory, looks at the configurations, and follows them from then on. Needs a
    /// tokio runtime.
    ///
    /// # Errors
    /// When the lease directory cannot be made or read. A missing network is a status, not an error.
    pub fn new(settings: NetworkSettings) -> Result<Arc<Self>, NetworkError> {
        let leases = Leases::open(settings.lease_dir.clone())?;
        let plugins = Plugins::new(settings.bin_dirs.clone());
        let readiness = Readiness::first(&settings, &plugins);
        let follower = tokio::spawn(readiness::follow(readiness.clone(), settings.clone(), plugins.clone()))
            .abort_handle();
        let shared = Arc::new(Shared {
            settings,
            plugins,
            leases,
            readiness,
            pod_cidrs: ArcSwap::default(),
            turns: Mutex::default(),
        });
        Ok(Arc::new(Self { shared, follower }))
    }

    #[must_use]
    pub fn status(&self) -> NetworkStatus {
        self.shared.readiness.status.borrow().clone()
    }

    /// The status, and every change of it.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<NetworkStatus> {
        self.shared.readiness.status.subscribe()
    }

    /// The node's pod CIDRs (CRI UpdateRuntimeConfig), handed to plugins that declare `ipRanges`.
    pub fn set_pod_cidrs(&self, cidrs: Vec<String>) {
        self.shared.pod_cidrs.store(Arc::new(cidrs));
    }

    /// Decides what the plugins will be told about the pod and puts it on disk. No side effect but that:
    /// may run beside the making of the namespaces. One fsync.
    ///
    /// # Errors
    /// When no network is ready, the pod asks for what no plugin of it declares, or the lease cannot be
    /// written.
    pub async fn prepare(&self, pod: &PodId, spec: &PodSpec) -> Result<Lease, NetworkError> {
        let shared = self.shared.clone();
        let mut probed = shared.readiness.probed.subscribe();
        // The version is settled with the plugins once after the start.
        let _ = tokio::time::timeout(FIRST_PROBE, probed.wait_for(|done| *done)).await;
        let status = self.status();
        let network = shared.readiness.network.load_full().filter(|_| status.ready);
        let network = network.ok_or(NetworkError::NotReady { message: status.message })?;
        let lease = Lease {
            pod: pod.clone(),
            args: capability::cni_args(pod, spec)?,
            capabilities: capability::arguments(&network, spec, &shared.pod_cidrs.load())?,
            network: NetworkConfig::clone(&network),
        };
        let lost = |_| NetworkError::TaskLost { what: "lease writer" };
        tokio::task::spawn_blocking(move || shared.leases.write_intent(&lease).map(|()| lease))
            .await
            .map_err(lost)?
    }

    /// CNI ADD. Dropping the future kills the plugin at work and its process group.
    ///
    /// # Errors
    /// In the plugin's words. The caller then calls [`Self::del`].
    pub async fn add(&self, lease: &Lease, netns: &Path) -> Result<Attached, NetworkError> {
        let shared = &self.shared;
        let _turn = shared.turn(&lease.pod).await;
        let begun = Instant::now();
        let deadline = Deadline::after(shared.settings.add_timeout);
        let result = shared.plugins.add(lease, netns, deadline).await?;
        let cni = begun.elapsed();
        // A rename without an fsync, into the page cache: not worth a thread.
        shared.leases.write_result(&lease.pod, &result)?;
        let ips = result.addresses(chain::IFNAME);
        if ips.is_empty() {
            let network = lease.network.name.clone();
            return Err(NetworkError::NoAddress { network, ifname: chain::IFNAME });
        }
        Ok(Attached { ips, cni })
    }

    /// CNI DEL with what ADD was given, in a task of its own: it goes on when the caller goes away. A
    /// namespace that is gone is passed as an empty CNI_NETNS. A pod without a lease is torn down already.
    ///
    /// # Errors
    /// In the plugin's words; the lease stays, so that DEL can be tried again.
    pub async fn del(&self, pod: &PodId, netns: Option<&Path>) -> Result<(), NetworkError> {
        let (shared, pod) = (self.shared.clone(), pod.clone());
        let netns = netns.map(Path::to_owned);
        let work = tokio::spawn(async move {
            let outcome = shared.del(&pod, netns.as_deref()).await;
            if let Err(error) = &outcome {
                tracing::warn!(%pod, %error, "CNI DEL failed: the lease is kept");
            }
            outcome
        });
        work.await.map_err(|_| NetworkError::TaskLost { what: "teardown" })?
    }

    /// Ends the plugins of a pod that an earlier daemon started and did not wait for.
    pub async fn end_orphans(&self, pod: &PodId) {
        let id = pod.clone();
        match tokio::task::spawn_blocking(move || orphans::end(&id)).await {
            Ok(Ok(0)) => {}
            Ok(Ok(count)) => tracing::warn!(%pod, count, "ended CNI plugins of a daemon that is gone"),
            Ok(Err(error)) => {
                tracing::warn!(%pod, %error, "looking for CNI plugins of a daemon that is gone");
            }
            Err(error) => tracing::warn!(%pod, %error, "looking for CNI plugins did not end"),
        }
    }

    /// All leases on disk.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>, NetworkError> {
        self.shared.leases.list()
    }

    /// CNI CHECK, where the version has it and the network does not switch it off.
    ///
    /// # Errors
    /// In the plugin's words; [`NetworkError::NotAttached`] for a pod without a finished ADD.
    pub async fn check(&self, pod: &PodId, netns: &Path) -> Result<(), NetworkError> {
        let shared = &self.shared;
        let _turn = shared.turn(pod).await;
        let unknown = || NetworkError::NotAttached { pod: pod.clone() };
        let lease = shared.leases.read(pod)?.ok_or_else(unknown)?;
        if !lease.network.version.has_check() || lease.network.disable_check {
            return Ok(());
        }
        let result = shared.leases.result(pod)?.ok_or_else(unknown)?;
        let deadline = Deadline::after(shared.settings.add_timeout);
        shared.plugins.check(&lease, netns, &result, deadline).await
    }

    /// CNI GC: plugins forget what belongs to none of the valid pods. Nothing where the version or the
    /// configuration has no GC. Call it when no pod is being made: a plugin may take the address of an
    /// attachment that is not in `valid`.
    ///
    /// # Errors
    /// The first plugin's that failed; all were asked.
    pub async fn gc(&self, valid: &[PodId]) -> Result<(), NetworkError> {
        let shared = &self.shared;
        let Some(network) = shared.readiness.network.load_full() else { return Ok(()) };
        if !network.version.has_gc_and_status() || network.disable_gc {
            return Ok(());
        }
        let ids: Vec<&str> = valid.iter().map(PodId::as_str).collect();
        shared.plugins.gc(&network, &ids, Deadline::after(shared.settings.del_timeout)).await
    }
}

impl Shared {
    async fn del(&self, pod: &PodId, netns: Option<&Path>) -> Result<(), NetworkError> {
        let _turn = self.turn(pod).await;
        let Some(lease) = self.leases.read(pod)? else { return Ok(()) };
        let result = self.leases.result(pod)?;
        let netns = netns.filter(|path| is_namespace(path));
        let deadline = Deadline::after(self.settings.del_timeout);
        self.plugins.del(&lease, netns, result.as_ref(), deadline).await?;
        self.leases.remove(pod)
    }

    /// Waits until no other operation of the pod is under way; others wait until the guard is dropped.
    async fn turn(&self, pod: &PodId) -> tokio::sync::OwnedMutexGuard<()> {
        let mutex = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            turns.retain(|_, turn| turn.strong_count() > 0);
            match turns.get(pod).and_then(Weak::upgrade) {
                Some(mutex) => mutex,
                None => {
                    let mutex = Arc::new(tokio::sync::Mutex::new(()));
                    turns.insert(pod.clone(), Arc::downgrade(&mutex));
                    mutex
                }
            }
        };
        mutex.lock_owned().await
    }
}

/// Whether the path is a namespace: a pin whose mount is gone is an empty file, which plugins choke on.
fn is_namespace(path: &Path) -> bool {
    const NSFS_MAGIC: u64 = 0x6e73_6673;
    statfs(path).is_ok_and(|fs| u64::try_from(fs.f_type).is_ok_and(|t| t == NSFS_MAGIC))
}
