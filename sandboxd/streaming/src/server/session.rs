//! A session after its upgrade.

use std::sync::Arc;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;

use super::Urls;
use super::activity::{Activity, Watched};
use super::handshake::Spoken;
use crate::backend::Target;
use crate::spdy::Connection;
use crate::ws::{self, Tunnel};
use crate::{forward, remote};

/// Runs the session to its end; cut off when it is idle for too long, or the server closes.
pub(super) async fn run(state: Arc<Urls>, upgraded: OnUpgrade, spoken: Spoken, target: Target) {
    let io = match upgraded.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => return tracing::debug!(%error, "a streaming client went during its upgrade"),
    };
    let activity = Arc::new(Activity::default());
    let io = Watched::new(io, Arc::clone(&activity));
    tracing::debug!(?spoken, "a streaming session begins");
    tokio::select! {
        () = serve(&state, io, spoken, target) => tracing::debug!("a streaming session ends"),
        () = activity.idle(state.idle) => {
            tracing::info!(seconds = state.idle.as_secs(), "an idle streaming session is cut off");
        }
        () = state.closing.cancelled() => tracing::debug!("a streaming session is cut off: the daemon ends"),
    }
}

type Io = Watched<TokioIo<hyper::upgrade::Upgraded>>;

async fn serve(state: &Urls, io: Io, spoken: Spoken, target: Target) {
    let limits = remote::Limits { creation: state.creation };
    let backend = Arc::clone(&state.backend);
    match (spoken, target) {
        (Spoken::WebSocket(protocol), Target::PortForward { pod, ports }) => {
            let ports = forward::Ports { pod, ports };
            forward::serve_ws(ws::server(io).await, protocol, ports, backend).await;
        }
        (Spoken::Spdy(_), Target::PortForward { pod, ports }) => {
            let Some(connection) = spdy(io) else { return };
            let ports = forward::Ports { pod, ports };
            forward::serve_spdy(connection, ports, backend, limits.creation).await;
        }
        (Spoken::Tunnel(_), Target::PortForward { pod, ports }) => {
            let Some(connection) = spdy(Tunnel::new(ws::server(io).await)) else { return };
            let ports = forward::Ports { pod, ports };
            forward::serve_spdy(connection, ports, backend, limits.creation).await;
        }
        (spoken, target) => {
            let Some(command) = remote::Command::of(target) else { return };
            match spoken {
                Spoken::WebSocket(protocol) => {
                    remote::serve_ws(ws::server(io).await, protocol, &command, &*backend).await;
                }
                Spoken::Spdy(protocol) => {
                    let Some(connection) = spdy(io) else { return };
                    remote::serve_spdy(connection, protocol, &command, &*backend, limits).await;
                }
                Spoken::Tunnel(protocol) => {
                    let Some(connection) = spdy(Tunnel::new(ws::server(io).await)) else { return };
                    remote::serve_spdy(connection, protocol, &command, &*backend, limits).await;
                }
            }
        }
    }
}

fn spdy<T>(io: T) -> Option<Connection>
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + 'static,
{
    Connection::server(io)
        .inspect_err(|error| tracing::warn!(%error, "no SPDY connection can be set up"))
        .ok()
}
