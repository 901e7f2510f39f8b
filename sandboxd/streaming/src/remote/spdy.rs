//! Exec and attach over SPDY: a stream for each channel, named by its `streamtype` header.

use tokio::time::timeout;

use super::{Channels, Command, Format, Limits, V3, V4, V5, run};
use crate::backend::{Backend, Wanted};
use crate::copy::{BoxRead, BoxWrite};
use crate::spdy::{Connection, Stream};

/// Serves one session on the connection, then closes it.
pub(crate) async fn serve(
    mut connection: Connection,
    protocol: &str,
    command: &Command,
    backend: &dyn Backend,
    limits: Limits,
) {
    let wanted = command.wanted();
    let expected = Expected::new(protocol, wanted);
    let streams = match timeout(limits.creation, expected.take(&mut connection)).await {
        Ok(Some(streams)) => streams,
        Ok(None) => return tracing::debug!("a streaming client went before it opened its streams"),
        Err(_) => {
            let seconds = limits.creation.as_secs();
            tracing::debug!(seconds, "a streaming client did not open its streams in time");
            return connection.close().await;
        }
    };
    let format = if matches!(protocol, V4 | V5) { Format::Json } else { Format::Text };
    if let Some((channels, _unused)) = streams.channels(format, &connection) {
        run(backend, command, channels).await;
    }
    connection.close().await;
}

/// The streams that the client has to open before anything begins.
#[derive(Debug, Default)]
struct Expected {
    error: Want,
    stdin: Want,
    stdout: Want,
    stderr: Want,
    resize: Want,
}

#[derive(Debug, Default)]
enum Want {
    #[default]
    No,
    Yes,
    Here(Box<Stream>),
}

impl Want {
    fn when(wanted: bool) -> Self {
        if wanted { Self::Yes } else { Self::No }
    }

    fn take(&mut self) -> Option<Stream> {
        match std::mem::take(self) {
            Self::Here(stream) => Some(*stream),
            Self::No | Self::Yes => None,
        }
    }
}

impl Expected {
    /// Terminals can be resized since v3.
    fn new(protocol: &str, wanted: Wanted) -> Self {
        Self {
            error: Want::Yes,
            stdin: Want::when(wanted.stdin),
            stdout: Want::when(wanted.stdout),
            stderr: Want::when(wanted.stderr),
            resize: Want::when(wanted.tty && matches!(protocol, V3 | V4 | V5)),
        }
    }

    /// `None`: the client is gone.
    async fn take(mut self, connection: &mut Connection) -> Option<Self> {
        while !self.complete() {
            let offer = connection.next().await?;
            let kind = offer.stream.headers.get("streamtype").unwrap_or_default();
            let place = match kind {
                "error" => &mut self.error,
                "stdin" => &mut self.stdin,
                "stdout" => &mut self.stdout,
                "stderr" => &mut self.stderr,
                "resize" => &mut self.resize,
                _ => &mut Want::No,
            };
            if matches!(place, Want::Yes) {
                *place = Want::Here(Box::new(offer.accept().await?));
            } else {
                // Dropped, it is refused.
                tracing::debug!(kind, "a stream that was not asked for");
            }
        }
        Some(self)
    }

    fn complete(&self) -> bool {
        let all = [&self.error, &self.stdin, &self.stdout, &self.stderr, &self.resize];
        !all.iter().any(|want| matches!(want, Want::Yes))
    }

    /// The other halves of the streams are held until the session is over: dropped, they would reset them.
    fn channels(mut self, format: Format, connection: &Connection) -> Option<(Channels, Vec<BoxHalf>)> {
        let mut unused = Vec::new();
        let error = writer(&mut self.error, &mut unused)?;
        let channels = Channels {
            stdin: reader(&mut self.stdin, &mut unused),
            stdout: writer(&mut self.stdout, &mut unused),
            stderr: writer(&mut self.stderr, &mut unused),
            resize: reader(&mut self.resize, &mut unused),
            error,
            format,
            gone: connection.gone(),
        };
        Some((channels, unused))
    }
}

/// The half of a stream that its channel does not use.
enum BoxHalf {
    Read { _half: BoxRead },
    Write { _half: BoxWrite },
}

fn reader(want: &mut Want, unused: &mut Vec<BoxHalf>) -> Option<BoxRead> {
    let Stream { reader, writer, .. } = want.take()?;
    unused.push(BoxHalf::Write { _half: Box::new(writer) });
    Some(Box::new(reader))
}

fn writer(want: &mut Want, unused: &mut Vec<BoxHalf>) -> Option<BoxWrite> {
    let Stream { reader, writer, .. } = want.take()?;
    unused.push(BoxHalf::Read { _half: Box::new(reader) });
    Some(Box::new(writer))
}
