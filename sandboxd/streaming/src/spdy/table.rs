//! The streams of a connection.

use std::collections::HashMap;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// What a connection's tasks and its streams share.
#[derive(Debug)]
pub(super) struct Table {
    streams: Mutex<HashMap<u32, Entry>>,
    /// The peer's last stream: its ids are odd or even, and grow.
    pub(super) last: AtomicU32,
    /// Cancelled when the peer is gone, or cannot be understood.
    pub(super) gone: CancellationToken,
    /// Ids of streams that were dropped before they were finished: the writer resets them. At most one message a
    /// stream.
    pub(super) dropped: mpsc::UnboundedSender<u32>,
}

#[derive(Debug)]
struct Entry {
    /// Where the peer's data goes; taken out while the reader writes to it, and for good at the peer's end.
    inbox: Option<DuplexStream>,
    reset: CancellationToken,
    replied: Option<oneshot::Sender<()>>,
}

/// Keeps a stream in the table; both halves of the stream hold it.
#[derive(Debug)]
pub(super) struct Slot {
    table: Arc<Table>,
    pub(super) id: u32,
    /// Cancelled when the peer resets the stream, or is gone.
    pub(super) reset: CancellationToken,
}

impl Table {
    pub(super) fn new(dropped: mpsc::UnboundedSender<u32>) -> Arc<Self> {
        let streams = Mutex::new(HashMap::new());
        Arc::new(Self { streams, last: AtomicU32::new(0), gone: CancellationToken::new(), dropped })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u32, Entry>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    pub(super) fn add(
        self: &Arc<Self>,
        id: u32,
        inbox: DuplexStream,
        replied: Option<oneshot::Sender<()>>,
    ) -> Arc<Slot> {
        let reset = self.gone.child_token();
        self.lock().insert(id, Entry { inbox: Some(inbox), reset: reset.clone(), replied });
        Arc::new(Slot { table: Arc::clone(self), id, reset })
    }

    pub(super) fn take_inbox(&self, id: u32) -> Option<DuplexStream> {
        self.lock().get_mut(&id)?.inbox.take()
    }

    pub(super) fn put_inbox(&self, id: u32, inbox: DuplexStream) {
        if let Some(entry) = self.lock().get_mut(&id)
            && !entry.reset.is_cancelled()
        {
            entry.inbox = Some(inbox);
        }
    }

    pub(super) fn replied(&self, id: u32) {
        let replied = self.lock().get_mut(&id).and_then(|entry| entry.replied.take());
        if let Some(replied) = replied {
            // Nobody waits when the stream was dropped meanwhile.
            let _ = replied.send(());
        }
    }

    pub(super) fn reset(&self, id: u32) {
        if let Some(entry) = self.lock().get_mut(&id) {
            entry.inbox = None;
            entry.replied = None;
            entry.reset.cancel();
        }
    }

    /// The peer is gone: every stream reads its end.
    pub(super) fn end(&self) {
        self.gone.cancel();
        for entry in self.lock().values_mut() {
            entry.inbox = None;
            entry.replied = None;
        }
    }
}

impl Slot {
    pub(super) fn gone(&self) -> &CancellationToken {
        &self.table.gone
    }

    /// The writer will tell the peer that nothing more comes.
    pub(super) fn abandon(&self) {
        if !self.reset.is_cancelled() {
            // A connection that has ended needs no reset.
            let _ = self.table.dropped.send(self.id);
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.table.lock().remove(&self.id);
    }
}
