//! The rpcs on containers: checked, translated, handed to the container room.

use std::sync::Arc;
use std::time::Duration;

use sandboxd_api::cri;

use super::container_translate as translate;
use super::validate::{Invalid, Why, changed_resources, container_spec};
use super::{ContainerService, Cri, CriError};
use crate::container::exec::ExecOutput;
use crate::container::model::Container;
use crate::pod::model::PodId;

/// Containers per message of StreamContainers: a few kilobytes of labels each stay far below 16 MiB.
pub(super) const STREAM_BATCH: usize = 128;
/// Longer than a year: a grace period of that length is none that ends.
const GRACE_MAX: u64 = 365 * 24 * 3600;

impl Cri {
    fn containers(&self, rpc: &'static str) -> Result<&Arc<dyn ContainerService>, CriError> {
        self.containers.as_ref().ok_or(CriError::Unimplemented { rpc })
    }

    pub(super) async fn create_container(
        &self,
        request: cri::CreateContainerRequest,
    ) -> Result<cri::CreateContainerResponse, CriError> {
        let _in_flight = self.in_flight();
        let containers = self.containers("CreateContainer")?;
        let id = request.pod_sandbox_id;
        if id.is_empty() {
            return Err(CriError::NoId);
        }
        let Some(pod) = self.find_pod(&id)? else { return Err(CriError::NoPod { id }) };
        let config = request.config.ok_or_else(|| missing("config"))?;
        let spec = container_spec(config, &pod, self.host())?;
        let container_id = containers.create(pod, spec).await?.to_string();
        Ok(cri::CreateContainerResponse { container_id })
    }

    pub(super) async fn start_container(&self, id: &str) -> Result<(), CriError> {
        let _in_flight = self.in_flight();
        Ok(self.containers("StartContainer")?.start(given(id)?).await?)
    }

    pub(super) async fn stop_container(&self, id: &str, timeout: i64) -> Result<(), CriError> {
        let _in_flight = self.in_flight();
        let seconds = u64::try_from(timeout).unwrap_or(0).min(GRACE_MAX);
        Ok(self.containers("StopContainer")?.stop(given(id)?, Duration::from_secs(seconds)).await?)
    }

    pub(super) async fn remove_container(&self, id: &str) -> Result<(), CriError> {
        let _in_flight = self.in_flight();
        Ok(self.containers("RemoveContainer")?.remove(given(id)?).await?)
    }

    pub(super) fn list_containers(
        &self,
        rpc: &'static str,
        filter: Option<cri::ContainerFilter>,
    ) -> Result<Vec<cri::Container>, CriError> {
        let kept = kept(self.containers(rpc)?.list(), filter.unwrap_or_default())?;
        Ok(kept.iter().map(|container| translate::item(container)).collect())
    }

    pub(super) fn container_status(
        &self,
        request: &cri::ContainerStatusRequest,
    ) -> Result<cri::ContainerStatusResponse, CriError> {
        let containers = self.containers("ContainerStatus")?;
        let container = find(&**containers, &request.container_id)?;
        let info = || {
            let pod = self.find_pod(container.pod.as_str()).ok().flatten();
            let handler = pod.as_ref().map(|pod| pod.spec.handler.as_str());
            translate::info(&container, handler, containers.runtime_spec(&container.id).as_ref())
        };
        Ok(cri::ContainerStatusResponse {
            status: Some(translate::status(&container)),
            info: if request.verbose { info() } else { Default::default() },
        })
    }

    /// The statuses of a pod's containers; none where containers are not served.
    pub(super) fn statuses_of(&self, pod: &PodId) -> Vec<cri::ContainerStatus> {
        self.containers
            .as_ref()
            .map(|containers| translate::statuses(containers.list(), pod))
            .unwrap_or_default()
    }

    pub(super) async fn update_container_resources(
        &self,
        request: cri::UpdateContainerResourcesRequest,
    ) -> Result<(), CriError> {
        let _in_flight = self.in_flight();
        let containers = self.containers("UpdateContainerResources")?;
        let container = find(&**containers, &request.container_id)?;
        if request.windows.is_some() {
            return Err(Invalid::new("windows", "set", Why::Windows).into());
        }
        let limits = changed_resources("linux", request.linux)?;
        Ok(containers.update(container.id.as_str(), limits).await?)
    }

    pub(super) async fn reopen_container_log(&self, id: &str) -> Result<(), CriError> {
        let _in_flight = self.in_flight();
        Ok(self.containers("ReopenContainerLog")?.reopen_log(given(id)?).await?)
    }

    pub(super) async fn exec_sync(
        &self,
        request: cri::ExecSyncRequest,
    ) -> Result<cri::ExecSyncResponse, CriError> {
        let containers = self.containers("ExecSync")?;
        let container = find(&**containers, &request.container_id)?;
        if request.cmd.is_empty() {
            return Err(missing("cmd").into());
        }
        let seconds = u64::try_from(request.timeout).unwrap_or(0).min(GRACE_MAX);
        let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
        let ExecOutput { stdout, stderr, exit_code } =
            containers.exec_sync(container.id.as_str(), request.cmd, timeout).await?;
        Ok(cri::ExecSyncResponse { stdout, stderr, exit_code })
    }
}

fn missing(field: &'static str) -> Invalid {
    Invalid::new(field, "", Why::Missing)
}

/// An empty id would be a prefix of every id.
fn given(id: &str) -> Result<&str, CriError> {
    if id.is_empty() { Err(CriError::NoContainerId) } else { Ok(id) }
}

fn find(containers: &dyn ContainerService, id: &str) -> Result<Arc<Container>, CriError> {
    containers.find(given(id)?)?.ok_or_else(|| CriError::NoContainer { id: id.to_owned() })
}

/// The containers a filter keeps, in their order: everything set in it must hold. Ids are prefixes; one that
/// several containers share keeps none, as it names no container.
fn kept(mut all: Vec<Arc<Container>>, filter: cri::ContainerFilter) -> Result<Vec<Arc<Container>>, CriError> {
    let cri::ContainerFilter { id, state, pod_sandbox_id, label_selector } = filter;
    let wanted = match state {
        None => None,
        Some(value) => Some(
            cri::ContainerState::try_from(value.state)
                .map_err(|_| Invalid::new("filter.state.state", value.state, Why::UnknownEnum))?,
        ),
    };
    if !id.is_empty() {
        let exact = all.iter().any(|c| c.id.as_str() == id);
        all.retain(|c| if exact { c.id.as_str() == id } else { c.id.as_str().starts_with(&id) });
        if all.len() > 1 {
            all.clear();
        }
    }
    all.retain(|c| {
        (pod_sandbox_id.is_empty() || c.pod.as_str().starts_with(&pod_sandbox_id))
            && wanted.is_none_or(|wanted| translate::state(c.state) == wanted)
            && label_selector.iter().all(|(key, value)| c.spec.labels.get(key) == Some(value))
    });
    Ok(all)
}
