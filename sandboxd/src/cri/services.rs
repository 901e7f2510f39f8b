//! Both services of `runtime.v1` on the wire: the rpcs of [`Cri`], and UNIMPLEMENTED by name for the rest.

use std::pin::Pin;

use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::cri::image_service_server::ImageServiceServer;
use sandboxd_api::cri::runtime_service_server::{RuntimeService, RuntimeServiceServer};
use sandboxd_api::cri::*;
use tokio_stream::Stream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tonic::{Request, Response, Status};

use super::stats::batches;
use super::{Cri, CriError, translate};
use crate::telemetry::Rpc;

pub(super) type Answer<T> = Result<Response<T>, Status>;
pub(super) type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Cri {
    /// Both services, ready to be served.
    #[must_use]
    pub fn router(self) -> Router {
        let runtime = RuntimeServiceServer::new(self.clone())
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        let image = ImageServiceServer::new(self)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        Server::builder().add_service(runtime).add_service(image)
    }
}

/// An impl of a service: what is written out, then the rpcs that answer UNIMPLEMENTED.
macro_rules! service {
    (
        impl $service:ident { $($written:tt)* }
        unimplemented { $($rpc:literal $method:ident($request:ident) -> $response:ty;)* }
    ) => {
        #[tonic::async_trait]
        impl $service for Cri {
            $($written)*
            $(
                async fn $method(&self, _: Request<$request>) -> Answer<$response> {
                    Err(CriError::Unimplemented { rpc: $rpc }.into())
                }
            )*
        }
    };
}

service! {
    impl RuntimeService {
        type StreamPodSandboxesStream = Streamed<StreamPodSandboxesResponse>;
        type StreamContainerStatsStream = Streamed<StreamContainerStatsResponse>;
        type StreamPodSandboxStatsStream = Streamed<StreamPodSandboxStatsResponse>;
        type GetContainerEventsStream = Streamed<ContainerEventResponse>;
        type StreamPodSandboxMetricsStream = Streamed<StreamPodSandboxMetricsResponse>;

        type StreamContainersStream = Streamed<StreamContainersResponse>;

        async fn create_container(
            &self,
            request: Request<CreateContainerRequest>,
        ) -> Answer<CreateContainerResponse> {
            let (metadata, _, request) = request.into_parts();
            let mut call = self.telemetry.begin(Rpc::CreateContainer, &metadata);
            call.about_container(&request);
            let answer = Cri::create_container(self, request).await;
            if let Ok(made) = &answer {
                call.note("container.id", || made.container_id.clone());
            }
            Ok(Response::new(call.end(answer)?))
        }

        async fn start_container(
            &self,
            request: Request<StartContainerRequest>,
        ) -> Answer<StartContainerResponse> {
            let mut call = self.telemetry.begin(Rpc::StartContainer, request.metadata());
            let id = &request.get_ref().container_id;
            call.note("container.id", || id.clone());
            call.end(Cri::start_container(self, id).await)?;
            Ok(Response::new(StartContainerResponse {}))
        }

        async fn stop_container(
            &self,
            request: Request<StopContainerRequest>,
        ) -> Answer<StopContainerResponse> {
            let (metadata, _, StopContainerRequest { container_id, timeout }) = request.into_parts();
            let mut call = self.telemetry.begin(Rpc::StopContainer, &metadata);
            call.note("container.id", || container_id.clone());
            call.end(Cri::stop_container(self, &container_id, timeout).await)?;
            Ok(Response::new(StopContainerResponse {}))
        }

        async fn remove_container(
            &self,
            request: Request<RemoveContainerRequest>,
        ) -> Answer<RemoveContainerResponse> {
            let mut call = self.telemetry.begin(Rpc::RemoveContainer, request.metadata());
            let id = &request.get_ref().container_id;
            call.note("container.id", || id.clone());
            call.end(Cri::remove_container(self, id).await)?;
            Ok(Response::new(RemoveContainerResponse {}))
        }

        async fn list_containers(
            &self,
            request: Request<ListContainersRequest>,
        ) -> Answer<ListContainersResponse> {
            let containers = Cri::list_containers(self, "ListContainers", request.into_inner().filter)?;
            Ok(Response::new(ListContainersResponse { containers }))
        }

        async fn stream_containers(
            &self,
            request: Request<StreamContainersRequest>,
        ) -> Answer<Streamed<StreamContainersResponse>> {
            let mut all = Cri::list_containers(self, "StreamContainers", request.into_inner().filter)?.into_iter();
            let batches = std::iter::from_fn(move || {
                let containers: Vec<_> = all.by_ref().take(super::containers::STREAM_BATCH).collect();
                (!containers.is_empty()).then_some(Ok(StreamContainersResponse { containers }))
            });
            Ok(Response::new(Box::pin(tokio_stream::iter(batches))))
        }

        async fn container_status(
            &self,
            request: Request<ContainerStatusRequest>,
        ) -> Answer<ContainerStatusResponse> {
            Ok(Response::new(Cri::container_status(self, request.get_ref())?))
        }

        async fn update_container_resources(
            &self,
            request: Request<UpdateContainerResourcesRequest>,
        ) -> Answer<UpdateContainerResourcesResponse> {
            Cri::update_container_resources(self, request.into_inner()).await?;
            Ok(Response::new(UpdateContainerResourcesResponse {}))
        }

        async fn reopen_container_log(
            &self,
            request: Request<ReopenContainerLogRequest>,
        ) -> Answer<ReopenContainerLogResponse> {
            Cri::reopen_container_log(self, &request.get_ref().container_id).await?;
            Ok(Response::new(ReopenContainerLogResponse {}))
        }

        async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
            Ok(Response::new(Cri::exec_sync(self, request.into_inner()).await?))
        }

        async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
            Ok(Response::new(Cri::version(self)))
        }

        async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
            Ok(Response::new(Cri::status(self, request.get_ref())))
        }

        async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
            Ok(Response::new(Cri::runtime_config(self)))
        }

        async fn update_runtime_config(
            &self,
            request: Request<UpdateRuntimeConfigRequest>,
        ) -> Answer<UpdateRuntimeConfigResponse> {
            Cri::update_runtime_config(self, request.into_inner());
            Ok(Response::new(UpdateRuntimeConfigResponse {}))
        }

        async fn run_pod_sandbox(
            &self,
            request: Request<RunPodSandboxRequest>,
        ) -> Answer<RunPodSandboxResponse> {
            let (metadata, _, request) = request.into_parts();
            let mut call = self.telemetry.begin(Rpc::RunPodSandbox, &metadata);
            call.about_pod(&request);
            let asked = request.config.as_ref().and_then(|config| config.metadata.clone());
            let answer = self.run(request).await;
            if let Some(pod) = self.made(answer.as_deref().ok(), asked.as_ref()) {
                call.steps(&pod);
            }
            let pod_sandbox_id = call.end(answer)?;
            Ok(Response::new(RunPodSandboxResponse { pod_sandbox_id }))
        }

        async fn stop_pod_sandbox(
            &self,
            request: Request<StopPodSandboxRequest>,
        ) -> Answer<StopPodSandboxResponse> {
            let mut call = self.telemetry.begin(Rpc::StopPodSandbox, request.metadata());
            let id = &request.get_ref().pod_sandbox_id;
            call.note("sandboxd.pod.id", || id.clone());
            call.end(self.stop(id).await)?;
            Ok(Response::new(StopPodSandboxResponse {}))
        }

        async fn remove_pod_sandbox(
            &self,
            request: Request<RemovePodSandboxRequest>,
        ) -> Answer<RemovePodSandboxResponse> {
            let mut call = self.telemetry.begin(Rpc::RemovePodSandbox, request.metadata());
            let id = &request.get_ref().pod_sandbox_id;
            call.note("sandboxd.pod.id", || id.clone());
            call.end(self.remove(id).await)?;
            Ok(Response::new(RemovePodSandboxResponse {}))
        }

        async fn pod_sandbox_status(
            &self,
            request: Request<PodSandboxStatusRequest>,
        ) -> Answer<PodSandboxStatusResponse> {
            Ok(Response::new(self.pod_status(request.get_ref())?))
        }

        async fn list_pod_sandbox(
            &self,
            request: Request<ListPodSandboxRequest>,
        ) -> Answer<ListPodSandboxResponse> {
            let pods = self.list(request.into_inner().filter)?;
            let items = pods.iter().map(|pod| translate::item(pod)).collect();
            Ok(Response::new(ListPodSandboxResponse { items }))
        }

        async fn stream_pod_sandboxes(
            &self,
            request: Request<StreamPodSandboxesRequest>,
        ) -> Answer<Streamed<StreamPodSandboxesResponse>> {
            let batches = self.batches(request.into_inner().filter)?;
            Ok(Response::new(Box::pin(tokio_stream::iter(batches.map(Ok)))))
        }

        async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
            Ok(Response::new(ExecResponse { url: self.exec_url(request.into_inner())? }))
        }

        async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
            Ok(Response::new(AttachResponse { url: self.attach_url(request.get_ref())? }))
        }

        async fn port_forward(
            &self,
            request: Request<PortForwardRequest>,
        ) -> Answer<PortForwardResponse> {
            Ok(Response::new(PortForwardResponse { url: self.port_forward_url(request.get_ref())? }))
        }

        async fn update_pod_sandbox_resources(
            &self,
            request: Request<UpdatePodSandboxResourcesRequest>,
        ) -> Answer<UpdatePodSandboxResourcesResponse> {
            self.update_pod(request.into_inner()).await?;
            Ok(Response::new(UpdatePodSandboxResourcesResponse {}))
        }

        async fn get_container_events(
            &self,
            _: Request<GetEventsRequest>,
        ) -> Answer<Streamed<ContainerEventResponse>> {
            Ok(Response::new(self.events()?.stream()))
        }

        async fn container_stats(
            &self,
            request: Request<ContainerStatsRequest>,
        ) -> Answer<ContainerStatsResponse> {
            Ok(Response::new(Cri::container_stats(self, request.into_inner()).await?))
        }

        async fn list_container_stats(
            &self,
            request: Request<ListContainerStatsRequest>,
        ) -> Answer<ListContainerStatsResponse> {
            let stats = Cri::list_container_stats(self, "ListContainerStats", request.into_inner().filter).await?;
            Ok(Response::new(ListContainerStatsResponse { stats }))
        }

        async fn stream_container_stats(
            &self,
            request: Request<StreamContainerStatsRequest>,
        ) -> Answer<Streamed<StreamContainerStatsResponse>> {
            let all = Cri::list_container_stats(self, "StreamContainerStats", request.into_inner().filter).await?;
            let message = |container_stats| Ok(StreamContainerStatsResponse { container_stats });
            Ok(Response::new(Box::pin(tokio_stream::iter(batches(all, message)))))
        }

        async fn pod_sandbox_stats(
            &self,
            request: Request<PodSandboxStatsRequest>,
        ) -> Answer<PodSandboxStatsResponse> {
            Ok(Response::new(Cri::pod_sandbox_stats(self, request.into_inner()).await?))
        }

        async fn list_pod_sandbox_stats(
            &self,
            request: Request<ListPodSandboxStatsRequest>,
        ) -> Answer<ListPodSandboxStatsResponse> {
            let stats = Cri::list_pod_sandbox_stats(self, "ListPodSandboxStats", request.into_inner().filter).await?;
            Ok(Response::new(ListPodSandboxStatsResponse { stats }))
        }

        async fn stream_pod_sandbox_stats(
            &self,
            request: Request<StreamPodSandboxStatsRequest>,
        ) -> Answer<Streamed<StreamPodSandboxStatsResponse>> {
            let all = Cri::list_pod_sandbox_stats(self, "StreamPodSandboxStats", request.into_inner().filter).await?;
            let message = |pod_sandbox_stats| Ok(StreamPodSandboxStatsResponse { pod_sandbox_stats });
            Ok(Response::new(Box::pin(tokio_stream::iter(batches(all, message)))))
        }

        async fn list_metric_descriptors(
            &self,
            _: Request<ListMetricDescriptorsRequest>,
        ) -> Answer<ListMetricDescriptorsResponse> {
            Ok(Response::new(Cri::list_metric_descriptors(self)?))
        }

        async fn list_pod_sandbox_metrics(
            &self,
            _: Request<ListPodSandboxMetricsRequest>,
        ) -> Answer<ListPodSandboxMetricsResponse> {
            let pod_metrics = Cri::list_pod_sandbox_metrics(self, "ListPodSandboxMetrics").await?;
            Ok(Response::new(ListPodSandboxMetricsResponse { pod_metrics }))
        }

        async fn stream_pod_sandbox_metrics(
            &self,
            _: Request<StreamPodSandboxMetricsRequest>,
        ) -> Answer<Streamed<StreamPodSandboxMetricsResponse>> {
            let all = Cri::list_pod_sandbox_metrics(self, "StreamPodSandboxMetrics").await?;
            let message = |pod_sandbox_metrics| Ok(StreamPodSandboxMetricsResponse { pod_sandbox_metrics });
            Ok(Response::new(Box::pin(tokio_stream::iter(batches(all, message)))))
        }
    }
    unimplemented {
        "CheckpointContainer"
            checkpoint_container(CheckpointContainerRequest) -> CheckpointContainerResponse;
        "CheckpointPod" checkpoint_pod(CheckpointPodRequest) -> CheckpointPodResponse;
        "RestorePod" restore_pod(RestorePodRequest) -> RestorePodResponse;
    }
}
