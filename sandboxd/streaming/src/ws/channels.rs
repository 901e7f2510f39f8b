//! Channels over one WebSocket: the first byte of a message is the channel's number.
//!
//! ```text
//!  client ──▶ reader ──▶ inbox of each channel that is read
//!  Channel's writer ──▶ queue of the connection (16 messages) ──▶ writer ──▶ client
//! ```

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::{CancellationToken, PollSender};

use super::reader;
use super::writer::{self, ChannelWriter};

/// Messages that wait for a slow client: 512 KiB of data at most.
const QUEUE: usize = 16;
/// What a channel holds of the client's data before it is read.
const INBOX: usize = 64 << 10;
/// How long the client may take to answer the close frame.
const LINGER: Duration = Duration::from_secs(5);

/// How messages carry bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Codec {
    Binary,
    /// The channel is a digit, the data base64, the message a text.
    Base64,
}

impl Codec {
    pub(crate) fn encode(self, channel: u8, bytes: &[u8]) -> Message {
        match self {
            Self::Binary => {
                let mut message = Vec::with_capacity(bytes.len() + 1);
                message.push(channel);
                message.extend_from_slice(bytes);
                Message::Binary(message.into())
            }
            Self::Base64 => {
                let mut message = String::from(char::from(b'0'.wrapping_add(channel)));
                BASE64.encode_string(bytes, &mut message);
                Message::Text(message.into())
            }
        }
    }

    /// The channel and its data; `None`: an empty message, or what is no base64.
    pub(crate) fn decode(self, message: &Bytes) -> Option<(u8, Bytes)> {
        let (&channel, data) = message.split_first()?;
        match self {
            Self::Binary => Some((channel, message.slice(1..))),
            Self::Base64 => Some((channel.wrapping_sub(b'0'), BASE64.decode(data).ok()?.into())),
        }
    }
}

/// One channel: what is not wanted of it is dropped.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) reader: Option<DuplexStream>,
    pub(crate) writer: ChannelWriter,
}

/// The connection of the channels. Dropped, it breaks off at once.
#[derive(Debug)]
pub(crate) struct Channels {
    queue: mpsc::Sender<Message>,
    gone: CancellationToken,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
}

impl Channels {
    /// A channel for each entry of `read`: whether the client's data on it is taken, or thrown away. With
    /// `half_close` a client can end a channel (v5).
    pub(crate) fn new<T>(
        io: WebSocketStream<T>,
        codec: Codec,
        read: &[bool],
        half_close: bool,
    ) -> (Self, Vec<Channel>)
    where
        T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (sink, stream) = io.split();
        let (queue, messages) = mpsc::channel(QUEUE);
        let gone = CancellationToken::new();
        let mut inboxes = Vec::with_capacity(read.len());
        let mut channels = Vec::with_capacity(read.len());
        for (number, read) in (0u8..).zip(read) {
            let (inbox, outside) = tokio::io::duplex(INBOX);
            inboxes.push(read.then_some(inbox));
            let writer = ChannelWriter::new(PollSender::new(queue.clone()), codec, number, gone.clone());
            channels.push(Channel { reader: read.then_some(outside), writer });
        }
        let reader =
            reader::Reader { stream, inboxes, queue: queue.clone(), codec, half_close, gone: gone.clone() };
        let connection = Self {
            queue,
            reader: tokio::spawn(reader.run()),
            writer: tokio::spawn(writer::run(sink, messages, gone.clone())),
            gone,
        };
        (connection, channels)
    }

    /// Cancelled when the client is gone.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.gone.clone()
    }

    /// The close handshake, after all that was queued.
    pub(crate) async fn close(mut self) {
        let farewell = async {
            if self.queue.send(Message::Close(Some(writer::normal()))).await.is_ok() {
                // An abort comes only with the drop of the connection.
                let _ = (&mut self.writer).await;
            }
        };
        tokio::select! {
            () = farewell => {}
            () = self.gone.cancelled() => return,
        }
        // An error is the time-out: the client does not answer.
        let _ = tokio::time::timeout(LINGER, self.gone.cancelled()).await;
    }
}

impl Drop for Channels {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        self.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codecs_carry_channel_and_bytes() {
        assert_eq!(Codec::Binary.encode(1, b"ab"), Message::Binary(Bytes::from_static(b"\x01ab")));
        assert_eq!(Codec::Base64.encode(1, b"\n"), Message::Text("1Cg==".into()));
        let decoded = Codec::Base64.decode(&Bytes::from_static(b"0Zm9vCgo="));
        assert_eq!(decoded, Some((0, Bytes::from_static(b"foo\n\n"))));
        assert_eq!(Codec::Binary.decode(&Bytes::from_static(b"\x04")), Some((4, Bytes::new())));
        assert_eq!(Codec::Binary.decode(&Bytes::new()), None);
        assert_eq!(Codec::Base64.decode(&Bytes::from_static(b"0?")), None);
    }
}
