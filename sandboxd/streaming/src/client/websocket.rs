//! Channels over WebSocket, message by message.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::{ClientError, Endpoint};
use crate::ws::Codec;

/// A client's connection.
#[derive(Debug)]
pub struct Channels {
    /// The subprotocol that the server chose; empty for none.
    pub protocol: String,
    io: WebSocketStream<TokioIo<Upgraded>>,
    codec: Codec,
    /// Whether the server ended with an orderly close frame.
    pub closed: bool,
}

fn broken(error: Error) -> ClientError {
    ClientError::Io(std::io::Error::other(error))
}

impl Channels {
    /// # Errors
    /// When the server refuses it.
    pub async fn open(endpoint: &Endpoint, protocols: &[&str]) -> Result<Self, ClientError> {
        let (io, protocol) = endpoint.websocket(protocols).await?;
        let codec = if protocol.contains("base64") { Codec::Base64 } else { Codec::Binary };
        Ok(Self { protocol, io, codec, closed: false })
    }

    /// # Errors
    /// When the connection breaks.
    pub async fn send(&mut self, channel: u8, bytes: &[u8]) -> Result<(), ClientError> {
        let message = self.codec.encode(channel, bytes);
        self.io.send(message).await.map_err(broken)
    }

    /// Ends a channel, as v5 has it.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn end(&mut self, channel: u8) -> Result<(), ClientError> {
        self.send(255, &[channel]).await
    }

    /// # Errors
    /// When the connection breaks.
    pub async fn ping(&mut self) -> Result<(), ClientError> {
        self.io.send(Message::Ping(Bytes::from_static(b"?"))).await.map_err(broken)
    }

    /// The next message with its channel; a pong is of channel 254. `None` at the end.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn next(&mut self) -> Result<Option<(u8, Bytes)>, ClientError> {
        loop {
            let bytes = match self.io.next().await {
                Some(Ok(Message::Binary(bytes))) => bytes,
                Some(Ok(Message::Text(text))) => text.into(),
                Some(Ok(Message::Pong(bytes))) => return Ok(Some((254, bytes))),
                Some(Ok(Message::Close(_))) => {
                    self.closed = true;
                    continue;
                }
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(broken(error)),
                None => return Ok(None),
            };
            return Ok(self.codec.decode(&bytes));
        }
    }

    /// Everything to the end, by channel.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn outcome(&mut self) -> Result<Vec<Vec<u8>>, ClientError> {
        let mut all = vec![Vec::new(); 8];
        while let Some((channel, bytes)) = self.next().await? {
            if let Some(bytes_so_far) = all.get_mut(usize::from(channel)) {
                bytes_so_far.extend_from_slice(&bytes);
            }
        }
        Ok(all)
    }
}
