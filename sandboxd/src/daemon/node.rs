//! The node as the CRI and the console report it, put together from the rooms.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use sandboxd_api::{console, cri};
use serde_json::{Value, json};

use crate::apparmor::Support;
use crate::cgroup::{Cgroups, Driver};
use crate::config::Config;
use crate::console::{HostNamespaces, NodeFacts};
use crate::cri::{HandlerReport, NodeReport};
use crate::network::{Network, NetworkStatus};
use crate::observer::Observer;
use crate::pod::model::NsKind;
use crate::pod::now_ns;
use crate::runtime::namespaces::HostInodes;
use crate::runtime::native::NativeRuntime;

/// Answers for all rooms.
#[derive(Debug)]
pub struct Node {
    config: Config,
    handlers: BTreeMap<String, HandlerReport>,
    network: Arc<Network>,
    driver: Driver,
    cgroup: &'static str,
    observer: Observer,
    degradations: Vec<console::Degradation>,
    pod_cidr: Mutex<String>,
}

impl Node {
    pub(super) fn new(
        config: &Config,
        handlers: BTreeMap<String, HandlerReport>,
        network: Arc<Network>,
        cgroups: &Cgroups,
        observer: Observer,
        degradations: Vec<console::Degradation>,
    ) -> Self {
        let (driver, cgroup) = (cgroups.driver(), cgroups.describe());
        let config = config.clone();
        Self { config, handlers, network, driver, cgroup, observer, degradations, pod_cidr: Mutex::default() }
    }

    fn pod_cidr(&self) -> std::sync::MutexGuard<'_, String> {
        self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NodeReport for Node {
    fn network(&self) -> NetworkStatus {
        self.network.status()
    }

    fn cgroup_driver(&self) -> cri::CgroupDriver {
        match self.driver {
            Driver::Systemd => cri::CgroupDriver::Systemd,
            Driver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        }
    }

    fn handlers(&self) -> &BTreeMap<String, HandlerReport> {
        &self.handlers
    }

    fn default_handler(&self) -> &str {
        &self.config.default_handler
    }

    fn info(&self) -> BTreeMap<&'static str, Value> {
        let config = serde_json::to_value(&self.config).unwrap_or(Value::Null);
        let observer = console::Observer::from(&self.observer.status());
        let degraded = |d: &console::Degradation| json!({"name": d.name, "message": d.message});
        BTreeMap::from([
            ("config", config),
            ("podCidr", json!(*self.pod_cidr())),
            ("cgroup", json!(self.cgroup)),
            (
                "observer",
                json!({
                    "state": observer.state().as_str_name(),
                    "rung": observer.rung,
                    "message": observer.message,
                    "produced": observer.produced,
                    "seen": observer.seen,
                    "sampled_out": observer.sampled_out,
                    "lost": observer.lost,
                }),
            ),
            ("degradations", self.degradations.iter().chain(&observer.degradations).map(degraded).collect()),
        ])
    }

    fn set_pod_cidr(&self, cidr: &str) {
        if *self.pod_cidr() != cidr {
            tracing::info!(cidr, "kubelet gave the pods' address range");
            cidr.clone_into(&mut self.pod_cidr());
            self.network.set_pod_cidrs(cidr.split(',').map(|c| c.trim().to_owned()).collect());
        }
    }
}

/// What does not change while the daemon runs.
pub(super) fn facts(
    cgroups: &Cgroups,
    host: &HostInodes,
    degradations: Vec<console::Degradation>,
) -> NodeFacts {
    let uname = rustix::system::uname();
    NodeFacts {
        name: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        started_at_ns: now_ns(),
        cgroup: cgroups.describe().to_owned(),
        host: HostNamespaces {
            user: host.get(NsKind::User),
            net: host.get(NsKind::Net),
            mnt: host.get(NsKind::Mnt),
            pid: host.get(NsKind::Pid),
        },
        degradations,
    }
}

/// What the self-test of the runtime found missing, and AppArmor's default profile where that is.
pub(super) fn degradations(native: &NativeRuntime, apparmor: &Support) -> Vec<console::Degradation> {
    let profile = apparmor
        .lacking()
        .map(|message| console::Degradation { name: "apparmor.no_default_profile".into(), message });
    let tests = native.self_test().into_iter();
    tests
        .filter_map(|(what, failure)| {
            Some(console::Degradation {
                name: format!("runtime.no_{}", what.replace([' ', '-'], "_")),
                message: format!("no {what} on this machine: {}", failure?),
            })
        })
        .chain(profile)
        .collect()
}
