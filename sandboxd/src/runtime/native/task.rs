//! A container as the daemon holds it: its id at the shim, a pidfd of its first process.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use sandboxd_shim::proto::{ContainerState, Ended, Refusal, Reply, Request, Verb, Wanted as ShimWanted};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::infra::{ended, of_proto};
use super::link::{self, Answer, Link, problem, refused};
use super::process::NativeProcess;
use super::{container, container_failure};
use crate::container::model::ContainerId;
use crate::runtime::task::{ExecPlan, LogState, Process, Size, Streams, Task, TaskExit, TaskPlan, Wanted};
use crate::runtime::{Exit, RuntimeError};

/// For making a container: the shim itself gives up after ten seconds.
const CREATE: Duration = Duration::from_secs(30);
/// For a start and an exec.
const START: Duration = Duration::from_secs(30);
/// For all else.
const ASK: Duration = Duration::from_secs(10);
/// Until another's removal has told how the container ended.
const REMOVED: Duration = Duration::from_secs(1);

/// One container.
#[derive(Debug)]
pub struct NativeTask {
    link: Arc<Link>,
    id: ContainerId,
    pid: i32,
    process: AsyncFd<OwnedFd>,
    exit: OnceLock<TaskExit>,
}

/// Removes a container that was asked for, when the asking is cut short.
struct Undo {
    link: Arc<Link>,
    id: Option<ContainerId>,
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let (Some(id), Ok(runtime)) = (self.id.take(), tokio::runtime::Handle::try_current()) {
            let link = Arc::clone(&self.link);
            runtime.spawn(async move {
                // Gone with the pod otherwise.
                let _ = link.ask(&about(&id, Verb::Remove), &[], ASK).await;
            });
        }
    }
}

impl NativeTask {
    /// Makes a container. `user`: the user namespace of the pod's infra container.
    pub async fn create(link: &Arc<Link>, plan: TaskPlan, user: OwnedFd) -> Result<Self, RuntimeError> {
        let id = plan.id.clone();
        // Paths of volumes lead to file servers that may not answer.
        let prepared = tokio::task::spawn_blocking(move || container::prepare(plan, user)).await;
        let prepared = prepared.map_err(|_| problem("was asked by a daemon that is ending".into()))??;
        let request = Request::CreateContainer(Box::new(prepared.plan));
        let mut undo = Undo { link: Arc::clone(link), id: Some(id.clone()) };
        let answer = link.call(&request, &prepared.fds.borrowed(), CREATE).await;
        if !matches!(answer, Err(RuntimeError::Shim { .. })) {
            undo.id = None;
        }
        let mut answer = answer?;
        match (answer.reply, answer.fds.pop()) {
            (Reply::ContainerCreated { pid, warnings }, Some(pidfd)) => {
                for warning in prepared.warnings.iter().chain(&warnings) {
                    tracing::info!(container = %id, "the container is not all that was asked for: {warning}");
                }
                let made = Self::new(link, &id, pid, pidfd);
                if made.is_err() {
                    undo.id = Some(id);
                }
                made
            }
            (Reply::NotDone(failure), _) => Err(container_failure(failure)),
            (other, _) => Err(problem(format!("answered CreateContainer with {other:?}"))),
        }
    }

    /// Finds it again, and whether it was started.
    pub async fn adopt(link: &Arc<Link>, id: &ContainerId) -> Result<Option<(Self, bool)>, RuntimeError> {
        let mut answer = link.ask(&about(id, Verb::State), &[], ASK).await?;
        match (answer.reply, answer.fds.pop()) {
            (Reply::ContainerState(state), Some(pidfd)) => {
                let task = Self::new(link, id, state.pid, pidfd)?;
                task.learn(state.exit);
                Ok(Some((task, state.started)))
            }
            (Reply::Refused(Refusal::Unknown), _) => Ok(None),
            (Reply::Refused(other), _) => Err(refused(other)),
            (other, _) => Err(problem(format!("answered State with {other:?}"))),
        }
    }

    /// One that was made.
    pub fn new(link: &Arc<Link>, id: &ContainerId, pid: i32, pidfd: OwnedFd) -> Result<Self, RuntimeError> {
        let process = link::watch(pidfd, Interest::READABLE).map_err(|source| RuntimeError::Io {
            action: "watching the container's process".into(),
            source,
        })?;
        Ok(Self { link: Arc::clone(link), id: id.clone(), pid, process, exit: OnceLock::new() })
    }

    fn learn(&self, exit: Option<Ended>) -> Option<TaskExit> {
        if let Some(exit) = exit {
            let _ = self.exit.set(task_exit(exit));
        }
        self.exit.get().copied()
    }

    async fn ask(
        &self,
        verb: Verb,
        fds: &[BorrowedFd<'_>],
        deadline: Duration,
    ) -> Result<Answer, RuntimeError> {
        let answer = self.link.call(&about(&self.id, verb), fds, deadline).await?;
        match answer.reply {
            Reply::NotDone(failure) => Err(container_failure(failure)),
            _ => Ok(answer),
        }
    }

    /// For what has no answer but that it was done.
    async fn tell(&self, verb: Verb, fds: &[BorrowedFd<'_>], deadline: Duration) -> Result<(), RuntimeError> {
        match self.ask(verb, fds, deadline).await?.reply {
            Reply::Done => Ok(()),
            other => Err(problem(format!("answered a container's request with {other:?}"))),
        }
    }

    async fn state(&self) -> Result<ContainerState, RuntimeError> {
        match self.ask(Verb::State, &[], ASK).await?.reply {
            Reply::ContainerState(state) => Ok(state),
            other => Err(problem(format!("answered State with {other:?}"))),
        }
    }
}

fn about(id: &ContainerId, verb: Verb) -> Request {
    Request::Container { id: id.as_str().to_owned(), verb }
}

/// As the daemon has it.
pub fn task_exit(ended: Ended) -> TaskExit {
    TaskExit { exit: of_proto(ended.exit), at_ns: ended.at_ns }
}

/// Of a process that nobody saw end.
pub fn unseen() -> TaskExit {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    TaskExit { exit: Exit::Unknown, at_ns: i64::try_from(now.as_nanos()).unwrap_or(i64::MAX) }
}

/// Descriptors of an answer as streams.
pub fn streams(which: ShimWanted, fds: Vec<OwnedFd>) -> Streams {
    let mut fds = fds.into_iter();
    let mut next = |there: bool| if there { fds.next() } else { None };
    Streams { stdin: next(which.stdin), stdout: next(which.stdout), stderr: next(which.stderr) }
}

#[tonic::async_trait]
impl Task for NativeTask {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.process.get_ref().as_fd()
    }

    async fn start(&self) -> Result<(), RuntimeError> {
        self.tell(Verb::Start, &[], START).await
    }

    async fn signal(&self, signal: i32, all: bool) -> Result<(), RuntimeError> {
        self.tell(Verb::Signal { signal, all }, &[], ASK).await
    }

    async fn wait(&self) -> TaskExit {
        ended(&self.process).await;
        if let Some(exit) = self.exit.get() {
            return *exit;
        }
        let asked = self.link.ask(&about(&self.id, Verb::State), &[], ASK).await;
        match asked.map(|answer| answer.reply) {
            Ok(Reply::ContainerState(state)) if state.exit.is_some() => {
                return self.learn(state.exit).unwrap_or_else(unseen);
            }
            // It is being removed, and the removal will tell.
            Ok(Reply::Refused(Refusal::Unknown)) => {}
            // The shim is gone, and nobody will.
            _ => return *self.exit.get_or_init(unseen),
        }
        let removed = async {
            loop {
                if let Some(exit) = self.exit.get() {
                    return *exit;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let known = tokio::time::timeout(REMOVED, removed).await;
        known.unwrap_or_else(|_| *self.exit.get_or_init(unseen))
    }

    async fn reopen_log(&self, log: OwnedFd) -> Result<(), RuntimeError> {
        self.tell(Verb::ReopenLog, &[log.as_fd()], ASK).await
    }

    async fn log_state(&self) -> Result<LogState, RuntimeError> {
        let state = self.state().await?;
        Ok(LogState { lost_bytes: state.lost_bytes, error: state.log_errno })
    }

    async fn attach(&self, wanted: Wanted) -> Result<Streams, RuntimeError> {
        let wanted = ShimWanted { stdin: wanted.stdin, stdout: wanted.stdout, stderr: wanted.stderr };
        let answer = self.ask(Verb::Attach(wanted), &[], ASK).await?;
        match answer.reply {
            Reply::Attached(which) => Ok(streams(which, answer.fds)),
            other => Err(problem(format!("answered Attach with {other:?}"))),
        }
    }

    async fn resize(&self, size: Size) -> Result<(), RuntimeError> {
        self.tell(Verb::Resize { columns: size.columns, rows: size.rows }, &[], ASK).await
    }

    async fn exec(&self, plan: ExecPlan) -> Result<Arc<dyn Process>, RuntimeError> {
        let request = Request::Exec(Box::new(container::exec(self.id.as_str(), &plan)?));
        let link = Arc::clone(&self.link);
        // To its end also when the caller is cut short: what was executed is then let go in an orderly way.
        let executed = tokio::spawn(async move { NativeProcess::execute(link, &request, START).await });
        let executed = executed.await.map_err(|_| problem("was asked by a daemon that is ending".into()))?;
        Ok(Arc::new(executed?))
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        match self.ask(Verb::Remove, &[], ASK).await {
            Ok(Answer { reply: Reply::Removed { exit }, .. }) => {
                self.learn(exit);
                Ok(())
            }
            Ok(other) => Err(problem(format!("answered Remove with {:?}", other.reply))),
            Err(error) => Err(error),
        }
    }
}
