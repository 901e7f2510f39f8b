//! The way to the daemon.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use hyper_util::rt::TokioIo;
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console::console_client::ConsoleClient;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::config::{Config, ConfigError};

/// Where the daemon is.
#[derive(Debug, Args)]
pub struct ConsoleArgs {
    /// Configuration file, for the socket [default: /etc/sandboxd/config.toml, if it is there]
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// The daemon's socket for consoles
    #[arg(long, value_name = "P")]
    pub console_socket: Option<PathBuf>,
}

/// Why a command could not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no daemon answers on {path}: start sandboxd, or name its socket with --console-socket")]
    NoDaemon { path: PathBuf, source: io::Error },
    #[error("{path} is no console socket of sandboxd: name the daemon's with --console-socket")]
    NotConsole { path: PathBuf },
    /// The daemon's words.
    #[error("{0}")]
    Refused(String),
    #[error("the connection to the daemon broke: {0}")]
    Broken(String),
    #[error("no denied check {of}is recorded{forgotten}")]
    NoneDenied { of: String, forgotten: String },
    #[error("cannot read the recording {path}")]
    Recording { path: PathBuf, source: io::Error },
    #[error("line {line} of {path} is no line of a recording of sandboxd-tui: name what its --record wrote")]
    RecordingLine { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("check {seq} is not in the recording {path}")]
    NotRecorded { path: PathBuf, seq: u64 },
    #[error(
        "the recording {path} holds no explained check{of}: a recording has those the console asked about"
    )]
    NoneRecorded { path: PathBuf, of: String },
    #[error("cannot open {path} for appending: name a file in a writable directory")]
    Open { path: PathBuf, source: io::Error },
    #[error("writing to {to} failed")]
    Write { to: String, source: io::Error },
    #[error("making JSON failed")]
    Json(#[from] serde_json::Error),
    #[error("signals cannot be received")]
    Signals(#[source] io::Error),
}

impl ConsoleArgs {
    /// The socket by flag, file or default.
    pub(super) fn socket(&self) -> Result<PathBuf, ClientError> {
        match &self.console_socket {
            Some(path) => Ok(path.clone()),
            None => Ok(Config::load(self.config.as_deref())?.console_socket),
        }
    }
}

pub(super) type Client = ConsoleClient<Channel>;

pub(super) async fn connect(path: &Path) -> Result<Client, ClientError> {
    let socket = path.to_owned();
    let connector = tower::service_fn(move |_: tonic::transport::Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    let endpoint = Endpoint::from_static("http://sandboxd.invalid");
    match endpoint.connect_with_connector(connector).await {
        Ok(channel) => Ok(ConsoleClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE)),
        Err(error) => Err(ClientError::NoDaemon { path: path.to_owned(), source: root_cause(&error) }),
    }
}

/// The innermost error: "No such file or directory" says more than "transport error".
fn root_cause(error: &(dyn StdError + 'static)) -> io::Error {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    match cause.downcast_ref::<io::Error>() {
        Some(io) => io
            .raw_os_error()
            .map_or_else(|| io::Error::new(io.kind(), io.to_string()), io::Error::from_raw_os_error),
        None => io::Error::other(cause.to_string()),
    }
}

/// What the daemon answered, in words. UNIMPLEMENTED without words comes from a socket that serves something else.
pub(super) fn refused(path: &Path, status: &Status) -> ClientError {
    match status.code() {
        Code::Unimplemented if !status.message().contains("built") => {
            ClientError::NotConsole { path: path.to_owned() }
        }
        Code::Unavailable | Code::Unknown | Code::Cancelled => {
            ClientError::Broken(status.message().to_owned())
        }
        _ if status.message().is_empty() => ClientError::Refused(status.code().to_string()),
        _ => ClientError::Refused(status.message().to_owned()),
    }
}
