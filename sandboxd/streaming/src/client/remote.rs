//! Exec and attach over SPDY.

use tokio::io::AsyncReadExt;

use super::{ClientError, Endpoint, Reader, Writer};
use crate::backend::Wanted;
use crate::spdy::{Connection, Headers, Stream};

/// A session, with the streams that were asked for.
pub struct Remote {
    /// The version that the server chose.
    pub protocol: String,
    /// Dropped or shut down: the end of input.
    pub stdin: Option<Writer>,
    pub stdout: Option<Reader>,
    pub stderr: Option<Reader>,
    /// JSON, an object for each size.
    pub resize: Option<Writer>,
    pub error: Reader,
    connection: Connection,
    /// The other halves: dropped, they would reset their streams.
    _unused: Vec<Unused>,
}

enum Unused {
    Read { _half: Reader },
    Write { _half: Writer },
}

/// All that a session wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub error: Vec<u8>,
}

impl std::fmt::Debug for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Remote").field("protocol", &self.protocol).finish_non_exhaustive()
    }
}

impl Remote {
    /// Opens a session with one of the protocol versions, best first.
    ///
    /// # Errors
    /// When the server refuses it.
    pub async fn open(endpoint: &Endpoint, protocols: &[&str], wanted: Wanted) -> Result<Self, ClientError> {
        let (mut connection, protocol) = endpoint.spdy(protocols).await?;
        let sized = wanted.tty && !matches!(&*protocol, "channel.k8s.io" | "v2.channel.k8s.io");
        let mut unused = Vec::new();
        let mut error = None;
        let (mut stdin, mut stdout, mut stderr, mut resize) = (None, None, None, None);
        let reading = |stream: Stream, unused: &mut Vec<_>| -> Reader {
            unused.push(Unused::Write { _half: Box::new(stream.writer) });
            Box::new(stream.reader)
        };
        let writing = |stream: Stream, unused: &mut Vec<_>| -> Writer {
            unused.push(Unused::Read { _half: Box::new(stream.reader) });
            Box::new(stream.writer)
        };
        for (kind, open) in [
            ("error", true),
            ("stdin", wanted.stdin),
            ("stdout", wanted.stdout),
            ("stderr", wanted.stderr),
            ("resize", sized),
        ] {
            if !open {
                continue;
            }
            let headers = Headers(vec![("streamtype".to_owned(), kind.to_owned())]);
            let stream = connection.open(headers).await.ok_or(ClientError::Stream)?;
            match kind {
                "error" => error = Some(reading(stream, &mut unused)),
                "stdin" => stdin = Some(writing(stream, &mut unused)),
                "stdout" => stdout = Some(reading(stream, &mut unused)),
                "stderr" => stderr = Some(reading(stream, &mut unused)),
                _ => resize = Some(writing(stream, &mut unused)),
            }
        }
        let error = error.ok_or(ClientError::Stream)?;
        Ok(Self { protocol, stdin, stdout, stderr, resize, error, connection, _unused: unused })
    }

    /// Reads everything to the end of the session.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn outcome(mut self) -> Result<Outcome, ClientError> {
        async fn all(reader: Option<Reader>) -> std::io::Result<Vec<u8>> {
            let mut bytes = Vec::new();
            if let Some(mut reader) = reader {
                reader.read_to_end(&mut bytes).await?;
            }
            Ok(bytes)
        }
        let (stdout, stderr, error) =
            tokio::try_join!(all(self.stdout.take()), all(self.stderr.take()), all(Some(self.error)))?;
        Ok(Outcome { stdout, stderr, error })
    }

    /// A SPDY ping; the answer is not waited for.
    pub async fn ping(&self) {
        self.connection.ping(1).await;
    }
}
