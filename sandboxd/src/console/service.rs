//! The rpcs of the console protocol.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console as api;
use sandboxd_api::console::console_server::{Console, ConsoleServer};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::access::Caller;
use super::events::EventFilter;
use super::log::{self, Log, Wanted};
use super::{Sources, capabilities, exec, namespaces, usage, watch, wire};
use crate::container::model::Container;
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

/// A stream of answers.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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

    fn container(&self, id: &str) -> Result<Arc<Container>, Status> {
        let container = self.sources.containers.store().find(id).map_err(CriError::Container)?;
        container.ok_or_else(|| {
            Status::not_found(format!("no container has the id {id:?}: list the containers for their ids"))
        })
    }

    /// Whoever may do this.
    fn operator<T>(
        &self,
        action: &'static str,
        object: &str,
        request: &Request<T>,
    ) -> Result<Caller, Status> {
        let caller = self.sources.operators.caller(request.extensions());
        caller.must_act(action, object)?;
        Ok(caller)
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
    type WatchStream = Answers<api::WatchResponse>;

    async fn watch(
        &self,
        request: Request<api::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let access = self.sources.operators.caller(request.extensions()).access();
        let recent = match request.into_inner().recent_checks {
            0 => RECENT,
            n => (n as usize).min(LIST_MOST),
        };
        let (out, stream) = mpsc::channel(IN_FLIGHT);
        tokio::spawn(watch::feed(Arc::clone(&self.sources), recent, access, out));
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

    type ReadLogStream = Answers<api::ReadLogResponse>;

    async fn read_log(
        &self,
        request: Request<api::ReadLogRequest>,
    ) -> Result<Response<Self::ReadLogStream>, Status> {
        let api::ReadLogRequest { container_id, follow, tail_lines, since_ns } = request.into_inner();
        let container = self.container(&container_id)?;
        let place = self.sources.containers.log_place(&container).map_err(CriError::Container)?;
        let place = place.ok_or_else(|| {
            let name = &container.spec.metadata.name;
            Status::failed_precondition(format!(
                "container {name:?} has no log: it was made without a log_path"
            ))
        })?;
        let log = Log::open(place, Wanted { follow, tail_lines, since_ns }).await?;
        let (out, stream) = mpsc::channel(log::IN_FLIGHT);
        let (sources, id) = (Arc::clone(&self.sources), container.id.to_string());
        let ended = move || {
            let container = sources.containers.store().find(&id).ok().flatten();
            container.is_none_or(|container| container.ended.is_some())
        };
        tokio::spawn(log.send(ended, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    type ExecStream = Answers<api::ExecResponse>;

    async fn exec(
        &self,
        request: Request<tonic::Streaming<api::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let caller = self.operator("Exec", "a container", &request)?;
        let mut asked = request.into_inner();
        let start = exec::first(&mut asked).await?;
        let container = self.container(&start.container_id)?;
        let object = format!("{}: {}", self.sources.named_container(&container), exec::command_line(&start));
        let started = exec::start(&self.sources.targets, &container.id, &start).await;
        caller.audit("Exec", &object, &started);
        let (out, stream) = mpsc::channel(exec::IN_FLIGHT);
        let closing = self.sources.closing.clone();
        self.sources.acts.spawn(started?.serve(asked, caller, object, closing, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn stop_container(
        &self,
        request: Request<api::StopContainerRequest>,
    ) -> Result<Response<api::StopContainerResponse>, Status> {
        let caller = self.operator("StopContainer", &request.get_ref().container_id, &request)?;
        let request = request.into_inner();
        let container = self.container(&request.container_id)?;
        let grace = Duration::from_secs(request.timeout_s.into());
        self.sources.stop_container(caller, container, grace).await.map(Response::new)
    }

    async fn remove_container(
        &self,
        request: Request<api::RemoveContainerRequest>,
    ) -> Result<Response<api::RemoveContainerResponse>, Status> {
        let caller = self.operator("RemoveContainer", &request.get_ref().container_id, &request)?;
        let container = self.container(&request.get_ref().container_id)?;
        self.sources.remove_container(caller, container).await.map(Response::new)
    }

    async fn stop_pod(
        &self,
        request: Request<api::StopPodRequest>,
    ) -> Result<Response<api::StopPodResponse>, Status> {
        let caller = self.operator("StopPod", &request.get_ref().pod_id, &request)?;
        let pod = self.pod(&request.get_ref().pod_id)?;
        self.sources.stop_pod(caller, pod).await.map(Response::new)
    }

    async fn remove_pod(
        &self,
        request: Request<api::RemovePodRequest>,
    ) -> Result<Response<api::RemovePodResponse>, Status> {
        let caller = self.operator("RemovePod", &request.get_ref().pod_id, &request)?;
        let pod = self.pod(&request.get_ref().pod_id)?;
        self.sources.remove_pod(caller, pod).await.map(Response::new)
    }
}
