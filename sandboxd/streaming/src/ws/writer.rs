//! Writes the channels' messages, in the order in which they were queued.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_util::SinkExt;
use futures_util::stream::SplitSink;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_util::sync::{CancellationToken, PollSender};

use super::Codec;
use crate::CHUNK;

/// What an orderly end says.
pub(super) fn normal() -> CloseFrame {
    CloseFrame { code: CloseCode::Normal, reason: "".into() }
}

/// Until the close frame, or the client's end.
pub(super) async fn run<T: AsyncRead + AsyncWrite + Unpin>(
    mut sink: SplitSink<WebSocketStream<T>, Message>,
    mut queue: mpsc::Receiver<Message>,
    gone: CancellationToken,
) {
    while let Some(message) = queue.recv().await {
        let last = matches!(message, Message::Close(_));
        if let Err(error) = sink.send(message).await {
            tracing::debug!(%error, "writing to a streaming client failed");
            return gone.cancel();
        }
        if last {
            return;
        }
    }
}

/// What is sent to the client on one channel. Only the end of the connection ends it.
#[derive(Debug)]
pub(crate) struct ChannelWriter {
    queue: PollSender<Message>,
    codec: Codec,
    number: u8,
    gone: CancellationToken,
}

impl ChannelWriter {
    pub(super) fn new(queue: PollSender<Message>, codec: Codec, number: u8, gone: CancellationToken) -> Self {
        Self { queue, codec, number, gone }
    }

    /// A message without data tells the client that the session has begun.
    pub(crate) async fn announce(&mut self) -> io::Result<()> {
        std::future::poll_fn(|context| self.poll_send(context, &[])).await
    }

    fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<()>> {
        let broken = || io::Error::from(io::ErrorKind::BrokenPipe);
        if self.gone.is_cancelled() {
            return Poll::Ready(Err(broken()));
        }
        ready!(self.queue.poll_reserve(context)).map_err(|_| broken())?;
        let message = self.codec.encode(self.number, bytes);
        Poll::Ready(self.queue.send_item(message).map_err(|_| broken()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let piece = bytes.get(..CHUNK).unwrap_or(bytes);
        if !piece.is_empty() {
            ready!(self.poll_send(context, piece))?;
        }
        Poll::Ready(Ok(piece.len()))
    }

    /// Messages are on their way once they are queued.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
