//! One task per pod makes every change to it, one after the other.
//!
//! ```text
//!   run ──▶ READY ──stop──▶ NOTREADY ──remove──▶ (gone)
//!             │ infra container ends    ▲   ▲
//!             └─────────────────────────┘   └─ stop again: nothing to do, or what failed before
//! ```

use tokio::sync::{mpsc, oneshot};

use super::error::PodError;
use super::flow::Ready;
use super::spec::Resources;

/// Requests that may wait for one pod before a caller has to wait itself.
const QUEUE: usize = 16;

type Reply = oneshot::Sender<Result<(), PodError>>;

#[derive(Debug)]
enum Command {
    Stop(Reply),
    Remove(Reply),
    Update(Box<Limits>, Reply),
}

/// What a pod may use from now on; what is not asked for stays.
#[derive(Debug, Clone, Default)]
pub struct Limits {
    pub resources: Resources,
    pub overhead: Resources,
}

/// The way to a pod's driver.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    commands: mpsc::Sender<Command>,
}

impl Driver {
    /// Starts the driver of a pod; `gone` runs when the pod is removed.
    pub(super) fn start(ready: Ready, gone: impl FnOnce() + Send + 'static) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        tokio::spawn(drive(ready, queue, gone));
        Self { commands }
    }

    pub(super) async fn stop(&self) -> Result<(), PodError> {
        self.ask(Command::Stop).await
    }

    pub(super) async fn remove(&self) -> Result<(), PodError> {
        self.ask(Command::Remove).await
    }

    pub(super) async fn update(&self, limits: Limits) -> Result<(), PodError> {
        self.ask(|reply| Command::Update(Box::new(limits), reply)).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), PodError> {
        let (reply, answer) = oneshot::channel();
        // A driver that is gone has removed its pod: stopping and removing are then done.
        if self.commands.send(command(reply)).await.is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }
}

async fn drive(mut ready: Ready, mut queue: mpsc::Receiver<Command>, gone: impl FnOnce()) {
    loop {
        let command = tokio::select! {
            command = queue.recv() => command,
            exit = ready.ended() => {
                ready.note_end(exit);
                continue;
            }
        };
        match command {
            // All senders are gone: the daemon is ending. Pods live on.
            None => return,
            Some(Command::Stop(reply)) => {
                let _ = reply.send(ready.stop().await);
            }
            Some(Command::Update(limits, reply)) => {
                let _ = reply.send(ready.update(&limits).await);
            }
            Some(Command::Remove(reply)) => match ready.remove().await {
                Ok(()) => {
                    gone();
                    let _ = reply.send(Ok(()));
                    return;
                }
                Err((back, error)) => {
                    ready = *back;
                    let _ = reply.send(Err(error));
                }
            },
        }
    }
}
