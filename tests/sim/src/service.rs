//! The protocol's service.

use sandboxd_api::console::console_server::Console;
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::*;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::watch::Message;
use crate::{Shared, exec, unasked};

#[derive(Debug)]
pub(crate) struct Service {
    pub shared: Shared,
}

type Answer<T> = Result<Response<T>, Status>;

impl Service {
    /// Notes what was asked, and refuses whoever may not act.
    fn act(&self, what: &str, id: &str) -> Result<(), Status> {
        let mut state = self.shared.lock();
        state.acted.push(format!("{what} {id}"));
        let access = state.snapshot.access.clone().unwrap_or_default();
        if !access.may_act {
            return Err(Status::permission_denied(access.why_not));
        }
        match &state.failure {
            Some(words) => Err(Status::internal(words.clone())),
            None => Ok(()),
        }
    }

    fn container(&self, id: &str) -> Result<Container, Status> {
        let state = self.shared.lock();
        let found = state.snapshot.containers.iter().find(|one| one.id.starts_with(id));
        found.cloned().ok_or_else(|| Status::not_found(format!("no container {id}")))
    }

    fn containers_of(&self, pod: &str) -> Vec<Container> {
        let state = self.shared.lock();
        state.snapshot.containers.iter().filter(|one| one.pod_id == pod).cloned().collect()
    }

    fn end(&self, mut container: Container) {
        container.set_state(container::State::Exited);
        container.exit_code = 137;
        container.pid = 0;
        self.shared.change(&Change::Container(container));
    }
}

#[tonic::async_trait]
impl Console for Service {
    type WatchStream = ReceiverStream<Message>;

    async fn watch(&self, _: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let mut state = self.shared.lock();
        let crate::State { snapshot, watchers, .. } = &mut *state;
        Ok(Response::new(ReceiverStream::new(watchers.add(snapshot))))
    }

    async fn list_checks(&self, _: Request<ListChecksRequest>) -> Answer<ListChecksResponse> {
        let checks = self.shared.lock().snapshot.recent_checks.clone();
        Ok(Response::new(ListChecksResponse { checks, forgotten: 0 }))
    }

    async fn explain_check(&self, request: Request<ExplainCheckRequest>) -> Answer<ExplainCheckResponse> {
        let seq = request.into_inner().seq;
        let state = self.shared.lock();
        let node = state.snapshot.node.as_ref().map_or("", |node| node.name.as_str());
        let found = state.snapshot.recent_checks.iter().find(|check| check.seq == seq).cloned();
        let check = found.ok_or_else(|| Status::not_found(format!("check {seq} is no longer kept")))?;
        let explanation = Explanation {
            reason: check.reason.clone(),
            headline: format!("{node} simulated a denied mount"),
            fix: "nothing: it is not there".into(),
            ..Explanation::default()
        };
        Ok(Response::new(ExplainCheckResponse { check: Some(check), explanation: Some(explanation) }))
    }

    async fn get_timeline(&self, request: Request<GetTimelineRequest>) -> Answer<GetTimelineResponse> {
        let id = request.into_inner().pod_id;
        let state = self.shared.lock();
        let pod = state.snapshot.pods.iter().find(|pod| pod.id.starts_with(&id));
        let pod = pod.ok_or_else(|| Status::not_found(format!("no pod {id}")))?;
        Ok(Response::new(GetTimelineResponse { timeline: pod.timeline.clone() }))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Answer<DoctorResponse> {
        Ok(Response::new(DoctorResponse::default()))
    }

    async fn list_namespaces(&self, _: Request<ListNamespacesRequest>) -> Answer<ListNamespacesResponse> {
        Ok(Response::new(unasked::namespaces(&self.shared.lock().snapshot)))
    }

    async fn list_capabilities(
        &self,
        request: Request<ListCapabilitiesRequest>,
    ) -> Answer<ListCapabilitiesResponse> {
        let pod = request.into_inner().pod_id;
        Ok(Response::new(unasked::capabilities(&self.shared.lock().snapshot, &pod)))
    }

    async fn get_usage(&self, request: Request<GetUsageRequest>) -> Answer<GetUsageResponse> {
        let pod = request.into_inner().pod_id;
        Ok(Response::new(unasked::usage(&self.shared.lock().snapshot, &pod)))
    }

    async fn list_events(&self, request: Request<ListEventsRequest>) -> Answer<ListEventsResponse> {
        let after = request.into_inner().after_seq;
        let state = self.shared.lock();
        let events = state.snapshot.recent_events.iter().filter(|event| event.seq > after).cloned().collect();
        Ok(Response::new(ListEventsResponse { events, forgotten: 0 }))
    }

    type ReadLogStream = ReceiverStream<Result<ReadLogResponse, Status>>;

    async fn read_log(&self, request: Request<ReadLogRequest>) -> Answer<Self::ReadLogStream> {
        let request = request.into_inner();
        let id = self.container(&request.container_id)?.id;
        let (answers, stream) = mpsc::channel(16);
        let (lines, mut news) = {
            let mut state = self.shared.lock();
            let lines = state.logs.get(&id).cloned().unwrap_or_default();
            let (follower, news) = mpsc::unbounded_channel();
            if request.follow {
                state.followers.push((id, follower));
            }
            (lines, news)
        };
        let tail = match request.tail_lines {
            0 => lines.len(),
            some => usize::try_from(some).unwrap_or(usize::MAX).min(lines.len()),
        };
        tokio::spawn(async move {
            for lines in lines[lines.len() - tail..].chunks(256) {
                if answers.send(Ok(ReadLogResponse { lines: lines.to_vec() })).await.is_err() {
                    return;
                }
            }
            // Without followers the sender is gone: the stream ends here.
            while let Some(line) = news.recv().await {
                if answers.send(Ok(ReadLogResponse { lines: vec![line] })).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn stop_pod(&self, request: Request<StopPodRequest>) -> Answer<StopPodResponse> {
        let id = request.into_inner().pod_id;
        self.act("stop-pod", &id)?;
        for container in self.containers_of(&id) {
            self.end(container);
        }
        let pod = self.shared.lock().snapshot.pods.iter().find(|pod| pod.id == id).cloned();
        let mut pod = pod.ok_or_else(|| Status::not_found(format!("no pod {id}")))?;
        pod.set_state(pod::State::NotReady);
        pod.processes.clear();
        self.shared.change(&Change::Pod(pod));
        Ok(Response::new(StopPodResponse {}))
    }

    async fn remove_pod(&self, request: Request<RemovePodRequest>) -> Answer<RemovePodResponse> {
        let id = request.into_inner().pod_id;
        self.act("remove-pod", &id)?;
        for container in self.containers_of(&id) {
            self.shared.change(&Change::ContainerRemoved(container.id));
        }
        self.shared.change(&Change::PodRemoved(id));
        Ok(Response::new(RemovePodResponse {}))
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let id = request.into_inner().container_id;
        self.act("stop-container", &id)?;
        self.end(self.container(&id)?);
        Ok(Response::new(StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.act("remove-container", &id)?;
        let id = self.container(&id)?.id;
        self.shared.change(&Change::ContainerRemoved(id));
        Ok(Response::new(RemoveContainerResponse {}))
    }

    type ExecStream = ReceiverStream<Result<ExecResponse, Status>>;

    async fn exec(&self, request: Request<Streaming<ExecRequest>>) -> Answer<Self::ExecStream> {
        let mut requests = request.into_inner();
        let Some(ExecRequest { message: Some(exec_request::Message::Start(start)) }) =
            requests.message().await?
        else {
            return Err(Status::invalid_argument("the first message must be ExecStart"));
        };
        self.act("exec", &start.container_id)?;
        self.container(&start.container_id)?;
        let index = exec::begin(&self.shared, &start);
        let (answers, stream) = mpsc::channel(16);
        let running = tokio::spawn(exec::serve(self.shared.clone(), index, start, requests, answers));
        self.shared.lock().running.push(running.abort_handle());
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}
