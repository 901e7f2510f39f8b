//! WebSocket as Kubernetes uses it: channels in messages, and SPDY through a tunnel of messages.

mod channels;
mod reader;
mod tunnel;
mod writer;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

pub(crate) use channels::{Channel, Channels, Codec};
pub(crate) use tunnel::Tunnel;

/// A message that a client sends. Some send what they have in one.
const MAX_MESSAGE: usize = 16 << 20;

/// The server's side, after the handshake.
pub(crate) async fn server<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    WebSocketStream::from_raw_socket(io, Role::Server, Some(config())).await
}

/// The client's side, after the handshake.
#[cfg(any(test, feature = "client"))]
pub(crate) async fn client<T: AsyncRead + AsyncWrite + Unpin>(io: T) -> WebSocketStream<T> {
    WebSocketStream::from_raw_socket(io, Role::Client, Some(config())).await
}

fn config() -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(crate::CHUNK)
        .write_buffer_size(0)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
}
