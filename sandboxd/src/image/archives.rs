//! Archives that come and go over the console's socket.

use std::io::{self, Write};

use sandboxd_api::console as api;
use sandboxd_image::{Format, Inbox};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::ImageRoom;
use crate::cri::CriError;

/// Bytes of a message.
pub(super) const CHUNK: usize = 256 << 10;
/// Messages that wait for a slow client.
const WAITING: usize = 4;

pub(super) type Chunks = mpsc::Receiver<Result<api::ExportChunk, Status>>;

/// "oci", "docker", or nothing.
pub(super) fn format(text: &str) -> Result<Format, Status> {
    match text {
        "" | "oci" => Ok(Format::Oci),
        "docker" => Ok(Format::Docker),
        other => Err(Status::invalid_argument(format!("format = {other:?}: write \"oci\" or \"docker\""))),
    }
}

pub(super) fn imported(images: &[std::sync::Arc<sandboxd_image::Image>]) -> api::ImportResponse {
    let images = images.iter().map(|image| api::ImportedImage {
        id: image.id.to_string(),
        names: image.repo_tags.iter().chain(&image.repo_digests).cloned().collect(),
    });
    api::ImportResponse { images: images.collect() }
}

/// Collects what is sent, and brings it in when all of it is there.
pub(super) async fn receive(
    room: &ImageRoom,
    mut chunks: Streaming<api::ImportChunk>,
) -> Result<api::ImportResponse, Status> {
    let images = room.images();
    let inbox = {
        let images = images.clone();
        blocking(move || images.inbox().map_err(CriError::Image)).await?
    };
    let (mut inbox, mut name): (Inbox, Option<String>) = (inbox, None);
    loop {
        let Some(chunk) = chunks.message().await? else {
            return Err(Status::aborted("the archive broke off before its last byte: send it again"));
        };
        let name = name.get_or_insert(chunk.name);
        inbox = blocking(move || {
            inbox.write(&chunk.data).map_err(CriError::Image)?;
            Ok(inbox)
        })
        .await?;
        if chunk.last {
            let name = Some(name.as_str()).filter(|name| !name.is_empty());
            let images = images.import_sent(inbox, name).await.map_err(CriError::Image)?;
            return Ok(imported(&images));
        }
    }
}

/// Writes an archive to a client. It ends when the client goes.
pub(super) fn send(room: &ImageRoom, request: api::ExportRequest) -> Result<Chunks, Status> {
    if !request.path.is_empty() {
        let why = format!("path = {:?}: ExportStream sends the bytes; call Export for a file", request.path);
        return Err(Status::invalid_argument(why));
    }
    let format = format(&request.format)?;
    if request.references.is_empty() {
        return Err(Status::invalid_argument("no image to export: name at least one"));
    }
    let (out, chunks) = mpsc::channel(WAITING);
    let images = room.images().clone();
    tokio::task::spawn_blocking(move || {
        let writer = io::BufWriter::with_capacity(CHUNK, Outbox(out.clone()));
        if let Err(error) = images.export_to(&request.references, format, writer) {
            // Nobody hears it when the client is what went.
            let _ = out.blocking_send(Err(CriError::Image(error).into()));
        }
    });
    Ok(chunks)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, CriError> + Send + 'static,
) -> Result<T, Status> {
    let done = tokio::task::spawn_blocking(work).await.map_err(|e| CriError::Image(e.into()))?;
    Ok(done?)
}

/// Bytes on their way to a client.
struct Outbox(mpsc::Sender<Result<api::ExportChunk, Status>>);

impl Write for Outbox {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A write larger than the buffer passes it by.
        for piece in bytes.chunks(CHUNK) {
            let chunk = api::ExportChunk { data: piece.to_vec() };
            self.0.blocking_send(Ok(chunk)).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
