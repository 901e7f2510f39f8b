//! The rpcs this version carries out; [`super::services`] puts them on the wire.

use std::sync::Arc;

use sandboxd_api::cri;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::validate::{Host, pod_spec, resources};
use super::{ContainerService, CriError, Events, NodeReport, PodService, filter, info, translate};
use crate::image::ImageRoom;
use crate::pod::model::{Pod, PodState};
use crate::pod::{Limits, PodError};
use crate::stats::Stats;
use crate::streaming::Streaming;
use crate::telemetry::Telemetry;

/// The CRI version this is.
pub const API_VERSION: &str = "v1";
/// kubelet's own protocol version, which Version has always answered.
const KUBELET_API_VERSION: &str = "0.1.0";
/// Pods per message of StreamPodSandboxes: large ones (a kilobyte of labels each) stay far below the
/// 16 MiB of a message.
const STREAM_BATCH: usize = 128;

/// The endpoint: one value serves both services.
#[derive(Debug, Clone)]
pub struct Cri {
    pods: Arc<dyn PodService>,
    node: Arc<dyn NodeReport>,
    host: Arc<Host>,
    stats: Option<Stats>,
    events: Option<Events>,
    streaming: Option<Streaming>,
    pub(super) containers: Option<Arc<dyn ContainerService>>,
    pub(super) images: Option<ImageRoom>,
    pub(super) telemetry: Telemetry,
    /// Rpcs that change pods and are not finished.
    changes: TaskTracker,
}

impl Cri {
    #[must_use]
    pub fn new(pods: Arc<dyn PodService>, node: Arc<dyn NodeReport>, host: Host) -> Self {
        Self {
            pods,
            node,
            host: Arc::new(host),
            stats: None,
            events: None,
            containers: None,
            images: None,
            streaming: None,
            telemetry: Telemetry::default(),
            changes: TaskTracker::new(),
        }
    }

    /// With the rpcs of statistics, which answer UNIMPLEMENTED otherwise.
    #[must_use]
    pub fn with_stats(self, stats: Stats) -> Self {
        Self { stats: Some(stats), ..self }
    }

    /// With GetContainerEvents, which answers UNIMPLEMENTED otherwise.
    #[must_use]
    pub fn with_events(self, events: Events) -> Self {
        Self { events: Some(events), ..self }
    }

    /// With the rpcs on containers, which answer UNIMPLEMENTED otherwise.
    #[must_use]
    pub fn with_containers(self, containers: Arc<dyn ContainerService>) -> Self {
        Self { containers: Some(containers), ..self }
    }

    /// With the rpcs on images, which answer UNIMPLEMENTED otherwise.
    #[must_use]
    pub fn with_images(self, images: ImageRoom) -> Self {
        Self { images: Some(images), ..self }
    }

    /// With Exec, Attach and PortForward, which answer UNIMPLEMENTED otherwise.
    #[must_use]
    pub fn with_streaming(self, streaming: Streaming) -> Self {
        Self { streaming: Some(streaming), ..self }
    }

    /// Measured there.
    #[must_use]
    pub fn with_telemetry(self, telemetry: Telemetry) -> Self {
        Self { telemetry, ..self }
    }

    pub(super) fn streaming(&self, rpc: &'static str) -> Result<&Streaming, CriError> {
        self.streaming.as_ref().ok_or(CriError::Unimplemented { rpc })
    }

    pub(super) fn events(&self) -> Result<&Events, CriError> {
        self.events.as_ref().ok_or(CriError::Unimplemented { rpc: "GetContainerEvents" })
    }

    pub(super) fn stats(&self, rpc: &'static str) -> Result<&Stats, CriError> {
        self.stats.as_ref().ok_or(CriError::Unimplemented { rpc })
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    /// Held for as long as an rpc that changes something has no answer.
    pub(super) fn in_flight(&self) -> TaskTrackerToken {
        self.changes.token()
    }

    pub(super) fn list_pods(&self) -> Vec<Arc<Pod>> {
        self.pods.list()
    }

    /// A pod that CRI shows.
    pub(super) fn find_pod(&self, id: &str) -> Result<Option<Arc<Pod>>, CriError> {
        Ok(self.pods.find(given(id)?)?.filter(|pod| translate::shown(pod.state)))
    }

    /// Waits until no rpc that changes a pod is in flight. Connections do not count: a client that only
    /// holds one open would keep the daemon from ending.
    pub async fn idle(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    pub(super) fn version(&self) -> cri::VersionResponse {
        cri::VersionResponse {
            version: KUBELET_API_VERSION.to_owned(),
            runtime_name: "sandboxd".to_owned(),
            runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
            runtime_api_version: API_VERSION.to_owned(),
        }
    }

    pub(super) fn status(&self, request: &cri::StatusRequest) -> cri::StatusResponse {
        let network = self.node.network();
        let conditions = vec![
            // Who answers is ready: what could not be built ended the start.
            cri::RuntimeCondition { r#type: "RuntimeReady".to_owned(), status: true, ..Default::default() },
            cri::RuntimeCondition {
                r#type: "NetworkReady".to_owned(),
                status: network.ready,
                reason: network.reason,
                message: network.message,
            },
        ];
        cri::StatusResponse {
            status: Some(cri::RuntimeStatus { conditions }),
            info: if request.verbose { info::node(&*self.node) } else { Default::default() },
            runtime_handlers: self.handlers(),
            features: Some(cri::RuntimeFeatures {
                supplemental_groups_policy: true,
                // KEP-5607 wants a bind mount of the host's /sys; refused here by name.
                user_namespaces_host_network: false,
                mount_options: true,
            }),
        }
    }

    /// Every handler, and the default once more under "": no feature is true that was not seen to work.
    fn handlers(&self) -> Vec<cri::RuntimeHandler> {
        let all = self.node.handlers();
        let default = all.get_key_value(self.node.default_handler()).map(|(_, report)| ("", report));
        let named = all.iter().map(|(name, report)| (name.as_str(), report));
        default
            .into_iter()
            .chain(named)
            .map(|(name, report)| cri::RuntimeHandler {
                name: name.to_owned(),
                features: Some(cri::RuntimeHandlerFeatures {
                    recursive_read_only_mounts: report.features.recursive_read_only_mounts,
                    user_namespaces: report.features.user_namespaces,
                }),
            })
            .collect()
    }

    pub(super) fn runtime_config(&self) -> cri::RuntimeConfigResponse {
        let cgroup_driver = self.node.cgroup_driver().into();
        cri::RuntimeConfigResponse { linux: Some(cri::LinuxRuntimeConfiguration { cgroup_driver }) }
    }

    pub(super) fn update_runtime_config(&self, request: cri::UpdateRuntimeConfigRequest) {
        let network = request.runtime_config.and_then(|c| c.network_config).unwrap_or_default();
        self.node.set_pod_cidr(&network.pod_cidr);
    }

    pub(super) async fn run(&self, request: cri::RunPodSandboxRequest) -> Result<String, CriError> {
        let _in_flight = self.changes.token();
        let handler = self.handler(&request.runtime_handler)?;
        let config = request.config.unwrap_or_default();
        let spec = pod_spec(config, handler, request.runtime_handler, &self.host)?;
        Ok(self.pods.run(spec).await?.to_string())
    }

    /// The pod that a RunPodSandbox made, or the one it failed at.
    pub(super) fn made(&self, id: Option<&str>, asked: Option<&cri::PodSandboxMetadata>) -> Option<Arc<Pod>> {
        if let Some(id) = id {
            return self.pods.find(id).ok().flatten();
        }
        let asked = asked?;
        let is_it = |pod: &Arc<Pod>| {
            let own = &pod.spec.metadata;
            pod.state == PodState::Failed
                && (&own.name, &own.namespace, &own.uid, own.attempt)
                    == (&asked.name, &asked.namespace, &asked.uid, asked.attempt)
        };
        // The oldest first: the last try is the one.
        self.pods.list().into_iter().rev().find(is_it)
    }

    /// The configured name behind a `runtime_handler`.
    fn handler(&self, asked: &str) -> Result<String, CriError> {
        let name = if asked.is_empty() { self.node.default_handler() } else { asked };
        if self.node.handlers().contains_key(name) {
            return Ok(name.to_owned());
        }
        let known = self.node.handlers().keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        Err(PodError::UnknownHandler { handler: name.to_owned(), known }.into())
    }

    pub(super) async fn stop(&self, id: &str) -> Result<(), CriError> {
        let _in_flight = self.changes.token();
        // Its containers first: the pod's network may be given away the moment it is stopped.
        if let (Some(containers), Some(pod)) = (&self.containers, self.pods.find(given(id)?)?) {
            containers.stop_pod(&pod.id).await?;
        }
        Ok(self.pods.stop(given(id)?).await?)
    }

    pub(super) async fn remove(&self, id: &str) -> Result<(), CriError> {
        let _in_flight = self.changes.token();
        if let (Some(containers), Some(pod)) = (&self.containers, self.pods.find(given(id)?)?) {
            containers.stop_pod(&pod.id).await?;
            // The pod's end is their end, also where one was made meanwhile.
            self.pods.stop(given(id)?).await?;
            containers.remove_pod(&pod.id).await?;
        }
        Ok(self.pods.remove(given(id)?).await?)
    }

    pub(super) async fn update_pod(
        &self,
        request: cri::UpdatePodSandboxResourcesRequest,
    ) -> Result<(), CriError> {
        let _in_flight = self.changes.token();
        let id = given(&request.pod_sandbox_id)?;
        if self.find_pod(id)?.is_none() {
            return Err(CriError::NoPod { id: id.to_owned() });
        }
        let limits = Limits {
            resources: resources("resources", request.resources)?,
            overhead: resources("overhead", request.overhead)?,
        };
        Ok(self.pods.update(id, limits).await?)
    }

    pub(super) fn pod_status(
        &self,
        request: &cri::PodSandboxStatusRequest,
    ) -> Result<cri::PodSandboxStatusResponse, CriError> {
        let id = given(&request.pod_sandbox_id)?;
        let Some(pod) = self.find_pod(id)? else { return Err(CriError::NoPod { id: id.to_owned() }) };
        Ok(cri::PodSandboxStatusResponse {
            status: Some(translate::status(&pod)),
            info: if request.verbose { info::pod(&pod) } else { Default::default() },
            containers_statuses: self.statuses_of(&pod.id),
            timestamp: now_ns(),
        })
    }

    pub(super) fn list(&self, filter: Option<cri::PodSandboxFilter>) -> Result<Vec<Arc<Pod>>, CriError> {
        Ok(filter::filter(self.pods.list(), filter)?)
    }

    /// The same as a list, in messages of one or more pods; none for no pods.
    pub(super) fn batches(
        &self,
        filter: Option<cri::PodSandboxFilter>,
    ) -> Result<impl Iterator<Item = cri::StreamPodSandboxesResponse> + Send + use<>, CriError> {
        let mut pods = self.list(filter)?.into_iter();
        Ok(std::iter::from_fn(move || {
            let pod_sandboxes: Vec<_> =
                pods.by_ref().take(STREAM_BATCH).map(|pod| translate::item(&pod)).collect();
            (!pod_sandboxes.is_empty()).then_some(cri::StreamPodSandboxesResponse { pod_sandboxes })
        }))
    }
}

/// An empty id would be a prefix of every id.
fn given(id: &str) -> Result<&str, CriError> {
    if id.is_empty() { Err(CriError::NoId) } else { Ok(id) }
}

pub(super) fn now_ns() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
