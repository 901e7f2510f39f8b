//! Serving, and the way out.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use sd_notify::NotifyState;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::accept::connections;
use super::{Daemon, DaemonError, Signals};
use crate::config::Config;
use crate::console::endpoint::Endpoint;
use crate::console::peer::Link;
use crate::console::{self, Sources};
use crate::cri::Cri;
use crate::image;
use crate::metrics;
use crate::network::Network;
use crate::pod::Pods;

/// How long rpcs in flight may take to finish. Below systemd's 90 s, after which it kills.
const DRAIN: Duration = Duration::from_secs(30);
/// How long connections may take to end by themselves once no rpc is in flight: the last answers are sent.
const FAREWELL: Duration = Duration::from_millis(300);

/// How often a console that says nothing is asked whether it is there, and how long it has for the answer.
const ALIVE_EVERY: Duration = Duration::from_secs(30);
const ALIVE_WITHIN: Duration = Duration::from_secs(20);

/// Between tries to give a lease back: at first, and when there is nothing to give back.
const REAP_FIRST: Duration = Duration::from_secs(5);
const REAP_IDLE: Duration = Duration::from_secs(300);

impl Daemon {
    /// Serves until a signal comes, then drains: new connections are refused, rpcs in flight finish within
    /// 30 seconds, pods live on. A second signal ends the wait.
    ///
    /// # Errors
    /// When the CRI can no longer be served.
    pub async fn run(self, mut signals: Signals) -> Result<(), DaemonError> {
        let Self {
            cri,
            pods,
            containers,
            images,
            image_room,
            sources,
            cri_socket,
            console_socket,
            console_endpoint,
            streams,
            network,
            telemetry,
            config,
            locks,
        } = self;
        let (listener, cri_file) = cri_socket.listen()?;
        let (console_listener, console_file) = console_socket.listen()?;
        let closing = sources.closing.clone();
        let acts = sources.acts.clone();
        // A console never ends its stream by itself: it is cut off at the end, not drained.
        let console = tokio::spawn(
            tonic::transport::Server::builder()
                // Who is gone without a word has its commands ended, and its place given to the next.
                .http2_keepalive_interval(Some(ALIVE_EVERY))
                .http2_keepalive_timeout(Some(ALIVE_WITHIN))
                .add_service(console::server(Arc::clone(&sources)))
                .add_service(image::server(image_room, sources.operators.clone()))
                .serve_with_incoming(consoles(console_listener, console_endpoint)),
        );
        let leaks = tokio::spawn(console::leaks::watch(Arc::clone(&sources)));
        let metrics = metrics(&config, sources, closing.clone()).await?;
        // Ends with `closing`: clients of streams do not end by themselves, either.
        let streams = tokio::spawn(streams.run(closing.clone()));
        let reaper = tokio::spawn(reap_leases(Arc::clone(&pods), network));
        let follower = tokio::spawn(Arc::clone(&containers).follow_pods());
        let served = cri
            .clone()
            .router()
            .serve_with_incoming_shutdown(connections(listener), closing.clone().cancelled_owned());
        let mut served = tokio::spawn(served);

        let status = format!("serving {}", config.cri_socket.display());
        tracing::info!(version = env!("CARGO_PKG_VERSION"), "{status}");
        notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
        let signal = tokio::select! {
            signal = signals.next() => signal,
            ended = &mut served => return ended.unwrap_or(Ok(())).map_err(DaemonError::Serve),
        };

        tracing::info!(signal, "draining; pods live on");
        notify(&[NotifyState::Stopping, NotifyState::Status("draining")]);
        closing.cancel();
        // Nobody should find a socket that no longer answers.
        drop((cri_file, console_file));
        tokio::select! {
            () = drained(&cri, &acts, &mut served) => {
                pods.drain(DRAIN).await;
                containers.drain(DRAIN).await;
            }
            signal = signals.next() => tracing::warn!(signal, "not waiting for rpcs in flight"),
        }
        served.abort();
        console.abort();
        reaper.abort();
        leaks.abort();
        follower.abort();
        // They were told when the draining began.
        let _ = tokio::time::timeout(FAREWELL, streams).await;
        if let Some(metrics) = metrics {
            metrics.abort();
        }
        // Blocks: the last spans are sent, or given up.
        let _ = tokio::task::spawn_blocking(move || telemetry.shutdown()).await;
        drop((images, locks));
        tracing::info!("ended");
        Ok(())
    }
}

/// The consoles of this machine, and of others where an address is configured.
fn consoles(
    listener: tokio::net::UnixListener,
    endpoint: Option<Endpoint>,
) -> impl Stream<Item = std::io::Result<Link>> {
    let local = connections(listener).map(|stream| stream.map(Link::unix));
    let remote = stream::iter(endpoint.map(Endpoint::accept)).flat_map(ReceiverStream::new);
    stream::select(local, remote)
}

/// Serves metrics, where an address is configured.
async fn metrics(
    config: &Config,
    sources: Arc<Sources>,
    closing: CancellationToken,
) -> Result<Option<JoinHandle<std::io::Result<()>>>, DaemonError> {
    let Some(address) = config.metrics() else { return Ok(None) };
    let bound = tokio::net::TcpListener::bind(address).await;
    let listener = bound.map_err(|source| DaemonError::Metrics { address, source })?;
    Ok(Some(tokio::spawn(metrics::serve(listener, sources, closing.cancelled_owned()))))
}

/// Looks once at the networks of the adopted pods, then gives back the leases of pods that are gone: those of an earlier boot at once, those whose DEL failed
/// with a pause that grows.
async fn reap_leases(pods: Arc<Pods>, network: Arc<Network>) {
    pods.check_networks(&network).await;
    let mut pause = REAP_FIRST;
    loop {
        let left = pods.reap_leases(&network).await;
        pause = if left == 0 { REAP_IDLE } else { (pause * 2).min(REAP_IDLE) };
        tokio::time::sleep(pause).await;
    }
}

/// Ends when every rpc has its answer, or took too long.
async fn drained(
    cri: &Cri,
    acts: &TaskTracker,
    served: &mut JoinHandle<Result<(), tonic::transport::Error>>,
) {
    acts.close();
    let idle = async { tokio::join!(cri.idle(), acts.wait()) };
    if tokio::time::timeout(DRAIN, idle).await.is_err() {
        tracing::warn!(seconds = DRAIN.as_secs(), "some rpcs did not finish in time");
    }
    match tokio::time::timeout(FAREWELL, served).await {
        Ok(Ok(Err(error))) => tracing::warn!(%error, "ending the CRI's connections failed"),
        Ok(_) => {}
        Err(_) => tracing::debug!("closing connections that clients hold open"),
    }
}

/// sd_notify(3); without NOTIFY_SOCKET it does nothing.
fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::warn!(%error, "telling the service manager failed");
    }
}
