//! A daemon for the tests: it speaks the real protocol over a real socket, and says what a test tells it to.
#![allow(dead_code, clippy::unwrap_used, reason = "each test file uses its part; tests may unwrap")]

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sandboxd_api::console::console_server::{Console, ConsoleServer};
use sandboxd_api::console::*;
use sandboxd_tui::feed::query::Answer;
use sandboxd_tui::record::What;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};

type Watcher = mpsc::Sender<Result<WatchResponse, Status>>;

pub struct Daemon {
    pub socket: PathBuf,
    watchers: Arc<Mutex<Vec<Watcher>>>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<()>,
}

struct Service {
    first: WatchResponse,
    watchers: Arc<Mutex<Vec<Watcher>>>,
}

impl Daemon {
    /// Serves the recorded node's snapshot to whoever watches.
    pub fn start(socket: &Path) -> Self {
        let first = crate::support::messages().swap_remove(0);
        let watchers = Arc::new(Mutex::new(Vec::new()));
        let service = Service { first, watchers: Arc::clone(&watchers) };
        let listener = UnixListener::bind(socket).unwrap();
        let (stop, stopped) = oneshot::channel();
        let served = tokio::spawn(async move {
            tonic::transport::Server::builder()
                .add_service(ConsoleServer::new(service))
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                    stopped.await.ok();
                })
                .await
                .unwrap();
        });
        Self { socket: socket.to_owned(), watchers, stop: Some(stop), served }
    }

    pub async fn send(&self, message: WatchResponse) {
        let watchers = self.watchers.lock().unwrap().clone();
        for watcher in watchers {
            watcher.send(Ok(message.clone())).await.ok();
        }
    }

    /// Ends every stream and the server, and takes its socket away.
    pub async fn stop(mut self) {
        self.watchers.lock().unwrap().clear();
        self.stop.take().unwrap().send(()).ok();
        self.served.await.unwrap();
        std::fs::remove_file(&self.socket).unwrap();
    }
}

/// The first recorded answer of a kind.
fn recorded<T>(pick: impl Fn(Answer) -> Option<T>) -> Result<Response<T>, Status> {
    let found = crate::support::entries().into_iter().find_map(|entry| match entry.what {
        What::Answered(answer) => pick(answer),
        _ => None,
    });
    found.map(Response::new).ok_or_else(|| Status::not_found("not recorded"))
}

#[tonic::async_trait]
impl Console for Service {
    type WatchStream = ReceiverStream<Result<WatchResponse, Status>>;

    async fn watch(&self, _: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (watcher, stream) = mpsc::channel(64);
        watcher.send(Ok(self.first.clone())).await.unwrap();
        self.watchers.lock().unwrap().push(watcher);
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn explain_check(
        &self,
        request: Request<ExplainCheckRequest>,
    ) -> Result<Response<ExplainCheckResponse>, Status> {
        let seq = request.into_inner().seq;
        let found = crate::support::entries().into_iter().find_map(|entry| match entry.what {
            What::Explained(answer) if answer.check.as_ref().is_some_and(|check| check.seq == seq) => {
                Some(answer)
            }
            _ => None,
        });
        found.map(Response::new).ok_or_else(|| Status::not_found(format!("check {seq} is no longer kept")))
    }

    async fn get_timeline(
        &self,
        _: Request<GetTimelineRequest>,
    ) -> Result<Response<GetTimelineResponse>, Status> {
        Err(Status::not_found("no such pod"))
    }

    async fn list_checks(
        &self,
        _: Request<ListChecksRequest>,
    ) -> Result<Response<ListChecksResponse>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    async fn doctor(&self, _: Request<DoctorRequest>) -> Result<Response<DoctorResponse>, Status> {
        recorded(|answer| match answer {
            Answer::Doctor(answer) => Some(answer),
            _ => None,
        })
    }

    async fn stop_pod(&self, _: Request<StopPodRequest>) -> Result<Response<StopPodResponse>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    async fn remove_pod(&self, _: Request<RemovePodRequest>) -> Result<Response<RemovePodResponse>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    async fn list_namespaces(
        &self,
        _: Request<ListNamespacesRequest>,
    ) -> Result<Response<ListNamespacesResponse>, Status> {
        recorded(|answer| match answer {
            Answer::Namespaces(answer) => Some(answer),
            _ => None,
        })
    }

    async fn list_capabilities(
        &self,
        _: Request<ListCapabilitiesRequest>,
    ) -> Result<Response<ListCapabilitiesResponse>, Status> {
        recorded(|answer| match answer {
            Answer::Capabilities(answer) => Some(answer),
            _ => None,
        })
    }

    async fn get_usage(&self, _: Request<GetUsageRequest>) -> Result<Response<GetUsageResponse>, Status> {
        recorded(|answer| match answer {
            Answer::Usage(answer) => Some(answer),
            _ => None,
        })
    }

    async fn list_events(
        &self,
        _: Request<ListEventsRequest>,
    ) -> Result<Response<ListEventsResponse>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    type ReadLogStream = ReceiverStream<Result<ReadLogResponse, Status>>;

    async fn read_log(&self, _: Request<ReadLogRequest>) -> Result<Response<Self::ReadLogStream>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    async fn stop_container(
        &self,
        _: Request<StopContainerRequest>,
    ) -> Result<Response<StopContainerResponse>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    async fn remove_container(
        &self,
        _: Request<RemoveContainerRequest>,
    ) -> Result<Response<RemoveContainerResponse>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }

    type ExecStream = ReceiverStream<Result<ExecResponse, Status>>;

    async fn exec(
        &self,
        _: Request<tonic::Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        Err(Status::unimplemented("not asked by the console"))
    }
}
