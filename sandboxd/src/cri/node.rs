//! What Status and RuntimeConfig report of the node: answered by the rooms that know.

use std::collections::BTreeMap;

use sandboxd_api::cri::CgroupDriver;
use serde_json::Value;

use crate::config::Handler;
use crate::network::NetworkStatus;
use crate::runtime::HandlerFeatures;

/// A handler and what its runtime can do on this machine.
#[derive(Debug, Clone)]
pub struct HandlerReport {
    pub handler: Handler,
    pub features: HandlerFeatures,
}

/// The node as the endpoint reports it.
pub trait NodeReport: Send + Sync + std::fmt::Debug + 'static {
    fn network(&self) -> NetworkStatus;
    /// The driver in use, never "auto".
    fn cgroup_driver(&self) -> CgroupDriver;
    /// Every handler by name.
    fn handlers(&self) -> &BTreeMap<String, HandlerReport>;
    /// The name of the handler for an empty `runtime_handler`.
    fn default_handler(&self) -> &str;
    /// What verbose Status adds: config, observer, cgroup, degradations, each a JSON value.
    fn info(&self) -> BTreeMap<&'static str, Value>;
    /// UpdateRuntimeConfig: kubelet's pod CIDR, kept for what wants to know it.
    fn set_pod_cidr(&self, cidr: &str);
}
