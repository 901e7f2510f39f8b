//! What operators do: each is asked for by name, written down, and goes on when its client goes.

use std::sync::Arc;
use std::time::Duration;

use sandboxd_api::console as api;
use tonic::Status;

use super::Sources;
use super::access::Caller;
use crate::container::model::Container;
use crate::cri::{ContainerService, CriError};
use crate::pod::model::Pod;

impl Sources {
    /// Carries out what an operator asked for, and writes it down; the daemon's end waits for it.
    async fn carry_out<T: Send + 'static>(
        &self,
        caller: Caller,
        action: &'static str,
        object: String,
        work: impl Future<Output = Result<T, CriError>> + Send + 'static,
    ) -> Result<T, Status> {
        let done = self.acts.spawn(async move {
            let done = work.await.map_err(Status::from);
            caller.audit(action, &object, &done);
            done
        });
        done.await.unwrap_or_else(|error| Err(Status::internal(format!("{action} did not end: {error}"))))
    }

    pub(super) async fn stop_pod(
        &self,
        caller: Caller,
        pod: Arc<Pod>,
    ) -> Result<api::StopPodResponse, Status> {
        let (pods, containers) = (Arc::clone(&self.pods), Arc::clone(&self.containers));
        let object = named(&pod);
        let work = async move {
            // Its containers first: the pod's network may be given away the moment it is stopped.
            containers.stop_pod(&pod.id).await?;
            pods.stop(pod.id.as_str()).await?;
            Ok(api::StopPodResponse {})
        };
        self.carry_out(caller, "StopPod", object, work).await
    }

    pub(super) async fn remove_pod(
        &self,
        caller: Caller,
        pod: Arc<Pod>,
    ) -> Result<api::RemovePodResponse, Status> {
        let (pods, containers) = (Arc::clone(&self.pods), Arc::clone(&self.containers));
        let object = named(&pod);
        let work = async move {
            containers.stop_pod(&pod.id).await?;
            // The pod's end is their end, also where one was made meanwhile.
            pods.stop(pod.id.as_str()).await?;
            containers.remove_pod(&pod.id).await?;
            pods.remove(pod.id.as_str()).await?;
            Ok(api::RemovePodResponse {})
        };
        self.carry_out(caller, "RemovePod", object, work).await
    }

    pub(super) async fn stop_container(
        &self,
        caller: Caller,
        container: Arc<Container>,
        grace: Duration,
    ) -> Result<api::StopContainerResponse, Status> {
        let containers = Arc::clone(&self.containers);
        let object = self.named_container(&container);
        let work = async move {
            containers.stop(container.id.as_str(), grace).await?;
            Ok(api::StopContainerResponse {})
        };
        self.carry_out(caller, "StopContainer", object, work).await
    }

    pub(super) async fn remove_container(
        &self,
        caller: Caller,
        container: Arc<Container>,
    ) -> Result<api::RemoveContainerResponse, Status> {
        let containers = Arc::clone(&self.containers);
        let object = self.named_container(&container);
        let work = async move {
            containers.remove(container.id.as_str()).await?;
            Ok(api::RemoveContainerResponse {})
        };
        self.carry_out(caller, "RemoveContainer", object, work).await
    }

    /// As an audit line has it.
    pub(super) fn named_container(&self, container: &Container) -> String {
        let pod = self.pods.find(container.pod.as_str()).ok().flatten();
        let pod = pod.map_or_else(|| container.pod.short().to_owned(), |pod| named(&pod));
        format!("{pod}/{} ({})", container.spec.metadata.name, container.id.short())
    }
}

fn named(pod: &Pod) -> String {
    let metadata = &pod.spec.metadata;
    format!("{}/{} ({})", metadata.namespace, metadata.name, pod.id.short())
}
