//! Connects to a daemon: over its Unix socket, or over TLS with a client certificate.

use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::target::{Address, Target};

/// A daemon across a network that says nothing for so long is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
const KEEP_ALIVE_ANSWER: Duration = Duration::from_secs(5);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
pub(super) enum LinkError {
    #[error("cannot reach {path}: {why}")]
    Connect { path: String, why: String },
    #[error("cannot read {path}: {why}")]
    File { path: String, why: String },
    #[error("{path} does not answer")]
    Silent { path: String },
    #[error("the daemon refused: {0}")]
    Refused(String),
    #[error("the daemon closed the stream")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(String),
}

pub(super) async fn connect(target: &Target) -> Result<Channel, LinkError> {
    let failed = |error: &dyn std::error::Error| LinkError::Connect {
        path: target.address.to_string(),
        why: root_cause(error),
    };
    match &target.address {
        Address::Unix(path) => {
            let socket = path.clone();
            // The address is never used: the connector goes to the socket.
            Endpoint::from_static("http://console.invalid")
                .connect_with_connector(service_fn(move |_| {
                    let socket = socket.clone();
                    async move { UnixStream::connect(socket).await.map(TokioIo::new) }
                }))
                .await
                .map_err(|error| failed(&error))
        }
        Address::Https(authority) => {
            let mut endpoint =
                Endpoint::from_shared(format!("https://{authority}")).map_err(|error| failed(&error))?;
            if let Some(tls) = &target.tls {
                let config = tls.config().map_err(|(path, error)| LinkError::File {
                    path: path.display().to_string(),
                    why: error.to_string(),
                })?;
                endpoint = endpoint.tls_config(config).map_err(|error| failed(&error))?;
            }
            endpoint
                .http2_keep_alive_interval(KEEP_ALIVE)
                .keep_alive_timeout(KEEP_ALIVE_ANSWER)
                .keep_alive_while_idle(true)
                .connect()
                .await
                .map_err(|error| failed(&error))
        }
    }
}

/// The innermost error: "No such file or directory" says more than "transport error".
pub(super) fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
}
