//! Connects to a URL and upgrades.

use std::io;
use std::sync::Arc;

use hyper::client::conn::http1;
use hyper::header::HeaderMap;
use hyper::upgrade::Upgraded;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Why a client did not get what it wants.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the URL {url:?}: {problem}")]
    Url { url: String, problem: &'static str },
    #[error("the connection")]
    Io(#[from] io::Error),
    #[error("HTTP")]
    Http(#[from] hyper::Error),
    #[error("the server answered {status}: {headers:?}")]
    Refused { status: StatusCode, headers: HeaderMap },
    #[error("the server refused a stream")]
    Stream,
    #[error("TLS: {0}")]
    Tls(String),
    #[error("SPDY: {0}")]
    Spdy(String),
}

/// A URL that the CRI gave out, and how to get there.
#[derive(Clone)]
pub struct Endpoint {
    /// Host and port.
    authority: String,
    /// With the query, if any.
    path: String,
    tls: Option<TlsConnector>,
    pub method: Method,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Endpoint({}{})", self.authority, self.path)
    }
}

impl Endpoint {
    /// # Errors
    /// When the URL is neither http nor https, or has no path.
    pub fn new(url: &str) -> Result<Self, ClientError> {
        let bad = |problem| ClientError::Url { url: url.to_owned(), problem };
        let (rest, secure) = if let Some(rest) = url.strip_prefix("http://") {
            (rest, false)
        } else if let Some(rest) = url.strip_prefix("https://") {
            (rest, true)
        } else {
            return Err(bad("it is neither http nor https"));
        };
        let (authority, path) = rest.split_once('/').ok_or_else(|| bad("it has no path"))?;
        let endpoint = Self {
            authority: authority.to_owned(),
            path: format!("/{path}"),
            tls: None,
            method: Method::POST,
        };
        if secure { endpoint.with_tls(b"", None) } else { Ok(endpoint) }
    }

    /// Trusts these roots (PEM), and shows a certificate of its own (PEM: certificate, key).
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn with_tls(mut self, roots: &[u8], own: Option<(&[u8], &[u8])>) -> Result<Self, ClientError> {
        fn failed(error: impl std::fmt::Display) -> ClientError {
            ClientError::Tls(error.to_string())
        }
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots) {
            store.add(root.map_err(failed)?).map_err(failed)?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_root_certificates(store);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(cert).collect();
                let key = PrivateKeyDer::from_pem_slice(key).map_err(failed)?;
                builder.with_client_auth_cert(chain.map_err(failed)?, key).map_err(failed)?
            }
        };
        self.tls = Some(TlsConnector::from(Arc::new(config)));
        Ok(self)
    }

    /// Sends a request with these headers; the answer has to be 101.
    ///
    /// # Errors
    /// With the server's answer, if it is another.
    pub async fn upgrade(
        &self,
        headers: &[(&str, &str)],
    ) -> Result<(TokioIo<Upgraded>, HeaderMap), ClientError> {
        let socket = TcpStream::connect(&self.authority).await?;
        socket.set_nodelay(true)?;
        match &self.tls {
            None => self.send(socket, headers).await,
            Some(tls) => {
                let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
                let name = ServerName::try_from(host.to_owned())
                    .map_err(|error| ClientError::Tls(error.to_string()))?;
                let io = tls.connect(name, socket).await?;
                self.send(io, headers).await
            }
        }
    }

    async fn send<T>(
        &self,
        io: T,
        headers: &[(&str, &str)],
    ) -> Result<(TokioIo<Upgraded>, HeaderMap), ClientError>
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, connection) = http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection.with_upgrades());
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(&self.path)
            .header("Host", &self.authority)
            .header("Connection", "Upgrade");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(String::new()).map_err(|_| ClientError::Url {
            url: self.path.clone(),
            problem: "no request can be made of it",
        })?;
        let response = sender.send_request(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(ClientError::Refused { status, headers });
        }
        Ok((TokioIo::new(hyper::upgrade::on(response).await?), headers))
    }

    /// Upgrades to SPDY; gives the protocol version that the server chose.
    pub(super) async fn spdy(
        &self,
        protocols: &[&str],
    ) -> Result<(crate::spdy::Connection, String), ClientError> {
        let protocols = protocols.join(", ");
        let headers = [("Upgrade", crate::spdy::NAME), ("X-Stream-Protocol-Version", &protocols)];
        let (io, headers) = self.upgrade(&headers).await?;
        let chosen = headers.get("x-stream-protocol-version").and_then(|value| value.to_str().ok());
        let connection =
            crate::spdy::Connection::client(io).map_err(|error| ClientError::Spdy(error.to_string()))?;
        Ok((connection, chosen.unwrap_or_default().to_owned()))
    }

    /// Upgrades to a WebSocket; gives the subprotocol that the server chose.
    pub(super) async fn websocket(
        &self,
        protocols: &[&str],
    ) -> Result<(tokio_tungstenite::WebSocketStream<TokioIo<Upgraded>>, String), ClientError> {
        let protocols = protocols.join(", ");
        let mut headers = vec![
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        if !protocols.is_empty() {
            headers.push(("Sec-WebSocket-Protocol", &protocols));
        }
        let mut endpoint = self.clone();
        endpoint.method = Method::GET;
        let (io, headers) = endpoint.upgrade(&headers).await?;
        let chosen = headers.get("sec-websocket-protocol").and_then(|value| value.to_str().ok());
        Ok((crate::ws::client(io).await, chosen.unwrap_or_default().to_owned()))
    }
}
