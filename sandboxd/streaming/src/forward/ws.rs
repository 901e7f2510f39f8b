//! Port-forward over WebSocket: two channels a port, data then error, each begun by the server with the port's number.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_util::sync::CancellationToken;

use super::{Ports, forward};
use crate::backend::Backend;
use crate::ws::{Channel, Channels, Codec};

const V4: &str = "v4.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";

/// Subprotocols, best first. A client that names none speaks the first, too.
pub(crate) const SUBPROTOCOLS: [&str; 2] = [V4, V4_BASE64];

/// Ports of one connection: each takes two of the 255 channels.
const MAX_PORTS: usize = 127;

/// Serves one connection to each port, then closes.
pub(crate) async fn serve<T>(io: WebSocketStream<T>, protocol: &str, ports: Ports, backend: Arc<dyn Backend>)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let codec = if protocol == V4_BASE64 { Codec::Base64 } else { Codec::Binary };
    let Ports { pod, mut ports } = ports;
    ports.truncate(MAX_PORTS);
    let read = [true, false].repeat(ports.len());
    let (connection, channels) = Channels::new(io, codec, &read, false);
    let pod: Arc<str> = pod.into();
    let mut running = JoinSet::new();
    let mut channels = channels.into_iter();
    for port in ports {
        if let (Some(data), Some(error)) = (channels.next(), channels.next()) {
            running.spawn(one(Arc::clone(&pod), port, Arc::clone(&backend), data, error, connection.gone()));
        }
    }
    while running.join_next().await.is_some() {}
    connection.close().await;
}

async fn one(
    pod: Arc<str>,
    port: u16,
    backend: Arc<dyn Backend>,
    data: Channel,
    error: Channel,
    gone: CancellationToken,
) {
    let (Some(mut reader), mut writer, mut error) = (data.reader, data.writer, error.writer) else { return };
    let forwarded = async {
        writer.write_all(&port.to_le_bytes()).await?;
        error.write_all(&port.to_le_bytes()).await?;
        let streams = (&mut reader, &mut writer);
        if let Err(why) = forward(&*backend, &pod, port, streams, &gone).await {
            tracing::debug!(port, pod = &*pod, error = %why, "a forwarded connection failed");
            error.write_all(why.to_string().as_bytes()).await?;
        }
        std::io::Result::Ok(())
    };
    if forwarded.await.is_err() {
        tracing::debug!(port, "a client of a port-forward went");
    }
}
