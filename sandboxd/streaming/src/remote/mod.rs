//! Exec and attach: a process's streams, and how it ended, on a client's channels.

mod resize;
mod spdy;
mod status;
mod ws;

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

pub(crate) use self::spdy::serve as serve_spdy;
pub(crate) use self::status::Format;
use self::status::Status;
pub(crate) use self::ws::{SUBPROTOCOLS, serve as serve_ws};
use crate::backend::{Backend, BackendError, Exited, Session, Target, Wanted};
use crate::copy::{BoxRead, BoxWrite, Copied, copy, discard};

/// The protocol versions of both transports, best first.
pub(crate) const V5: &str = "v5.channel.k8s.io";
pub(crate) const V4: &str = "v4.channel.k8s.io";
pub(crate) const V3: &str = "v3.channel.k8s.io";
pub(crate) const V2: &str = "v2.channel.k8s.io";
pub(crate) const V1: &str = "channel.k8s.io";

/// A client's channels.
struct Channels {
    stdin: Option<BoxRead>,
    stdout: Option<BoxWrite>,
    stderr: Option<BoxWrite>,
    resize: Option<BoxRead>,
    error: BoxWrite,
    format: Format,
    /// Cancelled when the client is gone.
    gone: CancellationToken,
}

/// What a session is asked for.
#[derive(Debug, Clone)]
pub(crate) enum Command {
    Exec { container: String, command: Vec<String>, wanted: Wanted },
    Attach { container: String, wanted: Wanted },
}

impl Command {
    /// `None`: a port-forward.
    pub(crate) fn of(target: Target) -> Option<Self> {
        match target {
            Target::Exec { container, command, wanted } => Some(Self::Exec { container, command, wanted }),
            Target::Attach { container, wanted } => Some(Self::Attach { container, wanted }),
            Target::PortForward { .. } => None,
        }
    }

    pub(crate) fn wanted(&self) -> Wanted {
        match self {
            Self::Exec { wanted, .. } | Self::Attach { wanted, .. } => *wanted,
        }
    }

    async fn start(&self, backend: &dyn Backend) -> Result<Session, BackendError> {
        match self {
            Self::Exec { container, command, wanted } => backend.exec(container, command, *wanted).await,
            Self::Attach { container, wanted } => backend.attach(container, *wanted).await,
        }
    }

    fn status(&self, exited: &Result<Exited, BackendError>) -> Status {
        match (exited, self) {
            (Ok(Exited::Code(0) | Exited::Detached | Exited::Ended), _) => Status::success(),
            (Ok(Exited::Code(code)), Self::Exec { command, .. }) => Status::exit_code(*code, command),
            // How the container ended is not the client's business: it asked for its streams.
            (Ok(Exited::Code(_)), Self::Attach { .. }) => Status::success(),
            (Err(error), Self::Exec { .. }) => {
                Status::internal(&format!("error executing command in container: {error}"))
            }
            (Err(error), Self::Attach { .. }) => {
                Status::internal(&format!("error attaching to container: {error}"))
            }
        }
    }
}

/// Runs a session on its channels: all output, then the status, then the ends of the streams. `gone`: the client
/// went first, and everything of the session is dropped.
async fn run(backend: &dyn Backend, command: &Command, mut channels: Channels) {
    let gone = channels.gone.clone();
    let session = async {
        let exited = match command.start(backend).await {
            Ok(session) => pump(session, &mut channels).await?,
            Err(error) => Err(error),
        };
        let status = command.status(&exited);
        channels.error.write_all(&status.text(channels.format)).await.ok()?;
        for channel in [&mut channels.stdout, &mut channels.stderr].into_iter().flatten() {
            channel.shutdown().await.ok()?;
        }
        channels.error.shutdown().await.ok()
    };
    tokio::select! {
        done = session => if done.is_none() { tracing::debug!("a streaming client went during its session") },
        () = gone.cancelled() => tracing::debug!("a streaming client went before its session ended"),
    }
}

/// `None`: the client takes no output any more.
async fn pump(session: Session, channels: &mut Channels) -> Option<Result<Exited, BackendError>> {
    let Session { stdin, stdout, stderr, resize, mut exit } = session;
    let Channels { stdin: typing, stdout: out, stderr: err, resize: sizes, .. } = channels;
    let input = input(typing.take(), stdin);
    let sizes = sizes.take();
    let sizes = async {
        if let Some(mut from) = sizes {
            resize::forward(&mut from, resize).await;
        }
    };
    let inputs = async { tokio::join!(input, sizes) };
    let outputs = async { tokio::join!(output(stdout, out.as_mut()), output(stderr, err.as_mut())) };
    tokio::pin!(inputs, outputs);
    let (mut typed, mut read, mut exited) = (false, false, None);
    loop {
        tokio::select! {
            _ = &mut inputs, if !typed => typed = true,
            (one, other) = &mut outputs, if !read => {
                read = true;
                if one == Copied::Broken || other == Copied::Broken {
                    return None;
                }
            }
            end = &mut exit, if exited.is_none() => exited = Some(end),
        }
        let at_once = matches!(exited, Some(Ok(Exited::Detached) | Err(_)));
        if (at_once || read) && exited.is_some() {
            return exited;
        }
    }
}

/// The client's end of input is the process's. What comes when the process reads no more is thrown away: it would
/// hold up the other channels.
async fn input(from: Option<BoxRead>, to: Option<BoxWrite>) {
    let Some(mut from) = from else { return };
    if let Some(mut to) = to {
        let copied = copy(&mut from, &mut to, || ()).await;
        if copied == Copied::Read {
            // A process that is gone has its end of input.
            let _ = to.shutdown().await;
        }
    }
    discard(&mut from).await;
}

async fn output(from: Option<BoxRead>, to: Option<&mut BoxWrite>) -> Copied {
    match (from, to) {
        (Some(mut from), Some(to)) => copy(&mut from, to, || ()).await,
        (Some(mut from), None) => {
            discard(&mut from).await;
            Copied::Read
        }
        (None, _) => Copied::Read,
    }
}

/// What a transport needs to know of the server's settings.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// How long a client may take to open its streams.
    pub(crate) creation: Duration,
}
