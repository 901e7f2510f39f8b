//! A container's runtime and ground that write down what is done to them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use super::error::ContainerError;
use super::ground::Ground;
use super::model::{Container, ContainerId, ContainerState, Ids, ImageNames};
use super::record::Record;
use crate::pod::model::PodId;
use crate::pod::spec::Resources;
use crate::runtime::task::{ExecPlan, LogState, Process, Size, Streams, Task, TaskExit, Wanted};
use crate::runtime::{Exit, RuntimeError};

/// A created container.
pub(crate) fn container() -> Container {
    Container {
        id: ContainerId::random().unwrap(),
        pod: PodId::random().unwrap(),
        spec: crate::runtime::spec::container::tests::spec(),
        state: ContainerState::Created,
        image_id: "sha256:1".into(),
        image_names: ImageNames::default(),
        layers: Vec::new(),
        ids: Ids::default(),
        created_at_ns: 1,
        started_at_ns: None,
        ended: None,
        pid: Some(1),
        cgroup: "/c".into(),
        stop_signal: libc::SIGTERM,
    }
}

/// What was done, in its order.
#[derive(Debug, Clone, Default)]
pub(super) struct Done(Arc<Mutex<Vec<String>>>);

impl Done {
    pub fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    /// All of it since the last call.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

pub(super) fn failure(what: &str) -> RuntimeError {
    RuntimeError::Shim { problem: what.to_owned() }
}

/// A task that ends when a test or a signal says so.
#[derive(Debug)]
pub(super) struct FakeTask {
    done: Done,
    end: watch::Sender<Option<TaskExit>>,
    null: OwnedFd,
    /// The signal that ends it, beside SIGKILL.
    pub heeds: i32,
    /// Not even SIGKILL ends it.
    pub immortal: AtomicBool,
    pub start_fails: AtomicBool,
    /// What exec answers with, once.
    pub process: Mutex<Option<Arc<dyn Process>>>,
}

impl FakeTask {
    pub fn new(done: Done, heeds: i32) -> Self {
        Self {
            done,
            end: watch::Sender::new(None),
            null: std::fs::File::open("/dev/null").unwrap().into(),
            heeds,
            immortal: AtomicBool::new(false),
            start_fails: AtomicBool::new(false),
            process: Mutex::default(),
        }
    }

    pub fn end(&self, exit: Exit) {
        self.end.send_replace(Some(TaskExit { exit, at_ns: i64::MAX }));
    }
}

#[tonic::async_trait]
impl Task for FakeTask {
    fn pid(&self) -> i32 {
        1
    }
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.null.as_fd()
    }
    async fn start(&self) -> Result<(), RuntimeError> {
        self.done.note("start");
        if self.start_fails.load(Ordering::Relaxed) { Err(failure("cannot execute")) } else { Ok(()) }
    }
    async fn signal(&self, signal: i32, all: bool) -> Result<(), RuntimeError> {
        self.done.note(format!("signal {signal}{}", if all { " to all" } else { "" }));
        if signal == self.heeds || signal == libc::SIGKILL && !self.immortal.load(Ordering::Relaxed) {
            self.end(Exit::Signal(signal));
        }
        Ok(())
    }
    async fn wait(&self) -> TaskExit {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.unwrap();
        ended.unwrap()
    }
    async fn reopen_log(&self, _: OwnedFd) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn log_state(&self) -> Result<LogState, RuntimeError> {
        Ok(LogState::default())
    }
    async fn attach(&self, _: Wanted) -> Result<Streams, RuntimeError> {
        Ok(Streams::default())
    }
    async fn resize(&self, _: Size) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn exec(&self, _: ExecPlan) -> Result<Arc<dyn Process>, RuntimeError> {
        self.process.lock().unwrap().take().ok_or_else(|| failure("cannot execute"))
    }
    async fn remove(&self) -> Result<(), RuntimeError> {
        self.done.note("forgotten");
        Ok(())
    }
}

/// A ground that fails where it is told to.
#[derive(Debug, Default)]
pub(super) struct FakeGround {
    pub done: Done,
    pub oom: AtomicU64,
    pub clear_fails: AtomicBool,
    pub record_fails: AtomicBool,
    pub limit_fails: AtomicBool,
    pub score_fails: AtomicBool,
}

fn broken() -> ContainerError {
    ContainerError::Io {
        action: "breaking",
        path: "/x".into(),
        source: std::io::ErrorKind::StorageFull.into(),
    }
}

#[tonic::async_trait]
impl Ground for FakeGround {
    async fn kill(&self) -> Result<(), ContainerError> {
        self.done.note("the rest killed");
        Ok(())
    }
    async fn oom_kills(&self) -> u64 {
        self.done.note("oom read");
        self.oom.load(Ordering::Relaxed)
    }
    async fn limit(&self, resources: Resources) -> Result<(), ContainerError> {
        self.done.note(format!("shares {:?}", resources.cpu_shares));
        if self.limit_fails.load(Ordering::Relaxed) { Err(broken()) } else { Ok(()) }
    }
    async fn oom_score(&self, from: i32, to: i32) -> Result<(), ContainerError> {
        self.done.note(format!("score {from} to {to}"));
        if self.score_fails.load(Ordering::Relaxed) { Err(broken()) } else { Ok(()) }
    }
    fn record(&self, record: &Record) -> Result<(), ContainerError> {
        self.done.note(format!("record {:?}", record.container.state));
        if self.record_fails.load(Ordering::Relaxed) { Err(broken()) } else { Ok(()) }
    }
    async fn clear(&self) -> Result<(), ContainerError> {
        self.done.note("cleared");
        if self.clear_fails.load(Ordering::Relaxed) { Err(broken()) } else { Ok(()) }
    }
}

/// A process whose streams and end a test holds.
#[derive(Debug)]
pub(super) struct FakeProcess {
    pub streams: Mutex<Streams>,
    pub end: watch::Sender<Option<TaskExit>>,
    pub killed: watch::Sender<bool>,
}

#[tonic::async_trait]
impl Process for FakeProcess {
    fn pid(&self) -> i32 {
        2
    }
    fn take_streams(&self) -> Streams {
        std::mem::take(&mut self.streams.lock().unwrap())
    }
    async fn resize(&self, _: Size) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn kill(&self) -> Result<(), RuntimeError> {
        self.killed.send_replace(true);
        Ok(())
    }
    async fn wait(&self) -> TaskExit {
        let mut end = self.end.subscribe();
        let ended = end.wait_for(Option::is_some).await.unwrap();
        ended.unwrap()
    }
}
