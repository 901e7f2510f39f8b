//! One task for all who ask for the same.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::PullRequest;
use super::error::PullError;
use crate::model::Image;

type Outcome = Result<Arc<Image>, Arc<PullError>>;

/// The pulls that somebody waits for.
#[derive(Debug, Default)]
pub(super) struct Flights(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    flights: HashMap<PullRequest, Flight>,
    next: u64,
}

#[derive(Debug)]
struct Flight {
    number: u64,
    waiters: usize,
    task: AbortHandle,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Flights {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins the task for `key`, or starts it. It is stopped when nobody waits any more.
    pub(super) async fn join<F>(self: &Arc<Self>, key: PullRequest, start: impl FnOnce() -> F) -> Outcome
    where
        F: Future<Output = Result<Arc<Image>, PullError>> + Send + 'static,
    {
        let reference = key.reference.to_string();
        let mut seat = self.board(key, start);
        let outcome = seat.outcome.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(Arc::new(PullError::CalledOff { reference })))
    }

    fn board<F>(self: &Arc<Self>, key: PullRequest, start: impl FnOnce() -> F) -> Seat
    where
        F: Future<Output = Result<Arc<Image>, PullError>> + Send + 'static,
    {
        let mut state = self.state();
        // One that has ended and whose waiters have not left yet: what it found may be out of date.
        let running = state.flights.get_mut(&key).filter(|flight| !flight.task.is_finished());
        if let Some(flight) = running {
            flight.waiters += 1;
            return Seat {
                flights: Arc::clone(self),
                key,
                number: flight.number,
                outcome: flight.outcome.clone(),
            };
        }
        let (sender, outcome) = watch::channel(None);
        let work = start();
        let task = tokio::spawn(async move {
            let done = work.await.map_err(Arc::new);
            let _ = sender.send(Some(done));
        })
        .abort_handle();
        state.next += 1;
        let number = state.next;
        state.flights.insert(key.clone(), Flight { number, waiters: 1, task, outcome: outcome.clone() });
        Seat { flights: Arc::clone(self), key, number, outcome }
    }
}

/// A waiter.
struct Seat {
    flights: Arc<Flights>,
    key: PullRequest,
    number: u64,
    outcome: watch::Receiver<Option<Outcome>>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut state = self.flights.state();
        let Some(flight) = state.flights.get_mut(&self.key).filter(|f| f.number == self.number) else {
            return;
        };
        flight.waiters -= 1;
        if flight.waiters == 0 {
            if !flight.task.is_finished() && flight.outcome.borrow().is_none() {
                tracing::info!(reference = %self.key.reference, "nobody waits for the pull any more: it stops");
            }
            // Of a task that has ended this does nothing.
            flight.task.abort();
            state.flights.remove(&self.key);
        }
    }
}
