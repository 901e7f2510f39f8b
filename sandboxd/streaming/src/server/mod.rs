//! The HTTP server: it takes connections, and each token once.

mod activity;
mod certificates;
mod handshake;
mod route;
mod session;
mod tls;
mod tokens;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::certificates::Certificates;
pub use self::tls::{MinVersion, Tls, TlsError};
pub use self::tokens::Full;
use self::tokens::Tokens;
use crate::backend::{Backend, Target};

/// How long a client may take for its request and a TLS handshake: it holds a connection meanwhile.
const REQUEST: Duration = Duration::from_secs(10);
/// A pause after the kernel refused a connection: too many files are open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long sessions may take to say goodbye at the end.
const FAREWELL: Duration = Duration::from_secs(2);

/// How the server is set up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Port 0: one that is free.
    pub address: SocketAddr,
    pub tls: Option<Tls>,
    /// A session without a byte in either direction for this long is cut off.
    pub idle: Duration,
    /// How long a SPDY client may take to open its streams.
    pub creation: Duration,
    /// Connections at once; more wait to be accepted.
    pub connections: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            idle: Duration::from_secs(4 * 60 * 60),
            creation: Duration::from_secs(30),
            connections: 1000,
        }
    }
}

/// Why the server does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error("listening on {address} for streaming clients")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A server that listens; [`Server::run`] serves.
pub struct Server {
    state: Arc<Urls>,
    listener: TcpListener,
    tls: Option<Certificates>,
    connections: usize,
}

/// Hands out URLs, and is what connections share.
pub struct Urls {
    base: String,
    tokens: Tokens,
    backend: Arc<dyn Backend>,
    idle: Duration,
    creation: Duration,
    sessions: TaskTracker,
    closing: CancellationToken,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("state", &self.state).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Urls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Urls").field("base", &self.base).finish_non_exhaustive()
    }
}

impl Urls {
    /// A URL that serves the target once, within a minute.
    ///
    /// # Errors
    /// When too many are out already.
    pub fn url_for(&self, target: Target) -> Result<String, Full> {
        let kind = route::Kind::of(&target).path();
        let token = self.tokens.insert(target)?;
        Ok(format!("{}/{kind}/{token}", self.base))
    }
}

impl Server {
    /// Listens, with the certificates read.
    ///
    /// # Errors
    /// When the address cannot be had, or a certificate is unusable.
    pub async fn bind(settings: Settings, backend: Arc<dyn Backend>) -> Result<Self, ServerError> {
        let Settings { address, tls, idle, creation, connections } = settings;
        let tls =
            tls.map(|tls| Certificates::read("the streaming server", &[b"http/1.1"], tls)).transpose()?;
        let listen = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let mut reached = listener.local_addr().map_err(listen)?;
        // Listening everywhere, it is reached from its own machine: that is where kubelet is.
        if reached.ip().is_unspecified() {
            reached.set_ip(match reached.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let state = Arc::new(Urls {
            base: format!("{scheme}://{reached}"),
            tokens: Tokens::default(),
            backend,
            idle,
            creation,
            sessions: TaskTracker::new(),
            closing: CancellationToken::new(),
        });
        Ok(Self { state, listener, tls, connections })
    }

    #[must_use]
    pub fn urls(&self) -> Arc<Urls> {
        Arc::clone(&self.state)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until `closing`; sessions are cut off then, with two seconds for their last bytes.
    pub async fn run(self, closing: CancellationToken) {
        let Self { state, listener, tls, connections } = self;
        let places = Arc::new(Semaphore::new(connections));
        loop {
            let accepted = async {
                // The semaphore is never closed.
                let place = Arc::clone(&places).acquire_owned().await.ok()?;
                Some((listener.accept().await, place))
            };
            let (accepted, place) = tokio::select! {
                Some(accepted) = accepted => accepted,
                () = closing.cancelled() => break,
            };
            match accepted {
                Ok((socket, _)) => {
                    let connection =
                        serve(Arc::clone(&state), socket, tls.as_ref().map(Certificates::acceptor), place);
                    state.sessions.spawn(connection);
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a streaming client failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        state.closing.cancel();
        state.sessions.close();
        if tokio::time::timeout(FAREWELL, state.sessions.wait()).await.is_err() {
            tracing::debug!("streaming sessions did not end in time");
        }
    }
}

async fn serve(state: Arc<Urls>, socket: TcpStream, tls: Option<TlsAcceptor>, place: OwnedSemaphorePermit) {
    // Keystrokes do not wait for company.
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    match tls {
        None => http(state, socket, place).await,
        Some(tls) => match tokio::time::timeout(REQUEST, tls.accept(socket)).await {
            Ok(Ok(io)) => http(state, io, place).await,
            Ok(Err(error)) => tracing::debug!(%error, "a streaming client's TLS handshake failed"),
            Err(_) => tracing::debug!("a streaming client's TLS handshake took too long"),
        },
    }
}

async fn http<T>(state: Arc<Urls>, io: T, place: OwnedSemaphorePermit)
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let closing = state.closing.clone();
    // A session outlives this connection, and holds its place.
    let place = Arc::new(place);
    let service = hyper::service::service_fn(move |request| {
        let answer = route::answer(&state, request, Arc::clone(&place));
        std::future::ready(Ok::<_, std::convert::Infallible>(answer))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .serve_connection(TokioIo::new(io), service)
        .with_upgrades();
    tokio::select! {
        ended = connection => if let Err(error) = ended {
            tracing::debug!(%error, "a streaming client's request failed");
        },
        () = closing.cancelled() => {}
    }
}
