//! One task per container makes every change to it, one after the other.
//!
//! ```text
//!            start                ends
//!  Created ────────▶ Running ────────────▶ Exited ──remove──▶ (gone)
//!     │  start fails     │ stop: signal, grace,  ▲
//!     ├──────────────────┼─ then all are killed ─┘
//!     └── stop, remove ──┘ remove: killed at once
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::error::ContainerError;
use super::ground::Ground;
use super::model::{Container, ContainerState, Ended};
use super::record::{Phase, Record};
use super::store::{Reservation, Store};
use crate::cgroup::merge;
use crate::pod::now_ns;
use crate::pod::spec::Resources;
use crate::runtime::task::{Task, TaskExit};
use crate::runtime::{Exit, RuntimeError};

/// Requests that may wait for one container before a caller has to wait itself.
const QUEUE: usize = 32;
/// For killed processes to be gone: the kernel may have to write back what they held.
const DEATH: Duration = if cfg!(test) { Duration::from_millis(200) } else { Duration::from_secs(30) };
/// The exit code of a container whose command could not be executed (containerd's).
const START_FAILED: i32 = 128;

type Reply = oneshot::Sender<Result<(), ContainerError>>;

#[derive(Debug)]
enum Command {
    Start(Reply),
    Stop(Duration, Reply),
    Remove(Reply),
    Update(Box<Resources>, Reply),
}

/// The way to a container's driver.
#[derive(Debug, Clone)]
pub(super) struct Driver {
    commands: mpsc::Sender<Command>,
}

/// What a driver drives.
#[derive(Debug)]
pub(super) struct Live {
    pub record: Record,
    /// `None`: it ended, or was lost, before this daemon began.
    pub task: Option<Arc<dyn Task>>,
    pub ground: Arc<dyn Ground>,
    pub store: Arc<Store>,
    pub name: Option<Reservation>,
    /// Layers that nobody may remove; `None`: one was missing already.
    pub hold: Option<sandboxd_image::Hold>,
}

impl Driver {
    /// Starts the driver of a container; `gone` runs when it is removed.
    pub(super) fn start(live: Live, gone: impl FnOnce() + Send + 'static) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE);
        tokio::spawn(
            Drive { live, stopping: None, waiting: Vec::new(), removing: Vec::new() }.run(queue, gone),
        );
        Self { commands }
    }

    pub(super) async fn start_container(&self) -> Result<(), ContainerError> {
        self.ask(Command::Start).await
    }

    pub(super) async fn stop(&self, grace: Duration) -> Result<(), ContainerError> {
        self.ask(|reply| Command::Stop(grace, reply)).await
    }

    pub(super) async fn remove(&self) -> Result<(), ContainerError> {
        self.ask(Command::Remove).await
    }

    pub(super) async fn update(&self, resources: Resources) -> Result<(), ContainerError> {
        self.ask(|reply| Command::Update(Box::new(resources), reply)).await
    }

    async fn ask(&self, command: impl FnOnce(Reply) -> Command) -> Result<(), ContainerError> {
        let (reply, answer) = oneshot::channel();
        // A driver that is gone has removed its container: there is nothing left to do.
        if self.commands.send(command(reply)).await.is_err() {
            return Ok(());
        }
        answer.await.unwrap_or(Ok(()))
    }
}

/// A stop on its way.
#[derive(Debug, Clone, Copy)]
struct Stopping {
    /// When the grace period, or the patience with killed processes, ends.
    until: Instant,
    killed: bool,
}

struct Drive {
    live: Live,
    stopping: Option<Stopping>,
    /// Those who wait for the end.
    waiting: Vec<Reply>,
    removing: Vec<Reply>,
}

impl Drive {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>, gone: impl FnOnce()) {
        loop {
            let deadline = self.stopping.map(|stopping| stopping.until);
            tokio::select! {
                command = queue.recv() => match command {
                    // All senders are gone: the daemon is ending. Containers live on.
                    None => return,
                    Some(command) => self.take(command).await,
                },
                exit = ended(self.live.task.clone().filter(|_| self.alive())) => self.ended(exit).await,
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => self.late().await,
            }
            if !self.removing.is_empty() && !self.alive() {
                let removed = self.clear().await;
                let failed = removed.is_err();
                let mut removed = Some(removed);
                if !failed {
                    self.live.store.remove(&self.live.record.container.id);
                    // Before the answer: who hears it may take the name and the layers.
                    self.live.name = None;
                    self.live.hold = None;
                }
                for reply in self.removing.drain(..) {
                    // The first hears why; what several asked for at once is one removal.
                    let _ = reply.send(removed.take().unwrap_or(if failed {
                        Err(ContainerError::Abandoned)
                    } else {
                        Ok(())
                    }));
                }
                if !failed {
                    gone();
                    return;
                }
            }
        }
    }

    fn container(&self) -> &Container {
        &self.live.record.container
    }

    fn alive(&self) -> bool {
        matches!(self.container().state, ContainerState::Created | ContainerState::Running)
    }

    async fn take(&mut self, command: Command) {
        match command {
            Command::Start(reply) => {
                let started = self.start().await;
                let _ = reply.send(started);
            }
            Command::Stop(grace, reply) => {
                if self.alive() {
                    self.waiting.push(reply);
                    self.stop(grace).await;
                } else {
                    let _ = reply.send(Ok(()));
                }
            }
            Command::Remove(reply) => {
                self.removing.push(reply);
                if self.alive() {
                    self.stop(Duration::ZERO).await;
                }
            }
            Command::Update(resources, reply) => {
                let updated = self.update(&resources).await;
                let _ = reply.send(updated);
            }
        }
    }

    async fn start(&mut self) -> Result<(), ContainerError> {
        let (id, state) = (self.container().id.clone(), self.container().state);
        let task =
            self.live.task.clone().filter(|_| state == ContainerState::Created && self.stopping.is_none());
        let Some(task) = task else {
            return Err(ContainerError::State {
                id,
                state,
                needed: "only a created container can be started",
            });
        };
        match task.start().await {
            Ok(()) => {
                let container = &mut self.live.record.container;
                container.state = ContainerState::Running;
                container.started_at_ns = Some(now_ns());
                self.keep();
                Ok(())
            }
            Err(source) => {
                let mut message = source.to_string();
                if let Some(cause) = std::error::Error::source(&source) {
                    message = format!("{message}: {cause}");
                }
                let exit = TaskExit { exit: Exit::Code(START_FAILED), at_ns: now_ns() };
                self.finish(exit, message).await;
                Err(ContainerError::Runtime { action: "starting the container failed", source })
            }
        }
    }

    async fn stop(&mut self, grace: Duration) {
        let until = Instant::now() + grace;
        let Some(task) = self.live.task.clone() else { return };
        match &mut self.stopping {
            Some(stopping) if stopping.killed => {}
            // The shorter of two grace periods counts.
            Some(stopping) => stopping.until = stopping.until.min(until),
            None => {
                self.stopping = Some(Stopping { until, killed: false });
                // What was never started has nothing that could end by itself.
                let created = self.container().state == ContainerState::Created;
                if !grace.is_zero() && !created {
                    self.signal(&*task, self.container().stop_signal, false).await;
                } else {
                    self.kill().await;
                }
            }
        }
        if grace.is_zero() && self.stopping.is_some_and(|stopping| !stopping.killed) {
            self.kill().await;
        }
    }

    async fn signal(&self, task: &dyn Task, signal: i32, all: bool) {
        if let Err(error) = task.signal(signal, all).await {
            tracing::warn!(container = %self.container().id, %error, signal, "signalling the container failed");
        }
    }

    async fn kill(&mut self) {
        self.stopping = Some(Stopping { until: Instant::now() + DEATH, killed: true });
        if let Some(task) = self.live.task.clone() {
            self.signal(&*task, libc::SIGKILL, true).await;
        }
    }

    /// A grace period is over, or killed processes are still there.
    async fn late(&mut self) {
        match self.stopping {
            Some(Stopping { killed: false, .. }) => self.kill().await,
            Some(Stopping { killed: true, .. }) => {
                self.stopping = None;
                let id = self.container().id.clone();
                tracing::error!(container = %id, "its processes do not die");
                for reply in self.waiting.drain(..).chain(self.removing.drain(..)) {
                    let problem =
                        format!("sees the killed processes of container {id} live for {} s", DEATH.as_secs());
                    let source = RuntimeError::Shim { problem };
                    let _ = reply.send(Err(ContainerError::Runtime {
                        action: "stopping the container failed",
                        source,
                    }));
                }
            }
            None => {}
        }
    }

    async fn ended(&mut self, exit: TaskExit) {
        self.finish(exit, String::new()).await;
    }

    /// Notes the end, and takes what is left of the container's processes.
    async fn finish(&mut self, exit: TaskExit, message: String) {
        let oom_killed = self.live.ground.oom_kills().await > 0 && exit.exit != Exit::Code(0);
        let container = &mut self.live.record.container;
        container.state = ContainerState::Exited;
        container.pid = None;
        // A clock that was set back must not make it end before it began.
        let at_ns = exit.at_ns.max(container.started_at_ns.unwrap_or(container.created_at_ns));
        container.ended = Some(Ended { exit: exit.exit, at_ns, oom_killed, message });
        // Its first process has ended; in a shared pid namespace others may live on.
        if let Err(error) = self.live.ground.kill().await {
            tracing::warn!(container = %self.container().id, %error, "killing what is left of it failed");
        }
        self.stopping = None;
        self.keep();
        for reply in self.waiting.drain(..) {
            let _ = reply.send(Ok(()));
        }
    }

    async fn update(&mut self, asked: &Resources) -> Result<(), ContainerError> {
        let old = self.container().spec.resources.clone();
        let new = merge(&old, asked);
        // One that has ended just now, while its caller resized it: the request is kept, and limits nothing.
        let alive = self.alive();
        if alive {
            self.limit(&old, &new).await?;
        }
        self.live.record.container.spec.resources = new.clone();
        if let Err(error) = self.live.ground.record(&self.live.record) {
            self.live.record.container.spec.resources = old.clone();
            if alive {
                self.unlimit(&new, &old).await;
            }
            return Err(error);
        }
        self.live.store.publish(self.container().clone());
        Ok(())
    }

    /// All of them, or none.
    async fn limit(&self, from: &Resources, to: &Resources) -> Result<(), ContainerError> {
        self.live.ground.limit(to.clone()).await?;
        if let Err(error) = self.score(from, to).await {
            self.unlimit(to, from).await;
            return Err(error);
        }
        Ok(())
    }

    async fn score(&self, from: &Resources, to: &Resources) -> Result<(), ContainerError> {
        let (from, to) = (from.oom_score_adj.unwrap_or(0), to.oom_score_adj.unwrap_or(0));
        if from == to { Ok(()) } else { self.live.ground.oom_score(from, to).await }
    }

    /// Takes limits back.
    async fn unlimit(&self, from: &Resources, to: &Resources) {
        let limits = self.live.ground.limit(to.clone()).await;
        if let Err(error) = limits.and(self.score(from, to).await) {
            tracing::warn!(container = %self.container().id, %error, "some of the new limits stay");
        }
    }

    /// Writes and shows the present state.
    fn keep(&mut self) {
        self.live.record.phase = Phase::Made;
        if let Err(error) = self.live.ground.record(&self.live.record) {
            tracing::error!(container = %self.container().id, %error, "its record keeps an older state");
        }
        self.live.store.publish(self.container().clone());
    }

    async fn clear(&mut self) -> Result<(), ContainerError> {
        if let Some(task) = &self.live.task {
            if let Err(error) = task.remove().await {
                // With the pod its shim is gone, and with the shim the task.
                tracing::debug!(container = %self.container().id, %error, "the runtime does not forget it");
            }
            self.live.task = None;
        }
        self.live.ground.clear().await
    }
}

/// The end of a task; for ever where there is none to wait for.
async fn ended(task: Option<Arc<dyn Task>>) -> TaskExit {
    match task {
        Some(task) => task.wait().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
#[path = "driver_tests.rs"]
mod tests;
