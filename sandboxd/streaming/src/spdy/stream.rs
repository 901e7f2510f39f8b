//! One stream of a connection, as a pair of halves.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio_util::sync::{CancellationToken, PollSender};

use super::Headers;
use super::table::Slot;
use super::writer::Out;
use crate::CHUNK;

/// A stream that both sides have agreed to.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) headers: Headers,
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

impl Stream {
    pub(super) fn new(slot: &Arc<Slot>, headers: Headers, inbox: DuplexStream, out: PollSender<Out>) -> Self {
        let reader = StreamReader { inbox, _slot: Arc::clone(slot) };
        let writer = StreamWriter { out, slot: Arc::clone(slot), ended: false };
        Self { headers, reader, writer }
    }

    pub(crate) fn id(&self) -> u32 {
        self.writer.slot.id
    }

    /// Cancelled when the peer resets the stream, or is gone.
    pub(crate) fn reset(&self) -> CancellationToken {
        self.writer.slot.reset.clone()
    }
}

/// What the peer sends; ends with its FIN, its reset, or the connection.
#[derive(Debug)]
pub(crate) struct StreamReader {
    inbox: DuplexStream,
    _slot: Arc<Slot>,
}

impl AsyncRead for StreamReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inbox).poll_read(context, buffer)
    }
}

/// What is sent to the peer. Dropped without a shutdown, the stream is reset.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    out: PollSender<Out>,
    slot: Arc<Slot>,
    ended: bool,
}

impl StreamWriter {
    fn poll_send(
        &mut self,
        context: &mut Context<'_>,
        frame: impl FnOnce(u32) -> Out,
    ) -> Poll<io::Result<()>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        if self.ended || self.slot.reset.is_cancelled() || self.slot.gone().is_cancelled() {
            return Poll::Ready(Err(broken()));
        }
        ready!(self.out.poll_reserve(context)).map_err(|_| broken())?;
        self.out.send_item(frame(self.slot.id)).map_err(|_| broken())?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = bytes.get(..CHUNK).unwrap_or(bytes);
        if !piece.is_empty() {
            let data = |id| Out::Data { id, fin: false, bytes: Bytes::copy_from_slice(piece) };
            ready!(self.poll_send(context, data))?;
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Frames are on their way once they are queued; the connection's writer flushes.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        ready!(self.poll_send(context, |id| Out::Data { id, fin: true, bytes: Bytes::new() }))?;
        self.ended = true;
        Poll::Ready(Ok(()))
    }
}

impl Drop for StreamWriter {
    fn drop(&mut self) {
        if !self.ended {
            self.slot.abandon();
        }
    }
}
