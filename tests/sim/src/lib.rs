//! A simulated daemon for the console's tests and benches: the real protocol over real sockets, about as many
//! pods as a test asks for, none of which is there.
//!
//! ```text
//!  test, bench ──▶ Sim (change, flood, log) ──▶ world ──▶ Watch, ReadLog, Exec, Stop…, Remove… ──▶ console
//! ```

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "for tests: what cannot go on ends")]

mod exec;
mod service;
mod unasked;
mod watch;
pub mod world;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console::console_server::ConsoleServer;
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::{LogLine, Snapshot};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

pub use exec::Session;

use service::Service;
use watch::Watchers;

/// A certificate with its key, and the authority that clients' certificates must come from; all PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub cert: String,
    pub key: String,
    pub client_ca: String,
}

/// What the services and the test share.
#[derive(Debug)]
pub(crate) struct State {
    pub snapshot: Snapshot,
    pub watchers: Watchers,
    /// By container, the lines of its log.
    pub logs: std::collections::HashMap<String, Vec<LogLine>>,
    pub followers: Vec<(String, mpsc::UnboundedSender<LogLine>)>,
    /// What was asked to change something, in words: "stop-pod ID".
    pub acted: Vec<String>,
    /// Sessions of Exec that were begun.
    pub sessions: Vec<Session>,
    pub running: Vec<tokio::task::AbortHandle>,
    /// Answered to what changes something, instead of doing it.
    pub failure: Option<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Shared(Arc<Mutex<State>>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Changes the world and tells everyone who watches.
    pub fn change(&self, change: &Change) {
        let mut state = self.lock();
        world::apply(&mut state.snapshot, change);
        let State { snapshot, watchers, .. } = &mut *state;
        watchers.tell(change, snapshot);
    }
}

/// A daemon that serves until it is stopped.
#[derive(Debug)]
pub struct Sim {
    /// The socket of one on a Unix socket.
    pub socket: PathBuf,
    /// The address of one over TLS.
    pub address: Option<SocketAddr>,
    shared: Shared,
    stop: Option<oneshot::Sender<()>>,
    served: JoinHandle<()>,
}

fn shared(snapshot: Snapshot) -> Shared {
    Shared(Arc::new(Mutex::new(State {
        snapshot,
        watchers: Watchers::default(),
        logs: std::collections::HashMap::new(),
        followers: Vec::new(),
        acted: Vec::new(),
        sessions: Vec::new(),
        running: Vec::new(),
        failure: None,
    })))
}

impl Sim {
    /// Serves on a Unix socket.
    ///
    /// # Panics
    /// When the socket cannot be made.
    #[must_use]
    pub fn start(socket: &Path, snapshot: Snapshot) -> Self {
        let shared = shared(snapshot);
        let listener = UnixListener::bind(socket).unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let service = service(&shared);
        let served = tokio::spawn(async move {
            let incoming = UnixListenerStream::new(listener);
            let server = Server::builder().add_service(service);
            server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.unwrap();
        });
        Self { socket: socket.to_owned(), address: None, shared, stop: Some(stop), served }
    }

    /// Serves over TLS on a port of loopback, to clients with a certificate.
    ///
    /// # Panics
    /// When there is no port, or the certificates are none.
    pub async fn start_tls(tls: &Tls, snapshot: Snapshot) -> Self {
        Self::start_tls_at("127.0.0.1:0", tls, snapshot).await
    }

    /// As [`Sim::start_tls`], on a given address.
    ///
    /// # Panics
    /// When the address is taken, or the certificates are none.
    pub async fn start_tls_at(at: &str, tls: &Tls, snapshot: Snapshot) -> Self {
        let shared = shared(snapshot);
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = ServerTlsConfig::new()
            .identity(Identity::from_pem(&tls.cert, &tls.key))
            .client_ca_root(Certificate::from_pem(&tls.client_ca));
        let (stop, stopped) = oneshot::channel::<()>();
        let service = service(&shared);
        let served = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            let server = Server::builder().tls_config(config).unwrap().add_service(service);
            server.serve_with_incoming_shutdown(incoming, async { drop(stopped.await) }).await.unwrap();
        });
        Self { socket: PathBuf::new(), address: Some(address), shared, stop: Some(stop), served }
    }

    pub fn change(&self, change: &Change) {
        self.shared.change(change);
    }

    /// What the console would be told now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.lock().snapshot.clone()
    }

    /// What was asked to change something so far: "stop-pod ID".
    #[must_use]
    pub fn acted(&self) -> Vec<String> {
        self.shared.lock().acted.clone()
    }

    /// Sessions of Exec so far.
    #[must_use]
    pub fn sessions(&self) -> Vec<Session> {
        self.shared.lock().sessions.clone()
    }

    /// From now on, whatever changes something fails with these words.
    pub fn fail_with(&self, words: &str) {
        self.shared.lock().failure = Some(words.to_owned());
    }

    /// Appends a line to a container's log.
    pub fn log(&self, container_id: &str, stderr: bool, text: &str) {
        let line =
            LogLine { time_ns: world::now_ns(), stderr, partial: false, text: text.as_bytes().to_vec() };
        let mut state = self.shared.lock();
        state.logs.entry(container_id.to_owned()).or_default().push(line.clone());
        state.followers.retain(|(of, follower)| of != container_id || follower.send(line.clone()).is_ok());
    }

    /// Tells `rate` checks a second, and for each ten of them a changed pod, until the handle is aborted.
    #[must_use]
    pub fn flood(&self, rate: u64) -> JoinHandle<()> {
        const TICK: Duration = Duration::from_millis(10);
        let shared = self.shared.clone();
        tokio::spawn(async move {
            let mut tick = tokio::time::interval(TICK);
            let mut due = 0;
            loop {
                tick.tick().await;
                due += rate * 10;
                while due >= 1_000 {
                    due -= 1_000;
                    // A statement of its own: the guard would live as long as the loop.
                    let changes = world::step(&shared.lock().snapshot);
                    for change in changes {
                        shared.change(&change);
                    }
                }
            }
        })
    }

    /// Ends every stream and the server, and takes its socket away.
    ///
    /// # Panics
    /// When the server failed.
    pub async fn stop(mut self) {
        {
            let mut state = self.shared.lock();
            state.watchers.close();
            state.followers.clear();
            state.running.drain(..).for_each(|running| running.abort());
        }
        drop(self.stop.take());
        self.served.abort();
        drop((&mut self.served).await);
        if self.address.is_none() {
            drop(std::fs::remove_file(&self.socket));
        }
    }
}

fn service(shared: &Shared) -> ConsoleServer<Service> {
    ConsoleServer::new(Service { shared: shared.clone() }).max_encoding_message_size(MAX_MESSAGE_SIZE)
}
