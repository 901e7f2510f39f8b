//! The node as the CRI reports it, put together from the rooms.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use sandboxd_api::cri;
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::config::{CgroupDriver, Config};
use crate::cri::{HandlerReport, NodeReport};
use crate::network::NetworkStatus;

/// Answers for all rooms.
#[derive(Debug)]
pub struct Node {
    pub config: Config,
    pub handlers: BTreeMap<String, HandlerReport>,
    pub network: watch::Receiver<NetworkStatus>,
    pub pod_cidr: Mutex<String>,
}

impl Node {
    fn pod_cidr(&self) -> std::sync::MutexGuard<'_, String> {
        self.pod_cidr.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// systemd is PID 1 exactly when this is there (sd_booted(3)).
pub fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// What `auto` means here.
pub fn resolve(driver: CgroupDriver) -> cri::CgroupDriver {
    match driver {
        CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
        CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
        CgroupDriver::Auto if systemd_runs() => cri::CgroupDriver::Systemd,
        CgroupDriver::Auto => cri::CgroupDriver::Cgroupfs,
    }
}

impl NodeReport for Node {
    fn network(&self) -> NetworkStatus {
        self.network.borrow().clone()
    }

    fn cgroup_driver(&self) -> cri::CgroupDriver {
        resolve(self.config.cgroup.driver)
    }

    fn handlers(&self) -> &BTreeMap<String, HandlerReport> {
        &self.handlers
    }

    fn default_handler(&self) -> &str {
        &self.config.default_handler
    }

    fn info(&self) -> BTreeMap<&'static str, Value> {
        let config = serde_json::to_value(&self.config).unwrap_or(Value::Null);
        BTreeMap::from([("config", config), ("podCidr", json!(*self.pod_cidr()))])
    }

    fn set_pod_cidr(&self, cidr: &str) {
        if *self.pod_cidr() != cidr {
            tracing::info!(cidr, "kubelet gave the pods' address range");
            cidr.clone_into(&mut self.pod_cidr());
        }
    }
}
