//! Port-forward over SPDY, or SPDY through WebSocket.

use super::{ClientError, Endpoint, Reader, Writer};
use crate::spdy::{Connection, Headers};
use crate::ws::Tunnel;

const PROTOCOL: &str = "portforward.k8s.io";

/// A client's connection, over which many are forwarded.
#[derive(Debug)]
pub struct Forward {
    connection: Connection,
    requests: u32,
}

/// One forwarded connection.
pub struct Forwarded {
    pub reader: Reader,
    /// Shut down, it is the server's end of input.
    pub writer: Writer,
    /// Why it could not be had; ends empty where it could.
    pub error: Reader,
}

impl std::fmt::Debug for Forwarded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forwarded").finish_non_exhaustive()
    }
}

impl Forward {
    /// # Errors
    /// When the server refuses it.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let (connection, _) = endpoint.spdy(&[PROTOCOL]).await?;
        Ok(Self { connection, requests: 0 })
    }

    /// As kubectl from 1.31 does it.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn tunnel(endpoint: &Endpoint) -> Result<Self, ClientError> {
        let (io, _) = endpoint.websocket(&["SPDY/3.1+portforward.k8s.io"]).await?;
        let connection =
            Connection::client(Tunnel::new(io)).map_err(|error| ClientError::Spdy(error.to_string()))?;
        Ok(Self { connection, requests: 0 })
    }

    /// Opens a connection to a port, with an id of its own as today's clients do it, or without as the oldest did.
    ///
    /// # Errors
    /// When the server refuses a stream; what it cannot connect to shows in [`Forwarded::error`].
    pub async fn connect(&mut self, port: &str, with_id: bool) -> Result<Forwarded, ClientError> {
        let id = self.requests;
        self.requests += 1;
        let headers = |kind: &str| {
            let mut headers =
                vec![("streamtype".to_owned(), kind.to_owned()), ("port".to_owned(), port.to_owned())];
            if with_id {
                headers.push(("requestid".to_owned(), id.to_string()));
            }
            Headers(headers)
        };
        let mut error = self.connection.open(headers("error")).await.ok_or(ClientError::Stream)?;
        // Nothing is ever written there.
        tokio::io::AsyncWriteExt::shutdown(&mut error.writer).await?;
        let data = self.connection.open(headers("data")).await.ok_or(ClientError::Stream)?;
        Ok(Forwarded {
            reader: Box::new(data.reader),
            writer: Box::new(data.writer),
            error: Box::new(error.reader),
        })
    }
}
