//! Port-forward: connections into a pod, each on a pair of streams.

mod pairs;
mod spdy;
mod ws;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

pub(crate) use self::spdy::{PROTOCOL, serve as serve_spdy};
pub(crate) use self::ws::{SUBPROTOCOLS, serve as serve_ws};
use crate::backend::{Backend, BackendError};
use crate::copy::copy;

/// How long a client may keep sending to a server that sends nothing more, from chunk to chunk. A client that ends
/// first may wait for its answer as long as its connection lives.
const HALF_CLOSED: Duration = Duration::from_secs(1);

/// The pod, and which of its ports may be asked for: any, when none is listed.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    pub(crate) pod: String,
    pub(crate) ports: Vec<u16>,
}

impl Ports {
    fn allows(&self, port: u16) -> bool {
        port != 0 && (self.ports.is_empty() || self.ports.contains(&port))
    }
}

/// Connects and moves bytes until both directions have ended, or `gone`. The error is for the client.
async fn forward<R, W>(
    backend: &dyn Backend,
    pod: &str,
    port: u16,
    (client_reader, client_writer): (&mut R, &mut W),
    gone: &CancellationToken,
) -> Result<(), BackendError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let connection = tokio::select! {
        connection = backend.connect(pod, port) => connection,
        () = gone.cancelled() => return Ok(()),
    };
    let connection = connection
        .map_err(|error| BackendError(format!("error forwarding port {port} to pod {pod}: {error}")))?;
    let (mut reader, mut writer) = tokio::io::split(connection);
    let (moved, mut moves) = tokio::sync::watch::channel(());
    let upward = async {
        copy(client_reader, &mut writer, || {
            moved.send_replace(());
        })
        .await;
        // A server that is gone has its end of input.
        let _ = writer.shutdown().await;
    };
    let downward = async {
        copy(&mut reader, client_writer, || ()).await;
        // A client that is gone needs no end.
        let _ = client_writer.shutdown().await;
    };
    tokio::pin!(upward);
    let both = async {
        tokio::pin!(downward);
        tokio::select! {
            () = &mut upward => downward.await,
            () = &mut downward => loop {
                tokio::select! {
                    () = &mut upward => break,
                    more = tokio::time::timeout(HALF_CLOSED, moves.changed()) => {
                        if more.is_err() {
                            break;
                        }
                    }
                }
            },
        }
    };
    tokio::select! {
        () = both => {}
        () = gone.cancelled() => {}
    }
    Ok(())
}
