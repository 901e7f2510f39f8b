//! Hands the client's messages to the channels.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::SplitStream;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::CancellationToken;

use super::Codec;
use crate::copy::deliver;

/// The channel whose messages end the channel that they name.
const CLOSE: u8 = 255;

pub(super) struct Reader<T> {
    pub(super) stream: SplitStream<WebSocketStream<T>>,
    pub(super) inboxes: Vec<Option<DuplexStream>>,
    pub(super) queue: mpsc::Sender<Message>,
    pub(super) codec: Codec,
    pub(super) half_close: bool,
    pub(super) gone: CancellationToken,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Reader<T> {
    pub(super) async fn run(mut self) {
        loop {
            // Pings are answered on the way, and so is the client's close frame.
            let message = match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Text(text))) => text.into(),
                Some(Ok(_)) => continue,
                Some(Err(error)) => {
                    tracing::debug!(%error, "a streaming client's WebSocket broke");
                    break;
                }
                None => break,
            };
            let Some((channel, data)) = self.codec.decode(&message) else { continue };
            if self.half_close && channel == CLOSE {
                if let [ended] = *data
                    && let Some(inbox) = self.inboxes.get_mut(usize::from(ended))
                {
                    *inbox = None;
                }
                continue;
            }
            let queue = &self.queue;
            // A queue that is full sends by itself.
            let probe = || drop(queue.try_send(Message::Ping(Bytes::new())));
            if let Some(inbox) = self.inboxes.get_mut(usize::from(channel))
                && let Some(open) = inbox
                && !deliver(open, &data, probe).await
            {
                *inbox = None;
            }
        }
        self.gone.cancel();
    }
}
