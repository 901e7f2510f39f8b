//! What is being pulled, for whoever wants to watch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio::sync::watch;

use crate::content::Digest;
use crate::reference::Reference;

/// Where a pull is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullState {
    /// Asks the registry for manifests.
    Resolving,
    /// Layers come, and are unpacked as they do.
    Downloading,
    /// All is there; its record is written.
    Committing,
}

/// Where a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerState {
    Waiting,
    Downloading,
    Unpacking,
    Done,
}

/// A pull as it is now.
#[derive(Debug, Clone)]
pub struct PullProgress {
    pub reference: Reference,
    pub state: PullState,
    pub since: Instant,
    /// Lowest first, each once.
    pub layers: Vec<LayerProgress>,
}

#[derive(Debug, Clone)]
pub struct LayerProgress {
    pub digest: Digest,
    pub state: LayerState,
    pub done: u64,
    pub total: u64,
}

impl PullProgress {
    /// Bytes of all layers that are here.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.layers.iter().map(|layer| layer.done).sum()
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        self.layers.iter().map(|layer| layer.total).sum()
    }
}

/// The pulls under way. Its version rises with each change of a state, not with each byte.
#[derive(Debug)]
pub(super) struct Board {
    pulls: Mutex<Vec<Arc<Pull>>>,
    version: watch::Sender<u64>,
}

/// One of them, written by the task that pulls.
#[derive(Debug)]
pub(super) struct Pull {
    reference: Reference,
    since: Instant,
    inner: Mutex<(PullState, Vec<Arc<Layer>>)>,
}

#[derive(Debug)]
pub(super) struct Layer {
    digest: Digest,
    total: u64,
    done: AtomicU64,
    state: Mutex<LayerState>,
}

/// A place on the board; it goes when this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    board: Arc<Board>,
    pull: Arc<Pull>,
}

impl Default for Board {
    fn default() -> Self {
        Self { pulls: Mutex::default(), version: watch::Sender::new(0) }
    }
}

impl Board {
    pub(super) fn place(self: &Arc<Self>, reference: &Reference) -> Place {
        let pull = Arc::new(Pull {
            reference: reference.clone(),
            since: Instant::now(),
            inner: Mutex::new((PullState::Resolving, Vec::new())),
        });
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&pull));
        self.changed();
        Place { board: Arc::clone(self), pull }
    }

    pub(super) fn all(&self) -> Vec<PullProgress> {
        let pulls = self.pulls.lock().unwrap_or_else(PoisonError::into_inner).clone();
        pulls.iter().map(|pull| pull.now()).collect()
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

impl Pull {
    fn now(&self) -> PullProgress {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = inner.1.iter().map(|layer| LayerProgress {
            digest: layer.digest.clone(),
            state: *layer.state.lock().unwrap_or_else(PoisonError::into_inner),
            done: layer.done.load(Ordering::Relaxed),
            total: layer.total,
        });
        PullProgress {
            reference: self.reference.clone(),
            state: inner.0,
            since: self.since,
            layers: layers.collect(),
        }
    }
}

impl Place {
    pub(super) fn state(&self, state: PullState) {
        self.pull.inner.lock().unwrap_or_else(PoisonError::into_inner).0 = state;
        self.board.changed();
    }

    pub(super) fn layer(&self, digest: &Digest, total: u64) -> Arc<Layer> {
        let state = Mutex::new(LayerState::Waiting);
        let layer = Arc::new(Layer { digest: digest.clone(), total, done: AtomicU64::new(0), state });
        self.pull.inner.lock().unwrap_or_else(PoisonError::into_inner).1.push(Arc::clone(&layer));
        layer
    }

    pub(super) fn layer_is(&self, layer: &Layer, state: LayerState) {
        *layer.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.board.changed();
    }

    pub(super) fn now(&self) -> PullProgress {
        self.pull.now()
    }
}

impl Layer {
    pub(super) fn at(&self, done: u64) {
        self.done.store(done, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut pulls = self.board.pulls.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.retain(|pull| !Arc::ptr_eq(pull, &self.pull));
        drop(pulls);
        self.board.changed();
    }
}
