//! Sizes of the client's terminal: a stream of JSON objects.

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;

use crate::backend::Size;
use crate::copy::discard;

/// An object is some thirty bytes; what is much longer is not one.
const MAX_PENDING: usize = 4096;

/// As Go's decoder does it, names are matched in any of the cases seen in clients.
#[derive(Debug, Deserialize)]
struct Message {
    #[serde(alias = "width", default)]
    #[serde(rename = "Width")]
    width: u16,
    #[serde(alias = "height", default)]
    #[serde(rename = "Height")]
    height: u16,
}

/// Sends each size on. What cannot be understood ends it; the rest is thrown away.
pub(super) async fn forward<R>(from: &mut R, to: Option<mpsc::Sender<Size>>)
where
    R: AsyncRead + Unpin + ?Sized,
{
    if let Some(to) = to {
        // Both ways out: the process is gone, or the client speaks nonsense.
        let _ = sizes(from, &to).await;
    }
    discard(from).await;
}

async fn sizes<R: AsyncRead + Unpin + ?Sized>(from: &mut R, to: &mpsc::Sender<Size>) -> Option<()> {
    let mut pending = Vec::new();
    loop {
        if from.read_buf(&mut pending).await.ok()? == 0 {
            return None;
        }
        let mut messages = serde_json::Deserializer::from_slice(&pending).into_iter::<Message>();
        let mut latest = None;
        for message in messages.by_ref() {
            match message {
                Ok(message) => latest = Some(Size { columns: message.width, rows: message.height }),
                Err(error) if error.is_eof() => break,
                Err(error) => {
                    tracing::debug!(%error, "a client's terminal size is no JSON");
                    return None;
                }
            }
        }
        let used = messages.byte_offset();
        pending.drain(..used.min(pending.len()));
        if pending.len() > MAX_PENDING {
            tracing::debug!(bytes = pending.len(), "a client's terminal size does not end");
            return None;
        }
        // Of several at once only the last still holds.
        if let Some(size) = latest {
            to.send(size).await.ok()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn objects_may_be_torn_and_glued() {
        let (to, mut sizes) = mpsc::channel(4);
        let (mut client, mut server) = tokio::io::duplex(64);
        let task = tokio::spawn(async move { forward(&mut server, Some(to)).await });
        for (bytes, columns, rows) in [
            ("{\"Width\":80,\"Height\":24}\n", 80, 24),
            ("{\"Width\":1,\"Height\":2}{\"width\":3,\"height\":4}", 3, 4),
        ] {
            tokio::io::AsyncWriteExt::write_all(&mut client, bytes.as_bytes()).await.unwrap();
            assert_eq!(sizes.recv().await, Some(Size { columns, rows }));
        }
        tokio::io::AsyncWriteExt::write_all(&mut client, b"\n{\"Width\":5,").await.unwrap();
        tokio::task::yield_now().await;
        tokio::io::AsyncWriteExt::write_all(&mut client, b"\"Height\":6}").await.unwrap();
        assert_eq!(sizes.recv().await, Some(Size { columns: 5, rows: 6 }));
        tokio::io::AsyncWriteExt::write_all(&mut client, b"nonsense").await.unwrap();
        assert_eq!(sizes.recv().await, None);
        drop(client);
        task.await.unwrap();
    }
}
