//! Moves bytes from a reader to a writer.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::CHUNK;

/// A reader of a session.
pub(crate) type BoxRead = Box<dyn AsyncRead + Send + Unpin>;
/// A writer of a session.
pub(crate) type BoxWrite = Box<dyn AsyncWrite + Send + Unpin>;

/// Which side ended a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    /// The reader came to its end, or failed.
    Read,
    /// The writer takes nothing more.
    Broken,
}

/// Copies until one of both ends. `moved` hears of each chunk.
pub(crate) async fn copy<R, W>(from: &mut R, to: &mut W, mut moved: impl FnMut()) -> Copied
where
    R: AsyncRead + Unpin + ?Sized,
    W: AsyncWrite + Unpin + ?Sized,
{
    let mut buffer = vec![0; CHUNK];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return Copied::Read };
        moved();
        let Some(bytes) = buffer.get(..read) else { return Copied::Read };
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            return Copied::Broken;
        }
        moved();
    }
}

/// How long a channel may take nothing before its client is asked whether it is still there.
const STUCK: Duration = Duration::from_secs(5);

/// Writes to a channel's inbox; false: nobody reads it any more. While it takes nothing, the client's end cannot be
/// read either: `probe` is called every few seconds, to send something. A client that is gone resets the connection
/// then, and the next write notices.
pub(crate) async fn deliver<W>(inbox: &mut W, bytes: &[u8], mut probe: impl FnMut()) -> bool
where
    W: AsyncWrite + Unpin,
{
    let written = inbox.write_all(bytes);
    tokio::pin!(written);
    loop {
        match tokio::time::timeout(STUCK, &mut written).await {
            Ok(written) => return written.is_ok(),
            Err(_) => probe(),
        }
    }
}

/// Reads to the end, so that nothing behind it is held up.
pub(crate) async fn discard<R: AsyncRead + Unpin + ?Sized>(from: &mut R) {
    // What fails to be thrown away is at its end as well.
    let _ = tokio::io::copy(from, &mut tokio::io::sink()).await;
}
