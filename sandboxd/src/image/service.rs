//! `Images` of the console protocol: pulls that are watched, archives in and out.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use futures_util::Stream;
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console as api;
use sandboxd_api::console::images_server::{Images, ImagesServer};
use sandboxd_image::pull::{LayerState, PullProgress, PullState};
use sandboxd_image::registry::Credentials;
use sandboxd_image::{PullRequest, Reference};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::{ImageRoom, archives};
use crate::console::access::{Caller, Operators};
use crate::cri::CriError;

/// Between two words on a pull's progress.
const PERIOD: Duration = Duration::from_millis(200);

/// The service over these images.
#[must_use]
pub fn server(room: ImageRoom, operators: Operators) -> ImagesServer<impl Images> {
    ImagesServer::new(Service { room, operators }).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

#[derive(Debug)]
struct Service {
    room: ImageRoom,
    operators: Operators,
}

impl Service {
    /// Whoever may do this: all but looking changes the node, or reads and writes its files.
    fn operator<T>(
        &self,
        action: &'static str,
        object: &str,
        request: &Request<T>,
    ) -> Result<Caller, Status> {
        let caller = self.operators.caller(request.extensions());
        caller.must_act(action, object)?;
        Ok(caller)
    }
}

#[tonic::async_trait]
impl Images for Service {
    type PullStream = Pin<Box<dyn Stream<Item = Result<api::PullResponse, Status>> + Send>>;

    async fn pull(&self, request: Request<api::PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let caller = self.operator("Pull", &request.get_ref().reference, &request)?;
        let request = request.into_inner();
        let reference: Reference = request.reference.parse().map_err(CriError::Reference)?;
        let given =
            Credentials { username: request.username, password: request.password, ..Credentials::default() };
        let credentials = given.new("").map_err(CriError::Credentials)?;
        let request = PullRequest { reference, credentials, plain_http: request.plain_http };
        let (out, stream) = mpsc::channel(4);
        tokio::spawn(watched(self.room.clone(), request, caller, out));
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }

    async fn list_pulls(
        &self,
        _: Request<api::ListPullsRequest>,
    ) -> Result<Response<api::ListPullsResponse>, Status> {
        let pulls = self.room.puller().pulls().iter().map(progress).collect();
        Ok(Response::new(api::ListPullsResponse { pulls }))
    }

    async fn import(
        &self,
        request: Request<api::ImportRequest>,
    ) -> Result<Response<api::ImportResponse>, Status> {
        let caller = self.operator("Import", &request.get_ref().path, &request)?;
        let request = request.into_inner();
        let path = absolute(&request.path)?;
        let name = Some(request.name.as_str()).filter(|name| !name.is_empty());
        let images = self.room.images().import(&path, name).await;
        let images = images.map_err(|error| Status::from(CriError::Image(error)));
        caller.audit("Import", &request.path, &images);
        Ok(Response::new(archives::imported(&images?)))
    }

    async fn export(
        &self,
        request: Request<api::ExportRequest>,
    ) -> Result<Response<api::ExportResponse>, Status> {
        let caller = self.operator("Export", &request.get_ref().path, &request)?;
        let request = request.into_inner();
        let path = absolute(&request.path)?;
        let format = archives::format(&request.format)?;
        if request.references.is_empty() {
            return Err(Status::invalid_argument("no image to export: name at least one"));
        }
        let images = self.room.images();
        let exported = images.export(&request.references, format, &path).await;
        let exported = exported.map_err(|error| Status::from(CriError::Image(error)));
        caller.audit("Export", &request.path, &exported);
        exported?;
        Ok(Response::new(api::ExportResponse {}))
    }

    async fn import_stream(
        &self,
        request: Request<Streaming<api::ImportChunk>>,
    ) -> Result<Response<api::ImportResponse>, Status> {
        let caller = self.operator("ImportStream", "an archive", &request)?;
        let received = archives::receive(&self.room, request.into_inner()).await;
        caller.audit("ImportStream", "an archive", &received);
        received.map(Response::new)
    }

    type ExportStreamStream = ReceiverStream<Result<api::ExportChunk, Status>>;

    async fn export_stream(
        &self,
        request: Request<api::ExportRequest>,
    ) -> Result<Response<Self::ExportStreamStream>, Status> {
        let caller = self.operator("ExportStream", "an archive", &request)?;
        let chunks = archives::send(&self.room, request.into_inner());
        caller.audit("ExportStream", "an archive", &chunks);
        Ok(Response::new(ReceiverStream::new(chunks?)))
    }
}

/// Pulls, and tells the client where it is; ends when the client goes.
async fn watched(
    room: ImageRoom,
    request: PullRequest,
    caller: Caller,
    out: mpsc::Sender<Result<api::PullResponse, Status>>,
) {
    let reference = request.reference.clone();
    let pull = room.pull(request);
    tokio::pin!(pull);
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        tokio::select! {
            outcome = &mut pull => {
                let last = match outcome {
                    Ok(image) => Ok(api::PullResponse { image_id: image.id.to_string(), progress: None }),
                    Err(error) => Err(CriError::Pull(error).into()),
                };
                caller.audit("Pull", &reference.to_string(), &last);
                let _ = out.send(last).await;
                return;
            }
            () = out.closed() => return,
            _ = ticks.tick() => {
                let pulls = room.puller().pulls();
                let Some(now) = pulls.iter().find(|pull| pull.reference == reference) else { continue };
                let message = api::PullResponse { progress: Some(progress(now)), ..Default::default() };
                // A client that is behind gets the next one.
                let _ = out.try_send(Ok(message));
            }
        }
    }
}

fn progress(pull: &PullProgress) -> api::PullProgress {
    let state = match pull.state {
        PullState::Resolving => "resolving",
        PullState::Downloading => "downloading",
        PullState::Committing => "committing",
    };
    let layers = pull.layers.iter().map(|layer| api::LayerProgress {
        digest: layer.digest.to_string(),
        state: match layer.state {
            LayerState::Waiting => "waiting",
            LayerState::Downloading => "downloading",
            LayerState::Unpacking => "unpacking",
            LayerState::Done => "done",
        }
        .to_owned(),
        done: layer.done,
        total: layer.total,
    });
    api::PullProgress {
        reference: pull.reference.to_string(),
        state: state.to_owned(),
        elapsed_ns: i64::try_from(pull.since.elapsed().as_nanos()).unwrap_or(i64::MAX),
        layers: layers.collect(),
    }
}

fn absolute(path: &str) -> Result<PathBuf, Status> {
    if Path::new(path).is_absolute() {
        return Ok(path.into());
    }
    Err(Status::invalid_argument(format!("path = {path:?}: not absolute: start it with /")))
}
