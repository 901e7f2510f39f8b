//! What the daemon does for a session.

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

/// Which streams a client wants. With a terminal there is no stderr: it comes with stdout.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a field of ExecRequest and AttachRequest")]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    pub tty: bool,
}

/// What a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    Exec {
        container: String,
        command: Vec<String>,
        wanted: Wanted,
    },
    Attach {
        container: String,
        wanted: Wanted,
    },
    /// Ports of the request; empty: whatever the client asks for.
    PortForward {
        pod: String,
        ports: Vec<u16>,
    },
}

/// A terminal's size in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: u16,
    pub rows: u16,
}

/// How a session's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exited {
    /// The exit code, 128 + n for signal n.
    Code(i32),
    /// An attach whose container has ended: what it wrote is still read to its end.
    Ended,
    /// An attach that is over while the container runs on: nothing more is read.
    Detached,
}

/// A process's streams. Dropping `stdin` is its end of file; dropping everything ends the session.
pub struct Session {
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    pub stdout: Option<Box<dyn AsyncRead + Send + Unpin>>,
    pub stderr: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Takes sizes of the client's terminal.
    pub resize: Option<mpsc::Sender<Size>>,
    /// Ends with the process. Dropped with the session when the client goes.
    pub exit: Pin<Box<dyn Future<Output = Result<Exited, BackendError>> + Send>>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").finish_non_exhaustive()
    }
}

/// Why a session cannot be had: words for the client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BackendError(pub String);

/// A connection into a pod.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The daemon's side of a session.
#[async_trait::async_trait]
pub trait Backend: Send + Sync + 'static {
    async fn exec(
        &self,
        container: &str,
        command: &[String],
        wanted: Wanted,
    ) -> Result<Session, BackendError>;
    async fn attach(&self, container: &str, wanted: Wanted) -> Result<Session, BackendError>;
    /// Connects to a TCP port of the pod's loopback, in its network namespace, IPv4 then IPv6.
    async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Connection>, BackendError>;
}
