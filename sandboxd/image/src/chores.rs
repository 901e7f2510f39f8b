//! A thread for what nobody waits for: deleting, and making layers durable.

use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use crate::error::ImageError;
use crate::layer::{Layers, remove_tree};
use crate::model::LayerId;

/// Something to be done.
#[derive(Debug)]
pub(crate) enum Chore {
    Delete(PathBuf),
    Sync(Vec<LayerId>),
}

/// The thread. It does what it was given before it ends with the store.
#[derive(Debug)]
pub(crate) struct Chores {
    sender: Option<mpsc::Sender<Chore>>,
    thread: Option<JoinHandle<()>>,
}

impl Chores {
    pub(crate) fn start(layers: Arc<Layers>) -> Result<Self, ImageError> {
        let (sender, receiver) = mpsc::channel();
        let dir = layers.dir().to_owned();
        let work = move || receiver.iter().for_each(|chore| chore_done(&layers, chore));
        let thread = std::thread::Builder::new().name("image-chores".into()).spawn(work);
        let thread = thread.map_err(ImageError::io("start the thread that cleans", &dir))?;
        Ok(Self { sender: Some(sender), thread: Some(thread) })
    }

    /// Hands over; what is not done, the next start makes up for.
    pub(crate) fn give(&self, chore: Chore) {
        if let Some(sender) = &self.sender {
            let _ = sender.send(chore);
        }
    }
}

impl Drop for Chores {
    fn drop(&mut self) {
        self.sender = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn chore_done(layers: &Layers, chore: Chore) {
    match chore {
        Chore::Delete(path) => delete(&path),
        Chore::Sync(ids) => {
            if let Err(error) = layers.sync(&ids) {
                tracing::warn!(%error, "layers are not synced; should the power fail, they are unpacked again");
            }
        }
    }
}

/// Deletes a tree; a failure is logged, the next start tries again.
pub(crate) fn delete(path: &Path) {
    if let Err(error) = remove_tree(path) {
        tracing::warn!(path = %path.display(), %error, "cannot be deleted; the next start tries again");
    }
}
