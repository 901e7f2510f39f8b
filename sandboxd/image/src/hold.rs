//! Layers kept for containers.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::error::ImageError;
use crate::model::LayerId;
use crate::store::Images;

/// Keeps layers. They go when it is dropped, if nobody else needs them.
#[derive(Debug)]
pub struct Hold {
    images: Arc<Images>,
    layers: BTreeSet<LayerId>,
}

impl Hold {
    /// The layers that are held, each once.
    pub fn layers(&self) -> impl Iterator<Item = &LayerId> {
        self.layers.iter()
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.images.release(&self.layers, &BTreeSet::new(), &BTreeSet::new());
    }
}

impl Images {
    /// Keeps layers for as long as the hold lives, whatever happens to their images.
    ///
    /// # Errors
    /// When one is not there; it is named.
    pub fn hold(self: &Arc<Self>, layers: &[LayerId]) -> Result<Hold, ImageError> {
        let mut hold = Hold { images: Arc::clone(self), layers: BTreeSet::new() };
        for id in layers {
            if hold.layers.contains(id) {
                continue;
            }
            // Not in the tail of the `if`: dropping `hold` takes the lock again.
            let found = self.state().use_layer(id);
            if found.is_none() {
                return Err(ImageError::NoLayer(id.clone()));
            }
            hold.layers.insert(id.clone());
        }
        Ok(hold)
    }
}
