//! Pulls: an image from a registry into the store.
//!
//! ```text
//! reference ─▶ top manifest ─▶ policy ─▶ this machine's manifest ─▶ configuration ─▶ layers ─▶ commit
//!              digest checked            digest checked             digest checked   │ download (a few at once)
//!                                                                                    └▶ unpack, beside it
//! ```
//! Callers that ask for the same reference with the same credentials share one pull. It runs on while one of
//! them waits, and stops with the last: what it brought goes, unless another image needs it.

mod error;
mod fetch;
mod flight;
mod platform;
mod policy;
mod progress;
mod resolve;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

pub use error::PullError;
pub use policy::{BadPolicy, PolicyFile, SignaturePolicy};
pub use progress::{LayerProgress, LayerState, PullProgress, PullState};

use self::fetch::Fetcher;
use self::flight::Flights;
use self::progress::{Board, Place};
use self::resolve::Resolver;
use crate::ingest::{Ingest, Names};
use crate::model::{Image, Layer};
use crate::reference::Reference;
use crate::registry::{Credentials, Hosts, HttpSettings, Registry};
use crate::store::Images;

/// A pod's range of ids, where it has one; files above it have no owner in the pod.
const POD_IDS: u32 = 65_535;
/// How often a long pull says where it is.
const REPORT: Duration = Duration::from_secs(10);

/// How images are pulled.
#[derive(Debug, Clone)]
pub struct PullSettings {
    pub hosts: Hosts,
    /// Layers downloaded at once by one pull.
    pub per_pull: usize,
    /// By all pulls together.
    pub total: usize,
    /// For a whole pull.
    pub timeout: Duration,
    pub http: HttpSettings,
    pub policy: Option<Arc<dyn SignaturePolicy>>,
}

impl Default for PullSettings {
    fn default() -> Self {
        Self {
            hosts: Hosts::default(),
            per_pull: 3,
            total: 6,
            timeout: Duration::from_hours(1),
            http: HttpSettings::default(),
            policy: None,
        }
    }
}

/// What to pull, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PullRequest {
    pub reference: Reference,
    pub credentials: Option<Credentials>,
    /// Ask the registry itself over plain http.
    pub plain_http: bool,
}

/// Pulls images into a store.
#[derive(Debug)]
pub struct Puller {
    images: Arc<Images>,
    settings: PullSettings,
    downloads: Arc<Semaphore>,
    flights: Arc<Flights>,
    board: Arc<Board>,
}

impl Puller {
    #[must_use]
    pub fn new(images: Arc<Images>, settings: PullSettings) -> Arc<Self> {
        Arc::new(Self {
            images,
            downloads: Arc::new(Semaphore::new(settings.total.max(1))),
            settings,
            flights: Arc::default(),
            board: Arc::default(),
        })
    }

    /// Pulls, or waits for the same pull that is under way. Dropped, it stops waiting.
    ///
    /// # Errors
    /// Those of the one pull.
    pub async fn pull(self: &Arc<Self>, request: PullRequest) -> Result<Arc<Image>, Arc<PullError>> {
        let this = Arc::clone(self);
        let key = request.clone();
        self.flights.join(key, move || async move { this.fly(request).await }).await
    }

    /// The pulls under way.
    #[must_use]
    pub fn pulls(&self) -> Vec<PullProgress> {
        self.board.all()
    }

    /// Changes when a pull or a layer goes a step on. Bytes are to be had from [`pulls`](Self::pulls).
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.board.watch()
    }

    async fn fly(&self, request: PullRequest) -> Result<Arc<Image>, PullError> {
        let place = Arc::new(self.board.place(&request.reference));
        let started = Instant::now();
        let ingest = self.images.begin();
        let pull = self.pull_into(&request, &ingest, &place);
        let outcome = tokio::select! {
            outcome = tokio::time::timeout(self.settings.timeout, pull) => outcome.unwrap_or_else(|_| {
                let (reference, after) = (request.reference.to_string(), self.settings.timeout);
                Err(PullError::Timeout { reference, after })
            }),
            never = report(&place) => match never {},
        };
        let reference = &request.reference;
        match &outcome {
            Ok(image) => {
                let (bytes, took) = (place.now().total(), started.elapsed());
                let rate = rate(bytes, took);
                tracing::info!(%reference, image = %image.id, bytes, ?took, rate, "image pulled");
            }
            Err(error) => {
                if is_worth_keeping(error) {
                    ingest.keep_for_retry();
                }
                tracing::warn!(%reference, error = %crate::error::chain(error), "pulling an image failed");
            }
        }
        outcome
    }

    async fn pull_into(
        &self,
        request: &PullRequest,
        ingest: &Ingest,
        place: &Arc<Place>,
    ) -> Result<Arc<Image>, PullError> {
        let PullRequest { reference, credentials, plain_http } = request;
        tracing::info!(%reference, "pulling an image");
        let (hosts, http) = (&self.settings.hosts, &self.settings.http);
        let registry = Registry::open(hosts, reference, credentials.clone(), *plain_http, http).await?;
        let registry = Arc::new(registry);
        let resolver = Resolver { registry: &registry, reference };
        let top = resolver.top().await?;
        if let Some(policy) = &self.settings.policy {
            let checked = policy.check(reference, &top.0).await;
            checked.map_err(|why| PullError::Signature { reference: reference.to_string(), why })?;
        }
        let resolved = resolver.resolve(top).await?;
        place.state(PullState::Downloading);
        let fetcher = Fetcher {
            registry,
            ingest: ingest.clone(),
            place: Arc::clone(place),
            everyone: Arc::clone(&self.downloads),
            own: Arc::new(Semaphore::new(self.settings.per_pull.max(1))),
        };
        let layers = fetcher.layers(resolved.layers).await?;
        warn_of_ids(reference, &layers);
        place.state(PullState::Committing);
        let names =
            Names { tags: reference.tag().into_iter().collect(), digests: vec![reference.at(&resolved.top)] };
        Ok(ingest.clone().commit(resolved.manifest, resolved.config, names).await?)
    }
}

/// Whether the next attempt of the same pull may go on with what this one brought.
fn is_worth_keeping(error: &PullError) -> bool {
    match error {
        PullError::Registry(error) => error.is_passing(),
        PullError::Timeout { .. } => true,
        _ => false,
    }
}

/// Says where a pull is, every now and then.
async fn report(place: &Place) -> std::convert::Infallible {
    let mut before = 0;
    loop {
        tokio::time::sleep(REPORT).await;
        let now = place.now();
        let rate = rate(now.done().saturating_sub(before), REPORT);
        before = now.done();
        let left = now.layers.iter().filter(|layer| layer.state != LayerState::Done).count();
        tracing::info!(
            reference = %now.reference, state = ?now.state, done = now.done(), total = now.total(), left,
            rate, "still pulling"
        );
    }
}

/// "12.3 MB/s"
fn rate(bytes: u64, time: Duration) -> String {
    let tenths = u128::from(bytes) * 10_000 / time.as_nanos().div_ceil(1_000_000).max(1) / 1_000_000;
    format!("{}.{} MB/s", tenths / 10, tenths % 10)
}

/// A pod with a range of 65,536 ids cannot show files of ids above it as anybody's.
fn warn_of_ids(reference: &Reference, layers: &[Layer]) {
    let uid = layers.iter().map(|layer| layer.max_uid).max().unwrap_or_default();
    let gid = layers.iter().map(|layer| layer.max_gid).max().unwrap_or_default();
    if uid > POD_IDS || gid > POD_IDS {
        tracing::warn!(
            image = %reference, highest_uid = uid, highest_gid = gid,
            "the image has files of ids above 65535: pods with a user namespace of 65536 ids see them as \
             nobody's (65534), and cannot change their owner"
        );
    }
}
