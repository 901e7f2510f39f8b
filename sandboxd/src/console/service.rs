//! The rpcs of the console protocol.

use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console as api;
use sandboxd_api::console::console_server::{Console, ConsoleServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::events::EventFilter;
use super::{Sources, capabilities, namespaces, usage, watch, wire};
use crate::cri::CriError;
use crate::observer::CheckFilter;
use crate::pod::model::Pod;

/// Checks in a snapshot, where the client asks for no number.
const RECENT: usize = 256;
/// Checks in a list, where the client asks for no number, and at the most.
const LIST_DEFAULT: usize = 1_000;
const LIST_MOST: usize = 100_000;
/// Messages on their way to one client.
const IN_FLIGHT: usize = 64;

/// The console service over these sources.
#[must_use]
pub fn server(sources: Arc<Sources>) -> ConsoleServer<impl Console> {
    ConsoleServer::new(Service { sources }).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

#[derive(Debug)]
struct Service {
    sources: Arc<Sources>,
}

impl Service {
    fn pod(&self, id: &str) -> Result<Arc<Pod>, Status> {
        let pod = self.sources.pods.find(id).map_err(CriError::Pod)?;
        pod.ok_or_else(|| Status::not_found(format!("no pod has the id {id:?}: list the pods for their ids")))
    }

    /// `None`: all.
    fn pod_or_all(&self, id: &str) -> Result<Option<Arc<Pod>>, Status> {
        if id.is_empty() { Ok(None) } else { self.pod(id).map(Some) }
    }
}

/// How many of a list a client gets.
fn limit(asked: u32) -> usize {
    if asked == 0 { LIST_DEFAULT } else { (asked as usize).min(LIST_MOST) }
}

#[tonic::async_trait]
impl Console for Service {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<api::WatchResponse, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let recent = match request.into_inner().recent_checks {
            0 => RECENT,
            n => (n as usize).min(LIST_MOST),
        };
        let (out, stream) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(watch::feed(Arc::clone(&self.sources), recent, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_checks(
        &self,
        request: Request<api::ListChecksRequest>,
    ) -> Result<Response<api::ListChecksResponse>, Status> {
        let request = request.into_inner();
        let pod = self.pod_or_all(&request.pod_id)?.map(|pod| pod.id.to_string());
        let filter = CheckFilter {
            pod,
            denied_only: request.denied_only,
            after_seq: request.after_seq,
            reason: (!request.reason.is_empty()).then_some(request.reason),
            pid: (request.pid != 0).then_some(request.pid),
            limit: limit(request.limit),
        };
        let checks = self.sources.observer.history(&filter).iter().map(|c| self.sources.check(c)).collect();
        Ok(Response::new(api::ListChecksResponse { checks, forgotten: self.sources.observer.forgotten() }))
    }

    async fn explain_check(
        &self,
        request: Request<api::ExplainCheckRequest>,
    ) -> Result<Response<api::ExplainCheckResponse>, Status> {
        let seq = request.into_inner().seq;
        let check = self.sources.observer.check(seq).ok_or_else(|| {
            Status::not_found(format!(
                "check {seq} is not recorded: {} older ones are forgotten",
                self.sources.observer.forgotten()
            ))
        })?;
        let explanation = self.sources.observer.explain(seq).map(Into::into);
        Ok(Response::new(api::ExplainCheckResponse { check: Some(self.sources.check(&check)), explanation }))
    }

    async fn get_timeline(
        &self,
        request: Request<api::GetTimelineRequest>,
    ) -> Result<Response<api::GetTimelineResponse>, Status> {
        let pod = self.pod(&request.into_inner().pod_id)?;
        let timeline = Some(wire::timeline(pod.flow, &pod.steps));
        Ok(Response::new(api::GetTimelineResponse { timeline }))
    }

    async fn doctor(&self, _: Request<api::DoctorRequest>) -> Result<Response<api::DoctorResponse>, Status> {
        let sources = Arc::clone(&self.sources);
        let checks = tokio::task::spawn_blocking(move || sources.doctor())
            .await
            .map_err(|e| Status::internal(format!("the preflight checks did not end: {e}")))?;
        Ok(Response::new(api::DoctorResponse { checks }))
    }

    async fn list_namespaces(
        &self,
        request: Request<api::ListNamespacesRequest>,
    ) -> Result<Response<api::ListNamespacesResponse>, Status> {
        let sources = Arc::clone(&self.sources);
        let listed = tokio::task::spawn_blocking(move || namespaces::list(&sources, request.get_ref()));
        let listed = listed.await.map_err(|e| Status::internal(format!("reading /proc did not end: {e}")))?;
        listed.map(Response::new)
    }

    async fn list_capabilities(
        &self,
        request: Request<api::ListCapabilitiesRequest>,
    ) -> Result<Response<api::ListCapabilitiesResponse>, Status> {
        let sources = Arc::clone(&self.sources);
        let listed = tokio::task::spawn_blocking(move || capabilities::list(&sources, request.get_ref()));
        let listed =
            listed.await.map_err(|e| Status::internal(format!("reading the counts did not end: {e}")))?;
        listed.map(Response::new)
    }

    async fn get_usage(
        &self,
        request: Request<api::GetUsageRequest>,
    ) -> Result<Response<api::GetUsageResponse>, Status> {
        let pod = self.pod_or_all(&request.get_ref().pod_id)?;
        Ok(Response::new(usage::usage(&self.sources, pod).await))
    }

    async fn list_events(
        &self,
        request: Request<api::ListEventsRequest>,
    ) -> Result<Response<api::ListEventsResponse>, Status> {
        let request = request.into_inner();
        // A pod that is gone has events all the same: its whole id is taken as it is.
        let pod = match request.pod_id.as_str() {
            "" => None,
            id => Some(self.pod(id).map_or_else(|_| id.to_owned(), |pod| pod.id.to_string())),
        };
        let filter = EventFilter { pod, after_seq: request.after_seq, limit: limit(request.limit) };
        let (events, forgotten) = self.sources.events.list(&filter);
        Ok(Response::new(api::ListEventsResponse { events, forgotten }))
    }

    type ReadLogStream = Pin<Box<dyn Stream<Item = Result<api::ReadLogResponse, Status>> + Send>>;

    async fn read_log(
        &self,
        _: Request<api::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        Err(Status::unimplemented("ReadLog is not built yet"))
    }

    async fn stop_container(
        &self,
        _: Request<api::StopContainerRequest>,
    ) -> Result<Response<api::StopContainerResponse>, Status> {
        Err(Status::unimplemented("StopContainer is not built yet"))
    }

    async fn remove_container(
        &self,
        _: Request<api::RemoveContainerRequest>,
    ) -> Result<Response<api::RemoveContainerResponse>, Status> {
        Err(Status::unimplemented("RemoveContainer is not built yet"))
    }

    type ExecStream = Pin<Box<dyn Stream<Item = Result<api::ExecResponse, Status>> + Send>>;

    async fn exec(
        &self,
        _: Request<tonic::Streaming<api::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("Exec is not built yet"))
    }

    async fn stop_pod(
        &self,
        request: Request<api::StopPodRequest>,
    ) -> Result<Response<api::StopPodResponse>, Status> {
        let pod = self.pod(&request.into_inner().pod_id)?;
        self.sources.pods.stop(pod.id.as_str()).await.map_err(CriError::Pod)?;
        Ok(Response::new(api::StopPodResponse {}))
    }

    async fn remove_pod(
        &self,
        request: Request<api::RemovePodRequest>,
    ) -> Result<Response<api::RemovePodResponse>, Status> {
        let pod = self.pod(&request.into_inner().pod_id)?;
        self.sources.pods.remove(pod.id.as_str()).await.map_err(CriError::Pod)?;
        Ok(Response::new(api::RemovePodResponse {}))
    }
}
