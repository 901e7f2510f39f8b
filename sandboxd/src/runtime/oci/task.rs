//! A container that an OCI runtime carries out. Its shim is spoken to as to a pod's; when it is gone, the process
//! is signalled by its pidfd and the runtime removes what is left.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sandboxd_shim::plan::oci::OciExecPlan;
use sandboxd_shim::proto::{Reply, Request};

use super::bundle::{self, Bundle, Pod};
use super::words::told;
use super::{Line, leftovers, oom};
use crate::container::model::ContainerId;
use crate::runtime::RuntimeError;
use crate::runtime::native::container_failure;
use crate::runtime::native::link::{Link, problem};
use crate::runtime::native::process::NativeProcess;
use crate::runtime::native::spawn::Shim;
use crate::runtime::native::task::NativeTask;
use crate::runtime::task::{ExecPlan, LogState, Process, Size, Streams, Task, TaskExit, TaskPlan, Wanted};

/// For making a container, and for an exec: the shim itself gives up after twenty seconds.
const CREATE: Duration = Duration::from_secs(40);

/// One container.
#[derive(Debug)]
pub struct OciTask {
    task: NativeTask,
    link: Arc<Link>,
    line: Arc<Line>,
    id: ContainerId,
    dir: PathBuf,
}

impl OciTask {
    /// Makes a container, up to the point before exec. After an error its directory may be left.
    pub async fn create(
        line: &Arc<Line>,
        dir: &Path,
        plan: TaskPlan,
        pod: Pod,
    ) -> Result<Self, RuntimeError> {
        let (id, host_root) = (plan.id.clone(), plan.host_root);
        let (for_bundle, place) = (Arc::clone(line), dir.to_owned());
        let made = tokio::task::spawn_blocking(move || bundle::make(&for_bundle, &place, plan, pod)).await;
        let Bundle { plan, fds } =
            made.map_err(|_| problem("was asked by a daemon that is ending".into()))??;
        if line.binary.as_os_str().is_empty() {
            let what = format!("another container of handler {:?}, which left the configuration", line.name);
            return Err(RuntimeError::Unsupported { what });
        }
        let (link, theirs) = Link::pair()?;
        let shim = Shim::spawn(&line.shim, theirs)?;
        let request = match host_root {
            Some(root) => Request::CreateOciMapped(Box::new(plan), root),
            None => Request::CreateOci(Box::new(plan)),
        };
        let answer = link.call(&request, &fds.borrowed(), CREATE).await;
        // The shim holds its own; what it was given is gone with the container.
        drop(fds);
        let made = match answer.map(|mut answer| (answer.reply, answer.fds.pop())) {
            Ok((Reply::ContainerCreated { pid, .. }, Some(pidfd))) => {
                let link = Arc::new(link);
                NativeTask::new(&link, &id, pid, pidfd).map(|task| (task, link))
            }
            Ok((Reply::NotDone(failure), _)) => Err(told(container_failure(failure), &line.name)),
            Ok((other, _)) => Err(problem(format!("answered CreateOci with {other:?}"))),
            Err(error) => Err(error),
        };
        match made {
            Ok((task, link)) => {
                shim.keep();
                Ok(Self { task, link, line: Arc::clone(line), id, dir: dir.to_owned() })
            }
            Err(error) => {
                shim.end().await;
                Err(error)
            }
        }
    }

    /// Finds it again, and whether it was started. `None`: nobody answers for it.
    pub async fn adopt(
        line: &Arc<Line>,
        dir: &Path,
        id: &ContainerId,
    ) -> Result<Option<(Self, bool)>, RuntimeError> {
        let link = match Link::connect(dir) {
            Ok((link, ..)) => Arc::new(link),
            Err(RuntimeError::Shim { .. }) => return Ok(None),
            Err(RuntimeError::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let adopted = NativeTask::adopt(&link, id).await?;
        Ok(adopted.map(|(task, started)| {
            let own = Self { task, link, line: Arc::clone(line), id: id.clone(), dir: dir.to_owned() };
            (own, started)
        }))
    }

    fn told(&self, error: RuntimeError) -> RuntimeError {
        told(error, &self.line.name)
    }
}

#[tonic::async_trait]
impl Task for OciTask {
    fn pid(&self) -> i32 {
        self.task.pid()
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        self.task.pidfd()
    }

    async fn start(&self) -> Result<(), RuntimeError> {
        self.task.start().await.map_err(|error| self.told(error))
    }

    async fn signal(&self, signal: i32, all: bool) -> Result<(), RuntimeError> {
        match self.task.signal(signal, all).await {
            Err(RuntimeError::Shim { .. }) => by_pidfd(self.pidfd(), signal),
            other => other,
        }
    }

    async fn wait(&self) -> TaskExit {
        self.task.wait().await
    }

    async fn reopen_log(&self, log: OwnedFd) -> Result<(), RuntimeError> {
        self.task.reopen_log(log).await
    }

    async fn log_state(&self) -> Result<LogState, RuntimeError> {
        self.task.log_state().await
    }

    async fn attach(&self, wanted: Wanted) -> Result<Streams, RuntimeError> {
        self.task.attach(wanted).await
    }

    async fn resize(&self, size: Size) -> Result<(), RuntimeError> {
        self.task.resize(size).await
    }

    async fn exec(&self, plan: ExecPlan) -> Result<Arc<dyn Process>, RuntimeError> {
        let mut process = plan.process;
        // Said when the container was made.
        let _ = oom::within_reach(&mut process);
        let terminal = process.terminal().unwrap_or(false);
        let process = serde_json::to_vec(&process).map_err(|error| RuntimeError::Io {
            action: "writing the process as JSON".into(),
            source: error.into(),
        })?;
        let request = Request::ExecOci(Box::new(OciExecPlan {
            container: self.id.as_str().to_owned(),
            process,
            terminal,
            stdin: plan.wanted.stdin,
            stdout: plan.wanted.stdout,
            stderr: plan.wanted.stderr,
        }));
        let link = Arc::clone(&self.link);
        // To its end also when the caller is cut short: what was executed is then let go in an orderly way.
        let executed = tokio::spawn(async move { NativeProcess::execute(link, &request, CREATE).await });
        let executed = executed.await.map_err(|_| problem("was asked by a daemon that is ending".into()))?;
        Ok(Arc::new(executed.map_err(|error| self.told(error))?))
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        match self.task.remove().await {
            // What is left the runtime removes.
            Ok(()) | Err(RuntimeError::Shim { .. }) => {}
            Err(error) => return Err(error),
        }
        leftovers::remove(&self.line, &self.dir, self.id.as_str()).await
    }
}

/// No error once it has ended.
fn by_pidfd(pidfd: BorrowedFd<'_>, signal: i32) -> Result<(), RuntimeError> {
    let fd = std::os::fd::AsRawFd::as_raw_fd(&pidfd);
    // SAFETY: takes no pointers but the null one.
    if unsafe { libc::syscall(libc::SYS_pidfd_send_signal, fd, signal, 0, 0) } == 0 {
        return Ok(());
    }
    let source = std::io::Error::last_os_error();
    if source.raw_os_error() == Some(libc::ESRCH) {
        return Ok(());
    }
    Err(RuntimeError::Io { action: "signalling the container".into(), source })
}
