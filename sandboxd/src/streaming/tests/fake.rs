//! A task whose execs are processes of this machine, and whose own streams are pipes of the test.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use oci_spec::runtime::Process as OciProcess;
use sandboxd_streaming::Settings;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::container::env::RawEnv;
use crate::container::error::ContainerError;
use crate::container::model::{Container, ContainerId, ContainerState, Ids, ImageNames};
use crate::container::spec::ContainerSpec;
use crate::pod::model::{Pod, test_pod};
use crate::runtime::spec::container::tests::spec;
use crate::runtime::spec::exec_process;
use crate::runtime::task::{ExecPlan, LogState, Process, Size, Streams, Task, TaskExit, Wanted};
use crate::runtime::{Exit, RuntimeError};
use crate::streaming::{Streaming, StreamingError, Targets};

#[derive(Debug, Default)]
pub struct FakeTask {
    /// The other ends of those who attached: what they type, what they read.
    pub attached: Mutex<Vec<(Option<OwnedFd>, Option<OwnedFd>)>>,
    pub sizes: Arc<Mutex<Vec<Size>>>,
    pub ended: CancellationToken,
}

#[derive(Debug)]
struct FakeProcess {
    child: Mutex<Child>,
    streams: Mutex<Option<Streams>>,
    sizes: Arc<Mutex<Vec<Size>>>,
}

#[tonic::async_trait]
impl Task for FakeTask {
    fn pid(&self) -> i32 {
        1
    }

    fn pidfd(&self) -> BorrowedFd<'_> {
        unreachable!("nobody asks a fake")
    }

    async fn start(&self) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn signal(&self, _: i32, _: bool) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn wait(&self) -> TaskExit {
        self.ended.cancelled().await;
        TaskExit { exit: Exit::Code(0), at_ns: 1 }
    }

    async fn reopen_log(&self, _: OwnedFd) -> Result<(), RuntimeError> {
        Ok(())
    }

    async fn log_state(&self) -> Result<LogState, RuntimeError> {
        Ok(LogState::default())
    }

    async fn attach(&self, wanted: Wanted) -> Result<Streams, RuntimeError> {
        let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
        let (mut ours, mut theirs) = ((None, None), Streams::default());
        if wanted.stdin {
            let (read, write) = pipe();
            (ours.0, theirs.stdin) = (Some(read), Some(write));
        }
        if wanted.stdout {
            let (read, write) = pipe();
            (ours.1, theirs.stdout) = (Some(write), Some(read));
        }
        self.attached.lock().unwrap().push(ours);
        Ok(theirs)
    }

    async fn resize(&self, size: Size) -> Result<(), RuntimeError> {
        self.sizes.lock().unwrap().push(size);
        Ok(())
    }

    async fn exec(&self, plan: ExecPlan) -> Result<Arc<dyn Process>, RuntimeError> {
        let args = plan.process.args().clone().unwrap_or_default();
        let pipe = |wanted| if wanted { Stdio::piped() } else { Stdio::null() };
        let mut child = Command::new(&args[0])
            .args(&args[1..])
            .stdin(pipe(plan.wanted.stdin))
            .stdout(pipe(plan.wanted.stdout))
            .stderr(pipe(plan.wanted.stderr))
            .spawn()
            .map_err(|source| RuntimeError::Io { action: format!("executing {:?}", args[0]), source })?;
        let streams = Streams {
            stdin: child.stdin.take().map(OwnedFd::from),
            stdout: child.stdout.take().map(OwnedFd::from),
            stderr: child.stderr.take().map(OwnedFd::from),
        };
        Ok(Arc::new(FakeProcess {
            child: Mutex::new(child),
            streams: Mutex::new(Some(streams)),
            sizes: Arc::clone(&self.sizes),
        }))
    }

    async fn remove(&self) -> Result<(), RuntimeError> {
        Ok(())
    }
}

#[tonic::async_trait]
impl Process for FakeProcess {
    fn pid(&self) -> i32 {
        i32::try_from(self.child.lock().unwrap().id()).unwrap()
    }

    fn take_streams(&self) -> Streams {
        self.streams.lock().unwrap().take().unwrap_or_default()
    }

    async fn resize(&self, size: Size) -> Result<(), RuntimeError> {
        self.sizes.lock().unwrap().push(size);
        Ok(())
    }

    async fn kill(&self) -> Result<(), RuntimeError> {
        let _ = self.child.lock().unwrap().kill();
        Ok(())
    }

    async fn wait(&self) -> TaskExit {
        use std::os::unix::process::ExitStatusExt;
        loop {
            if let Some(status) = self.child.lock().unwrap().try_wait().unwrap() {
                let exit = match status.signal() {
                    Some(signal) => Exit::Signal(signal),
                    None => Exit::Code(status.code().unwrap()),
                };
                return TaskExit { exit, at_ns: 1 };
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

/// One container "c" and one pod "p".
#[derive(Debug)]
pub struct FakeNode {
    pub task: Arc<FakeTask>,
    pub pod: Mutex<Arc<Pod>>,
    pub container: Container,
}

impl Targets for Arc<FakeNode> {
    fn task(&self, id: &str) -> Result<(Arc<Container>, Arc<dyn Task>), ContainerError> {
        match id {
            "c" => Ok((Arc::new(self.container.clone()), Arc::clone(&self.task) as Arc<dyn Task>)),
            "exited" => Err(ContainerError::State {
                id: self.container.id.clone(),
                state: ContainerState::Exited,
                needed: "it must be running",
            }),
            _ => Err(ContainerError::NotFound { id: id.to_owned() }),
        }
    }

    fn exec_plan(
        &self,
        id: &str,
        command: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<(Arc<dyn Task>, ExecPlan), ContainerError> {
        let process = exec_process(&OciProcess::default(), command, tty);
        Ok((self.task(id)?.1, ExecPlan { process, raw_env: RawEnv::new(), wanted }))
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>, StreamingError> {
        let pod = self.pod.lock().unwrap();
        if id == pod.id.as_str() {
            Ok(Arc::clone(&pod))
        } else {
            Err(StreamingError::NoPod { id: id.to_owned() })
        }
    }
}

/// The room over a fake node; it ends with the test.
pub struct Room {
    pub streaming: Streaming,
    pub node: Arc<FakeNode>,
    _end: DropGuard,
}

pub async fn room(stdin_once: bool, tty: bool) -> Room {
    let pod = Mutex::new(Arc::new(test_pod("p")));
    let spec = ContainerSpec { stdin_once, tty, ..spec() };
    let container = Container {
        id: ContainerId::from_string("c".into()),
        pod: pod.lock().unwrap().id.clone(),
        spec,
        state: ContainerState::Running,
        image_id: String::new(),
        image_names: ImageNames::default(),
        layers: Vec::new(),
        ids: Ids::default(),
        created_at_ns: 1,
        started_at_ns: Some(2),
        ended: None,
        pid: None,
        cgroup: String::new(),
        stop_signal: 15,
    };
    let node = Arc::new(FakeNode { task: Arc::default(), pod, container });
    let targets = Arc::new(Arc::clone(&node));
    let (streaming, served) = Streaming::listen(Settings::default(), targets).await.unwrap();
    let closing = CancellationToken::new();
    tokio::spawn(served.run(closing.clone()));
    Room { streaming, node, _end: closing.drop_guard() }
}
