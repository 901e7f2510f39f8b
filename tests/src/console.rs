//! A client of the console protocol.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sandboxd_api::console::console_client::ConsoleClient;
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::images_client::ImagesClient;
use sandboxd_api::console::watch_response::Message;
use sandboxd_api::console::{Check, Delta, ListChecksRequest, Snapshot, WatchRequest, WatchResponse};
use tokio::time::timeout;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::cri::channel;
use crate::patience::patient;

/// The console service.
#[derive(Debug, Clone)]
pub struct Console {
    pub client: ConsoleClient<Channel>,
    pub images: ImagesClient<Channel>,
}

impl Console {
    /// # Errors
    /// When nobody listens on the socket.
    pub async fn connect(socket: &Path) -> Result<Self> {
        Ok(Self::over(channel(socket).await?))
    }

    /// Over a connection that is there.
    #[must_use]
    pub fn over(channel: Channel) -> Self {
        Self { client: ConsoleClient::new(channel.clone()), images: ImagesClient::new(channel) }
    }

    /// Opens the stream; the snapshot and the deltas that follow it.
    ///
    /// # Errors
    /// When the stream does not begin with a snapshot.
    pub async fn watch(&self) -> Result<(Snapshot, Watch)> {
        let stream = self.client.clone().watch(WatchRequest::default()).await?.into_inner();
        let mut watch = Watch { stream };
        match watch.next().await? {
            Message::Snapshot(snapshot) => Ok((snapshot, watch)),
            Message::Delta(delta) => bail!("the stream begins with {delta:?}, not with a snapshot"),
        }
    }

    /// What is there now.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn snapshot(&self) -> Result<Snapshot> {
        Ok(self.watch().await?.0)
    }

    /// Recorded checks that match.
    ///
    /// # Errors
    /// When the daemon does not answer.
    pub async fn checks(&self, request: ListChecksRequest) -> Result<Vec<Check>> {
        Ok(self.client.clone().list_checks(request).await?.into_inner().checks)
    }
}

/// An open Watch stream.
#[derive(Debug)]
pub struct Watch {
    stream: Streaming<WatchResponse>,
}

impl Watch {
    const PATIENCE: Duration = Duration::from_secs(10);

    /// The next message.
    ///
    /// # Errors
    /// When none comes for ten seconds, or the stream ends.
    pub async fn next(&mut self) -> Result<Message> {
        let response = timeout(patient(Self::PATIENCE), self.stream.message())
            .await
            .context("no message of the console stream in time")??
            .context("the console stream ended")?;
        response.message.context("an empty message in the console stream")
    }

    /// Skips deltas until one changes what `wanted` looks for.
    ///
    /// # Errors
    /// When it does not come within ten seconds.
    pub async fn until<T>(&mut self, mut wanted: impl FnMut(Change) -> Option<T>) -> Result<T> {
        let search = async {
            loop {
                if let Message::Delta(Delta { change: Some(change), .. }) = self.next().await?
                    && let Some(found) = wanted(change)
                {
                    return Ok(found);
                }
            }
        };
        timeout(patient(Self::PATIENCE), search).await.context("the change did not come in time")?
    }
}
