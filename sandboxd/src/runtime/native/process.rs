//! A process that was executed in a container.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use sandboxd_shim::proto::{ExecVerb, Reply, Request};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::container_failure;
use super::infra::ended;
use super::link::{self, Link, problem};
use super::task::{streams, task_exit, unseen};
use crate::runtime::RuntimeError;
use crate::runtime::task::{Process, Size, Streams, TaskExit};

/// For any question.
const ASK: Duration = Duration::from_secs(10);

/// One process.
#[derive(Debug)]
pub struct NativeProcess {
    link: Arc<Link>,
    exec: u64,
    pid: i32,
    process: AsyncFd<OwnedFd>,
    streams: Mutex<Option<Streams>>,
    exit: OnceLock<TaskExit>,
}

impl NativeProcess {
    /// Asks the shim for it.
    pub async fn execute(
        link: Arc<Link>,
        request: &Request,
        deadline: Duration,
    ) -> Result<Self, RuntimeError> {
        let mut answer = link.call(request, &[], deadline).await?;
        match answer.reply {
            Reply::Executed { exec, pid, streams: which, warnings } if !answer.fds.is_empty() => {
                for warning in warnings {
                    tracing::debug!(pid, "the process is not all that was asked for: {warning}");
                }
                let process = link::watch(answer.fds.remove(0), Interest::READABLE).map_err(|source| {
                    RuntimeError::Io { action: "watching a process that was executed".into(), source }
                })?;
                let streams = Mutex::new(Some(streams(which, answer.fds)));
                Ok(Self { link, exec, pid, process, streams, exit: OnceLock::new() })
            }
            Reply::NotDone(failure) => Err(container_failure(failure)),
            other => Err(problem(format!("answered Exec with {other:?}"))),
        }
    }

    async fn tell(&self, verb: ExecVerb) -> Result<(), RuntimeError> {
        match self.link.call(&self.about(verb), &[], ASK).await?.reply {
            Reply::Done => Ok(()),
            Reply::NotDone(failure) => Err(container_failure(failure)),
            other => Err(problem(format!("answered a process's request with {other:?}"))),
        }
    }

    fn about(&self, verb: ExecVerb) -> Request {
        Request::Process { exec: self.exec, verb }
    }

    fn untaken(&self) -> Option<Streams> {
        self.streams.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take()
    }
}

impl Drop for NativeProcess {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        // Who took the streams may read on; else nobody will.
        let request = self.about(ExecVerb::Release { drop: self.untaken().is_some() });
        let link = Arc::clone(&self.link);
        runtime.spawn(async move {
            // A shim that is gone has released everything.
            let _ = link.ask(&request, &[], ASK).await;
        });
    }
}

#[tonic::async_trait]
impl Process for NativeProcess {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn take_streams(&self) -> Streams {
        self.untaken().unwrap_or_default()
    }

    async fn resize(&self, size: Size) -> Result<(), RuntimeError> {
        self.tell(ExecVerb::Resize { columns: size.columns, rows: size.rows }).await
    }

    async fn kill(&self) -> Result<(), RuntimeError> {
        self.tell(ExecVerb::Kill).await
    }

    async fn wait(&self) -> TaskExit {
        ended(&self.process).await;
        if let Some(exit) = self.exit.get() {
            return *exit;
        }
        let asked = self.link.call(&self.about(ExecVerb::State), &[], ASK).await;
        let exit = match asked.map(|answer| answer.reply) {
            Ok(Reply::ExecState { exit: Some(exit) }) => task_exit(exit),
            // The container was removed with it, or the shim is gone.
            _ => unseen(),
        };
        *self.exit.get_or_init(|| exit)
    }
}
