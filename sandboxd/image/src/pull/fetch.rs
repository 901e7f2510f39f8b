//! Layers on their way: from host after host, gone on with where they broke off, each unpacked when it is here.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::error::PullError;
use super::progress::{Layer as LayerPlace, LayerState, Place};
use crate::content::{BlobWriter, Digest};
use crate::error::ImageError;
use crate::ingest::{Ingest, Slot};
use crate::manifest::Descriptor;
use crate::model::{Layer, LayerId};
use crate::registry::{Blob, Registry, RegistryError};

/// A try that brought this much does not count as one.
const HEADWAY: u64 = 1 << 20;

/// What the layers of a pull share.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    pub registry: Arc<Registry>,
    pub ingest: Ingest,
    pub place: Arc<Place>,
    /// Of all pulls together.
    pub everyone: Arc<Semaphore>,
    /// Of this pull.
    pub own: Arc<Semaphore>,
}

#[derive(Debug, Clone, Copy)]
enum From<'a> {
    Host(usize),
    Url(&'a str),
}

impl Fetcher {
    /// Brings all layers, each once however often it comes; unpacks one while others come.
    pub(super) async fn layers(&self, layers: Vec<(Descriptor, LayerId)>) -> Result<Vec<Layer>, PullError> {
        let mut known: HashMap<Digest, LayerId> = HashMap::new();
        let mut tasks = JoinSet::new();
        for (blob, diff_id) in layers {
            match known.get(&blob.digest) {
                Some(other) if *other == diff_id => continue,
                Some(_) => {
                    let digest = blob.digest;
                    return Err(ImageError::Mismatch { expected: digest.clone(), got: digest }.into());
                }
                None => drop(known.insert(blob.digest.clone(), diff_id.clone())),
            }
            let place = self.place.layer(&blob.digest, blob.size);
            let this = self.clone();
            tasks.spawn(async move { this.layer(&blob, &diff_id, &place).await });
        }
        let mut unpacked = Vec::new();
        while let Some(done) = tasks.join_next().await {
            unpacked.push(done.map_err(ImageError::from)??);
        }
        Ok(unpacked)
    }

    async fn layer(
        &self,
        blob: &Descriptor,
        diff_id: &LayerId,
        place: &LayerPlace,
    ) -> Result<Layer, PullError> {
        {
            let _own = self.own.acquire().await;
            let _one = self.everyone.acquire().await;
            self.place.layer_is(place, LayerState::Downloading);
            self.bring(blob, place).await?;
            place.at(blob.size);
        }
        self.place.layer_is(place, LayerState::Unpacking);
        let layer = self.ingest.unpack_layer(blob, diff_id).await?;
        self.place.layer_is(place, LayerState::Done);
        Ok(layer)
    }

    /// Brings a blob from the first that has it as it should be.
    async fn bring(&self, blob: &Descriptor, place: &LayerPlace) -> Result<(), PullError> {
        let Slot::Missing(mut writer) = self.ingest.blob(blob).await? else { return Ok(()) };
        let hosts: Vec<_> = self.registry.hosts().collect();
        let sources = hosts.into_iter().map(From::Host).chain(blob.urls.iter().map(|url| From::Url(url)));
        let mut worst: Option<PullError> = None;
        for from in sources {
            match self.try_one(from, blob, &mut writer, place).await {
                Ok(()) => match writer.commit().await {
                    Ok(()) => return Ok(()),
                    Err(error @ ImageError::Mismatch { .. }) => {
                        tracing::warn!(%error, "a registry sent other bytes than the digest's");
                        worst = Some(error.into());
                        match self.ingest.blob(blob).await? {
                            Slot::Present => return Ok(()),
                            Slot::Missing(again) => writer = again,
                        }
                    }
                    Err(error) => return Err(error.into()),
                },
                // The disk, not the registry.
                Err(PullError::Store(error @ ImageError::Io { .. })) => return Err(error.into()),
                Err(error) => {
                    tracing::debug!(error = %crate::error::chain(&error), "asking the next host for a layer");
                    // What somebody answered says more than that nobody did.
                    let silent = matches!(&error, PullError::Registry(e) if e.is_passing());
                    if worst.is_none() || !silent {
                        worst = Some(error);
                    }
                }
            }
        }
        Err(worst.unwrap_or_else(|| self.registry.no_host(format!("blob {}", blob.digest), "pull").into()))
    }

    /// All bytes from one source, in as many tries as it takes and is allowed.
    async fn try_one(
        &self,
        from: From<'_>,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        place: &LayerPlace,
    ) -> Result<(), PullError> {
        let attempts = match from {
            From::Host(host) => self.registry.attempts(host),
            From::Url(_) => 2,
        };
        let mut tried = 0;
        loop {
            let before = writer.offset();
            let error = match self.transfer(from, blob, writer, place).await {
                Ok(()) => return Ok(()),
                Err(PullError::Registry(error)) => error,
                Err(other) => return Err(other),
            };
            if writer.offset() >= before.saturating_add(HEADWAY) {
                tried = 0;
            }
            tried += 1;
            let pause = error.pause(self.registry.pause(tried)).filter(|_| tried < attempts);
            let Some(pause) = pause else { return Err(error.into()) };
            let offset = writer.offset();
            tracing::debug!(blob = %blob.digest, offset, error = %crate::error::chain(&error), "going on with a layer");
            tokio::time::sleep(pause).await;
        }
    }

    async fn transfer(
        &self,
        from: From<'_>,
        blob: &Descriptor,
        writer: &mut BlobWriter,
        place: &LayerPlace,
    ) -> Result<(), PullError> {
        let mut body = match self.open(from, blob, writer.offset()).await {
            // A range the host cannot give, though it is within the blob: from the beginning.
            Err(RegistryError::Refused { status: 416, .. } | RegistryError::BadAnswer { .. })
                if writer.offset() > 0 =>
            {
                writer.restart()?;
                self.open(from, blob, 0).await?
            }
            other => other?,
        };
        if body.offset != writer.offset() {
            writer.restart()?;
        }
        if let Some(length) = body.length
            && body.offset.saturating_add(length) != blob.size
        {
            let (digest, got) = (blob.digest.clone(), body.offset.saturating_add(length));
            writer.restart()?;
            return Err(ImageError::Size { digest, expected: blob.size, got }.into());
        }
        while let Some(chunk) = body.chunk().await? {
            if let Err(error) = writer.write(&chunk) {
                writer.restart()?;
                return Err(error.into());
            }
            place.at(writer.offset());
        }
        if writer.offset() < blob.size {
            return Err(body.truncated(writer.offset(), blob.size).into());
        }
        Ok(())
    }

    async fn open(&self, from: From<'_>, blob: &Descriptor, offset: u64) -> Result<Blob, RegistryError> {
        match from {
            From::Host(host) => self.registry.blob(host, &blob.digest.to_string(), offset).await,
            From::Url(url) => self.registry.foreign(url, offset).await,
        }
    }
}
