//! Who watches. A console too slow for the stream gets `Lagged` and a fresh snapshot, as the daemon does it.

use sandboxd_api::console::delta::Change;
use sandboxd_api::console::{Delta, Lagged, Snapshot, WatchResponse, watch_response};
use tokio::sync::mpsc;
use tonic::Status;

use crate::world;

/// Messages that wait for one console.
const WAITING: usize = 1_024;

pub(crate) type Message = Result<WatchResponse, Status>;

#[derive(Debug)]
struct Watcher {
    messages: mpsc::Sender<Message>,
    missed: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Watchers(Vec<Watcher>);

fn delta(change: Change) -> Message {
    let delta = Delta { time_ns: world::now_ns(), change: Some(change) };
    Ok(WatchResponse { message: Some(watch_response::Message::Delta(delta)) })
}

fn fresh(snapshot: &Snapshot) -> Message {
    Ok(WatchResponse { message: Some(watch_response::Message::Snapshot(snapshot.clone())) })
}

impl Watchers {
    pub fn add(&mut self, snapshot: &Snapshot) -> mpsc::Receiver<Message> {
        let (messages, stream) = mpsc::channel(WAITING);
        messages.try_send(fresh(snapshot)).unwrap();
        self.0.push(Watcher { messages, missed: 0 });
        stream
    }

    pub fn tell(&mut self, change: &Change, snapshot: &Snapshot) {
        self.0.retain_mut(|watcher| {
            if watcher.missed > 0 {
                watcher.missed += 1;
                // Half of it free again: then there is a point in starting anew.
                if watcher.messages.capacity() > WAITING / 2 {
                    let lagged = Change::Lagged(Lagged { messages: watcher.missed });
                    drop(watcher.messages.try_send(delta(lagged)));
                    drop(watcher.messages.try_send(fresh(snapshot)));
                    watcher.missed = 0;
                }
                return !watcher.messages.is_closed();
            }
            match watcher.messages.try_send(delta(change.clone())) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    watcher.missed = 1;
                    true
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
    }

    pub fn close(&mut self) {
        self.0.clear();
    }
}
