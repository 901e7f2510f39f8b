//! Consoles from the network: TLS with certificates of clients, never without.
//!
//! Certificates are looked at before each connection and read again when one has changed; files that do not fit
//! together leave the ones before in use.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sandboxd_streaming::{Certificates, Tls, TlsError};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;

use super::peer::Link;

/// HTTP/2 alone: this is gRPC.
const ALPN: &[&[u8]] = &[b"h2"];
/// Connections from the network at once, those in their handshake with them; further ones wait.
const CONNECTIONS: usize = 256;
/// For a handshake: whoever takes longer is no console.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// accept(2) fails at once, and again, while no descriptor is free.
const PAUSE: Duration = Duration::from_millis(100);

/// Why the endpoint cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    #[error("listening for consoles on {address}: is the port taken?")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A bound endpoint, not yet accepting.
#[derive(Debug)]
pub struct Endpoint {
    listener: TcpListener,
    certificates: Certificates,
}

impl Endpoint {
    /// # Errors
    /// When the address cannot be had, or the certificates cannot be used.
    pub async fn bind(address: SocketAddr, tls: Tls) -> Result<Self, EndpointError> {
        let certificates = Certificates::read("the console", ALPN, tls)?;
        let listener = TcpListener::bind(address).await;
        let listener = listener.map_err(|source| EndpointError::Listen { address, source })?;
        if let Ok(address) = listener.local_addr() {
            tracing::info!(%address, "consoles are served over TLS");
        }
        Ok(Self { listener, certificates })
    }

    /// Connections whose handshake is done; ends with the receiver.
    #[must_use]
    pub fn accept(self) -> mpsc::Receiver<io::Result<Link>> {
        let (out, links) = mpsc::channel(1);
        tokio::spawn(self.run(out));
        links
    }

    async fn run(self, out: mpsc::Sender<io::Result<Link>>) {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    Err(error) => {
                        tracing::warn!(%error, "accepting a console's connection failed");
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    }
                },
                () = out.closed() => return,
            };
            let acceptor = self.certificates.acceptor();
            let out = out.clone();
            tokio::spawn(async move {
                if let Some(stream) = handshake(&acceptor, stream).await {
                    // An error says that the daemon is ending.
                    let _ = out.send(Ok(Link::tls(stream, place))).await;
                }
            });
        }
    }
}

async fn handshake(
    acceptor: &TlsAcceptor,
    stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |address| address.to_string());
    let _ = stream.set_nodelay(true);
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => Some(stream),
        Ok(Err(error)) => {
            tracing::warn!(%from, %error, "a console's TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::warn!(%from, seconds = HANDSHAKE.as_secs(), "a console's TLS handshake took too long");
            None
        }
    }
}
