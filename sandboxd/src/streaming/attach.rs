//! A client on the streams of a container's first process.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use sandboxd_streaming::{Exited, Session, Wanted};
use tokio::io::AsyncWrite;
use tokio::sync::oneshot;

use super::exec::{session, sizes, streams_wanted};
use super::{StreamingError, Targets};
use crate::container::error::ContainerError;

/// How long output may still come after the end of a client's input detaches it.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Attaches. The session ends with the container; or, as with containerd, with the client's input, unless the
/// container's own input ends there too (`stdin_once` without a terminal): then its output is waited for.
///
/// # Errors
/// When the runtime does not carry it out.
pub(super) async fn attach(
    targets: &dyn Targets,
    container: &str,
    wanted: Wanted,
) -> Result<Session, StreamingError> {
    let failed = |source| ContainerError::Runtime { action: "attaching to the container", source };
    let (container, task) = targets.task(container)?;
    let (tty, stdin_once) = (container.spec.tty, container.spec.stdin_once);
    let ends = task.attach(streams_wanted(Wanted { tty, ..wanted })).await.map_err(failed)?;
    tracing::debug!(container = %container.id, "a streaming client is attached");
    let resize = tty.then(|| {
        let task = Arc::clone(&task);
        sizes(move |size| {
            let task = Arc::clone(&task);
            async move { task.resize(size).await }
        })
    });
    let (ended, typed) = oneshot::channel();
    let detaches = wanted.stdin && (tty || !stdin_once);
    let exit = Box::pin(async move {
        let detached = async {
            if !detaches || typed.await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            _ = task.wait() => Ok(Exited::Ended),
            () = detached => Ok(Exited::Detached),
        }
    });
    let mut session = session(ends, resize, exit)?;
    session.stdin = session.stdin.take().map(|inner| Box::new(Typed { inner, ended: Some(ended) }) as Box<_>);
    Ok(session)
}

/// Tells of the client's end of input.
struct Typed {
    inner: Box<dyn AsyncWrite + Send + Unpin>,
    ended: Option<oneshot::Sender<()>>,
}

impl AsyncWrite for Typed {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(ended) = self.ended.take() {
            // A session that is over does not listen.
            let _ = ended.send(());
        }
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
