//! The console endpoint: what an operator's console sees of this node (`sandboxd.console.v1`).
//!
//! ```text
//!  unix socket ── peer: uid, groups ──────┐              ┌─ watch, usage, log …: whoever can connect
//!  TLS (endpoint) ── peer: certificate ───┴─▶ service ───┤
//!                                                        └─ actions, exec: access decides, and writes it down
//! ```
//! Reading goes to snapshots of the other rooms; what changes something goes to the pods and containers as a CRI
//! call would.

pub mod access;
mod actions;
mod capabilities;
mod container;
pub mod endpoint;
pub mod events;
mod exec;
pub mod leaks;
mod log;
mod namespaces;
pub mod peer;
mod service;
mod usage;
mod watch;
mod wire;

use std::collections::HashMap;
use std::sync::Arc;

use sandboxd_api::console as api;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::container::Containers;
use crate::container::model::Container;
use crate::doctor;
use crate::network::Network;
use crate::observer::{Check, CheckFilter, Observer};
use crate::pod::Pods;
use crate::pod::model::{Pod, PodId};
use crate::stats::Stats;
use crate::streaming::NodeTargets;
use crate::telemetry::Figures;
use access::Operators;
use events::Events;

pub use service::server;
pub use wire::HostNamespaces;

/// What does not change while the daemon runs.
#[derive(Debug, Clone, Default)]
pub struct NodeFacts {
    pub name: String,
    pub kernel: String,
    pub started_at_ns: i64,
    /// "v1", "v2" or "hybrid".
    pub cgroup: String,
    pub host: HostNamespaces,
    pub degradations: Vec<api::Degradation>,
}

/// Where the console's answers come from.
#[derive(Debug)]
pub struct Sources {
    pub node: NodeFacts,
    pub pods: Arc<Pods>,
    pub containers: Arc<Containers>,
    pub observer: Observer,
    pub network: Arc<Network>,
    pub events: Arc<Events>,
    pub leaks: leaks::Leaks,
    pub stats: Stats,
    /// Latencies, for the metrics.
    pub figures: Arc<Figures>,
    pub operators: Operators,
    /// What commands are executed in.
    pub targets: NodeTargets,
    /// What operators asked for and has no answer yet.
    pub acts: TaskTracker,
    /// Cancelled when the daemon begins to end.
    pub closing: CancellationToken,
    /// For the preflight checks.
    pub config: Config,
}

impl Sources {
    fn node(&self) -> api::Node {
        let network = self.network.status();
        let facts = &self.node;
        api::Node {
            name: facts.name.clone(),
            kernel: facts.kernel.clone(),
            sandboxd_version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at_ns: facts.started_at_ns,
            cgroup: facts.cgroup.clone(),
            network_ready: network.ready,
            network_message: network.message,
            init_userns: facts.host.user.0,
            init_netns: facts.host.net.0,
            init_mntns: facts.host.mnt.0,
            init_pidns: facts.host.pid.0,
            degradations: facts.degradations.clone(),
        }
    }

    fn pod(&self, pod: &Pod) -> api::Pod {
        let containers = self.containers.store().of_pod(&pod.id);
        self.pod_with(pod, container::processes(containers.iter().map(|it| &**it)))
    }

    /// Many pods at once: the containers are looked through once.
    fn pods(&self, pods: &[Arc<Pod>], containers: &[Arc<Container>]) -> Vec<api::Pod> {
        let mut inside: HashMap<&PodId, Vec<&Container>> = HashMap::new();
        for container in containers {
            inside.entry(&container.pod).or_default().push(container);
        }
        let mut of = |pod: &Pod| inside.remove(&pod.id).unwrap_or_default();
        pods.iter().map(|pod| self.pod_with(pod, container::processes(of(pod)))).collect()
    }

    fn pod_with(&self, pod: &Pod, inside: impl Iterator<Item = api::Process>) -> api::Pod {
        let counts = self.observer.counts(&pod.id);
        let checks = api::CheckCounts {
            allowed: counts.allowed,
            denied: counts.denied,
            sampled_out: counts.sampled_out,
        };
        let mut pod = wire::pod(pod, self.node.host, checks);
        pod.processes.extend(inside);
        pod
    }

    fn check(&self, check: &Check) -> api::Check {
        check.into()
    }

    /// Runs the preflight checks: blocks for some milliseconds.
    fn doctor(&self) -> Vec<api::DoctorCheck> {
        let checks = doctor::examine(&self.config, Some(&self.observer)).into_iter();
        checks
            .map(|check| api::DoctorCheck {
                name: check.name.to_owned(),
                verdict: match check.verdict {
                    doctor::Verdict::Ok => api::doctor_check::Verdict::Ok,
                    doctor::Verdict::Warn => api::doctor_check::Verdict::Warn,
                    doctor::Verdict::Fail => api::doctor_check::Verdict::Fail,
                }
                .into(),
                reason: check.reason,
                remedy: check.remedy,
            })
            .collect()
    }

    fn recent_checks(&self, limit: usize) -> Vec<api::Check> {
        let filter = CheckFilter { limit, ..CheckFilter::default() };
        self.observer.history(&filter).iter().map(|check| self.check(check)).collect()
    }
}
