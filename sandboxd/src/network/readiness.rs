//! Which network the pods get, and whether it is ready: follows the conf and bin directories.
//!
//! ```text
//!        ┌──────── files changed (inotify, 50 ms to settle) ────────┐
//!        ▼                                                          │
//!   scan files ──▶ plugins there? ──▶ VERSION of each ──▶ STATUS ──▶ publish
//!                                                       (1.1.0: again every 15 s, every 5 s when not ready)
//! ```
//!
//! VERSION is asked once per change and never per pod: ADD costs one process per plugin.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::watch;

use super::conf::{self, Found, NetworkConfig};
use super::exec::{Deadline, Plugins};
use super::inotify::DirWatch;
use super::version::CniVersion;
use super::{NetworkSettings, NetworkStatus};

const SETTLE: Duration = Duration::from_millis(50);
/// For VERSION and STATUS together; a plugin that takes longer is not ready.
const PROBE: Duration = Duration::from_secs(10);
const STATUS_WELL: Duration = Duration::from_secs(15);
const STATUS_ILL: Duration = Duration::from_secs(5);
/// Without inotify (its instances may be used up).
const POLL: Duration = Duration::from_secs(5);

/// What readers see of the node's network.
#[derive(Debug)]
pub(super) struct Readiness {
    pub(super) status: watch::Sender<NetworkStatus>,
    /// The network in use, also while a STATUS says not now.
    pub(super) network: ArcSwapOption<NetworkConfig>,
    /// True once the plugins were asked for the first time.
    pub(super) probed: watch::Sender<bool>,
}

impl Readiness {
    /// The state by the files alone.
    pub(super) fn first(settings: &NetworkSettings, plugins: &Plugins) -> Arc<Self> {
        let (network, status) = by_files(settings, plugins, conf::scan(&settings.conf_dir));
        Arc::new(Self {
            status: watch::Sender::new(status),
            network: ArcSwapOption::new(network.map(Arc::new)),
            probed: watch::Sender::new(false),
        })
    }

    fn publish(&self, network: Option<NetworkConfig>, status: NetworkStatus) {
        self.network.store(network.map(Arc::new));
        self.status.send_if_modified(|current| {
            let changed = *current != status;
            if changed {
                tracing::info!(ready = status.ready, reason = %status.reason, message = %status.message, "network");
                *current = status;
            }
            changed
        });
        self.probed.send_replace(true);
    }
}

/// Follows the directories until it is aborted.
pub(super) async fn follow(state: Arc<Readiness>, settings: NetworkSettings, plugins: Plugins) {
    let dirs: Vec<PathBuf> = std::iter::once(&settings.conf_dir).chain(&settings.bin_dirs).cloned().collect();
    let mut changes = DirWatch::new(dirs)
        .inspect_err(|error| {
            tracing::warn!(%error, "no inotify: the CNI directories are looked at every {POLL:?}");
        })
        .ok();
    loop {
        if let Some(changes) = &mut changes {
            changes.arm();
        }
        let found = conf::scan(&settings.conf_dir);
        let (network, status) = by_files(&settings, &plugins, found);
        let (network, status) = match network {
            Some(network) if status.ready => by_plugins(&plugins, network, status).await,
            network => (network, status),
        };
        let has_status = network.as_ref().is_some_and(|n| n.version.has_gc_and_status());
        let again = match (has_status, status.ready) {
            (true, true) => Some(STATUS_WELL),
            (true, false) => Some(STATUS_ILL),
            (false, _) => None,
        };
        state.publish(network, status);
        match &mut changes {
            Some(watch) => {
                let timer = async {
                    match again {
                        Some(after) => tokio::time::sleep(after).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    changed = watch.changed() => {
                        tokio::time::sleep(SETTLE).await;
                        watch.clear();
                        if let Err(error) = changed {
                            tracing::warn!(%error, "inotify failed: the CNI directories are looked at every {POLL:?}");
                            changes = None;
                        }
                    }
                    () = timer => {}
                }
            }
            None => tokio::time::sleep(again.unwrap_or(POLL).min(POLL)).await,
        }
    }
}

fn not_ready(reason: &str, message: String) -> NetworkStatus {
    NetworkStatus { ready: false, reason: reason.to_owned(), message }
}

fn by_files(
    settings: &NetworkSettings,
    plugins: &Plugins,
    found: Found,
) -> (Option<NetworkConfig>, NetworkStatus) {
    let bad: Vec<String> = found.bad.iter().map(|(path, e)| format!("{} {e}", path.display())).collect();
    let dir = settings.conf_dir.display();
    let Some(network) = found.network else {
        let status = match found.dir_error {
            Some(error) => {
                not_ready("NoNetworkConfig", format!("CNI configuration directory {dir}: {error}"))
            }
            None if bad.is_empty() => not_ready(
                "NoNetworkConfig",
                format!("no CNI configuration (.conflist, .conf, .json) in {dir}"),
            ),
            None => not_ready("InvalidNetworkConfig", bad.join("; ")),
        };
        return (None, status);
    };
    let missing: BTreeSet<&str> =
        network.executables().into_iter().filter(|name| plugins.find(name).is_err()).collect();
    let status = if missing.is_empty() {
        let message = if bad.is_empty() {
            String::new()
        } else {
            format!("{} is used; {}", network.source.display(), bad.join("; "))
        };
        NetworkStatus { ready: true, reason: String::new(), message }
    } else {
        let names: Vec<&str> = missing.into_iter().collect();
        let dirs: Vec<String> = settings.bin_dirs.iter().map(|d| d.display().to_string()).collect();
        not_ready(
            "PluginMissing",
            format!(
                "network {:?} ({}) needs CNI plugins that are not in {}: {}",
                network.name,
                network.source.display(),
                dirs.join(", "),
                names.join(", ")
            ),
        )
    };
    (Some(network), status)
}

/// Settles the version with the plugins (the highest that the file offers and all of them speak) and asks
/// for their STATUS.
async fn by_plugins(
    plugins: &Plugins,
    mut network: NetworkConfig,
    ready: NetworkStatus,
) -> (Option<NetworkConfig>, NetworkStatus) {
    let deadline = Deadline::after(PROBE);
    let mut common: BTreeSet<CniVersion> = network.versions.iter().copied().collect();
    let kinds: BTreeSet<String> = network.plugins.iter().map(|p| p.kind.clone()).collect();
    for kind in kinds {
        match plugins.versions(&kind, deadline).await {
            Ok(spoken) => common.retain(|v| spoken.contains(v)),
            // VERSION is how a plugin opts in; one that cannot answer shows at ADD what it can do.
            Err(error) => tracing::warn!(plugin = %kind, %error, "CNI plugin does not answer VERSION"),
        }
        if common.is_empty() {
            let offered: Vec<&str> = network.versions.iter().map(|v| v.name()).collect();
            let message = format!(
                "network {:?} ({}) offers CNI version {}, which plugin {kind:?} does not speak with the others",
                network.name,
                network.source.display(),
                offered.join(", "),
            );
            return (Some(network), not_ready("PluginVersion", message));
        }
    }
    network.version = common.last().copied().unwrap_or(network.version);
    if network.version.has_gc_and_status()
        && let Err(error) = plugins.status(&network, deadline).await
    {
        return (Some(network), not_ready("PluginNotReady", error.to_string()));
    }
    (Some(network), ready)
}
