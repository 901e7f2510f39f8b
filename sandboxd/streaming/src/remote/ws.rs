//! Exec and attach over WebSocket: the channels are numbered as the file descriptors, then error and resize.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;

use super::{Channels, Command, Format, V4, V5, run};
use crate::backend::Backend;
use crate::copy::{BoxRead, BoxWrite};
use crate::ws::{self, Channel, Codec};

const BASE64: &str = "base64.channel.k8s.io";
const V4_BASE64: &str = "v4.base64.channel.k8s.io";

/// Subprotocols, best first. A client that names none speaks the oldest, in binary.
pub(crate) const SUBPROTOCOLS: [&str; 5] = [V5, V4, V4_BASE64, super::V1, BASE64];

/// Serves one session, then closes the connection.
pub(crate) async fn serve<T>(io: WebSocketStream<T>, protocol: &str, command: &Command, backend: &dyn Backend)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let codec = if matches!(protocol, BASE64 | V4_BASE64) { Codec::Base64 } else { Codec::Binary };
    let format = if matches!(protocol, V4 | V4_BASE64 | V5) { Format::Json } else { Format::Text };
    let wanted = command.wanted();
    // Sizes are taken with or without a terminal.
    let read = [wanted.stdin, false, false, false, true];
    let (connection, channels) = ws::Channels::new(io, codec, &read, protocol == V5);
    let Ok([stdin, mut stdout, mut stderr, mut error, resize]) = <[Channel; 5]>::try_from(channels) else {
        return;
    };
    let lowest = if wanted.stdout {
        &mut stdout.writer
    } else if wanted.stderr {
        &mut stderr.writer
    } else {
        &mut error.writer
    };
    // A client that went shows in `gone`.
    let _ = lowest.announce().await;
    let write = |channel: Channel| -> BoxWrite { Box::new(channel.writer) };
    let channels = Channels {
        stdin: stdin.reader.map(|reader| -> BoxRead { Box::new(reader) }),
        stdout: wanted.stdout.then(|| write(stdout)),
        stderr: wanted.stderr.then(|| write(stderr)),
        resize: resize.reader.map(|reader| -> BoxRead { Box::new(reader) }),
        error: Box::new(error.writer),
        format,
        gone: connection.gone(),
    };
    run(backend, command, channels).await;
    connection.close().await;
}
