//! Streaming sessions in real containers: the client over the server to the shim and back.

use std::sync::Arc;
use std::time::Duration;

use sandboxd::container::env::RawEnv;
use sandboxd::container::error::ContainerError;
use sandboxd::container::model::{Container, ContainerId, ContainerState, Ids, ImageNames};
use sandboxd::container::spec::{ContainerSpec, GroupsPolicy, ImageRef, Metadata, PidMode, RunAs, Security};
use sandboxd::pod::model::{Pod, PodId};
use sandboxd::pod::spec::Seccomp;
use sandboxd::runtime::task::{ExecPlan, Task, Wanted};
use sandboxd::streaming::{Streaming, StreamingError, Targets};
use sandboxd_streaming::client::{Channels, Endpoint, Remote};
use sandboxd_streaming::{Settings, Wanted as Streams};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::bench_box::{Box, Given};
use super::setup::need_root;

const V4: &str = "v4.channel.k8s.io";
const V5: &str = "v5.channel.k8s.io";
const ALL: Streams = Streams { stdin: true, stdout: true, stderr: true, tty: false };
const TALK: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: false };
const TERMINAL: Streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };

/// The one container of a test, under every id.
#[derive(Debug)]
struct One {
    container: Arc<Container>,
    task: Arc<dyn Task>,
}

impl Targets for One {
    fn task(&self, _: &str) -> Result<(Arc<Container>, Arc<dyn Task>), ContainerError> {
        Ok((Arc::clone(&self.container), Arc::clone(&self.task)))
    }

    fn exec_plan(
        &self,
        _: &str,
        command: &[String],
        tty: bool,
        wanted: Wanted,
    ) -> Result<(Arc<dyn Task>, ExecPlan), ContainerError> {
        let first = Given::args(&["true"]).spec.process().clone().unwrap();
        let process = sandboxd::runtime::spec::exec_process(&first, command, tty);
        Ok((Arc::clone(&self.task), ExecPlan { process, raw_env: RawEnv::new(), wanted }))
    }

    fn pod(&self, id: &str) -> Result<Arc<Pod>, StreamingError> {
        Err(StreamingError::NoPod { id: id.to_owned() })
    }
}

struct Room {
    streaming: Streaming,
    _end: DropGuard,
}

/// The room over a task. `stdin_once` and `tty` are the container's.
async fn room(task: &Arc<dyn Task>, stdin_once: bool, tty: bool) -> Room {
    let container = Container {
        id: ContainerId::from_string("c".into()),
        pod: PodId::from_string("p".into()),
        spec: spec(stdin_once, tty),
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
    let targets = Arc::new(One { container: Arc::new(container), task: Arc::clone(task) });
    let (streaming, served) = Streaming::listen(Settings::default(), targets).await.unwrap();
    let closing = CancellationToken::new();
    tokio::spawn(served.run(closing.clone()));
    Room { streaming, _end: closing.drop_guard() }
}

/// Of it only `stdin_once` and `tty` are looked at.
fn spec(stdin_once: bool, tty: bool) -> ContainerSpec {
    ContainerSpec {
        metadata: Metadata { name: "app".into(), attempt: 0 },
        image: ImageRef {
            image: "i".into(),
            user_specified_image: String::new(),
            runtime_handler: String::new(),
            annotations: Default::default(),
            image_id: String::new(),
        },
        command: Vec::new(),
        args: Vec::new(),
        working_dir: String::new(),
        envs: Vec::new(),
        mounts: Vec::new(),
        devices: Vec::new(),
        cdi_devices: Vec::new(),
        labels: Default::default(),
        annotations: Default::default(),
        log_path: None,
        stdin: true,
        stdin_once,
        tty,
        stop_signal: None,
        resources: Default::default(),
        security: Security {
            privileged: false,
            add_capabilities: 0,
            drop_capabilities: 0,
            add_ambient_capabilities: 0,
            pid: PidMode::Pod,
            user: RunAs::Image,
            run_as_group: None,
            supplemental_groups: Vec::new(),
            groups_policy: GroupsPolicy::Merge,
            readonly_rootfs: false,
            no_new_privs: false,
            masked_paths: Vec::new(),
            readonly_paths: Vec::new(),
            seccomp: Seccomp::Unconfined,
            apparmor: None,
            selinux: None,
        },
    }
}

impl Room {
    fn exec_endpoint(&self, script: &str, wanted: Streams) -> Endpoint {
        let command = ["sh", "-c", script].map(str::to_owned).to_vec();
        Endpoint::new(&self.streaming.exec("c", command, wanted).unwrap()).unwrap()
    }

    async fn exec(&self, script: &str, wanted: Streams) -> Remote {
        Remote::open(&self.exec_endpoint(script, wanted), &[V4], wanted).await.unwrap()
    }

    async fn attach(&self, wanted: Streams) -> Remote {
        let endpoint = Endpoint::new(&self.streaming.attach("c", wanted).unwrap()).unwrap();
        Remote::open(&endpoint, &[V4], wanted).await.unwrap()
    }
}

fn exit_code(error: &[u8]) -> String {
    let status: serde_json::Value = serde_json::from_slice(error).unwrap();
    status["details"]["causes"][0]["message"].as_str().unwrap_or("0").to_owned()
}

#[tokio::test]
async fn an_exec_over_both_protocols() {
    need_root!();
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("sleep 600")).await;
    task.start().await.unwrap();
    let room = room(&task, false, false).await;

    let mut remote = room.exec("cat; echo err >&2; exit 7", ALL).await;
    let mut stdin = remote.stdin.take().unwrap();
    stdin.write_all(b"typed").await.unwrap();
    stdin.shutdown().await.unwrap();
    let outcome = remote.outcome().await.unwrap();
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (&b"typed"[..], &b"err\n"[..]));
    assert_eq!(exit_code(&outcome.error), "7");

    let endpoint = room.exec_endpoint("cat; kill -9 $$", ALL);
    let mut channels = Channels::open(&endpoint, &[V5]).await.unwrap();
    channels.send(0, b"typed").await.unwrap();
    channels.end(0).await.unwrap();
    let all = channels.outcome().await.unwrap();
    assert_eq!((&*all[1], &*exit_code(&all[3])), (&b"typed"[..], "137"));

    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn megabytes_come_out_whole() {
    need_root!();
    let pod = Box::pod(false).await;
    let (task, _) = pod.make(Given::shell("sleep 600")).await;
    task.start().await.unwrap();
    let room = room(&task, false, false).await;
    let remote = room.exec("head -c 20000000 /dev/zero; echo end >&2", ALL).await;
    let outcome = tokio::time::timeout(Duration::from_secs(60), remote.outcome()).await.unwrap().unwrap();
    assert_eq!((outcome.stdout.len(), &*outcome.stderr), (20_000_000, &b"end\n"[..]));
    assert_eq!(exit_code(&outcome.error), "0");
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn a_terminal_has_the_clients_size() {
    need_root!();
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("sleep 600")).await;
    task.start().await.unwrap();
    let room = room(&task, false, false).await;
    let mut remote = room.exec("tty; echo $TERM; read x; stty size; echo got $x; exit 3", TERMINAL).await;
    remote.resize.as_mut().unwrap().write_all(b"{\"Width\":132,\"Height\":43}\n").await.unwrap();
    // The size goes another way than what is typed.
    tokio::time::sleep(Duration::from_millis(500)).await;
    remote.stdin.as_mut().unwrap().write_all(b"word\n").await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(10), remote.outcome()).await.unwrap().unwrap();
    let text = String::from_utf8(outcome.stdout).unwrap();
    assert_eq!(text, "/dev/pts/0\r\nxterm\r\nword\r\n43 132\r\ngot word\r\n");
    assert_eq!(exit_code(&outcome.error), "3");
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn several_are_attached_at_once() {
    need_root!();
    let pod = Box::pod(true).await;
    let mut given = Given::shell("while read line; do echo \"$line!\"; done; echo end");
    (given.stdin, given.stdin_once) = (true, true);
    let (task, _) = pod.make(given).await;
    let room = room(&task, true, false).await;
    task.start().await.unwrap();
    let listening = Streams { stdin: false, ..TALK };
    let first = room.attach(listening).await;
    let mut second = room.attach(TALK).await;
    // Attached is who has his pipes: a moment after the streams are open.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let mut stdin = second.stdin.take().unwrap();
    stdin.write_all(b"one\ntwo\n").await.unwrap();
    stdin.shutdown().await.unwrap();
    for remote in [first, second] {
        let outcome = tokio::time::timeout(Duration::from_secs(10), remote.outcome()).await.unwrap().unwrap();
        assert_eq!(String::from_utf8_lossy(&outcome.stdout), "one!\ntwo!\nend\n");
        assert_eq!(exit_code(&outcome.error), "0");
    }
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_nobody_up() {
    need_root!();
    let pod = Box::pod(true).await;
    // More than client, server and pipes take together.
    let (task, _) = pod.make(Given::shell("sleep 1; head -c 30000000 /dev/zero; exit 4")).await;
    let room = room(&task, false, false).await;
    task.start().await.unwrap();
    let slow = room.attach(Streams { stdin: false, ..TALK }).await;
    let ended = tokio::time::timeout(Duration::from_secs(30), task.wait()).await.unwrap();
    assert_eq!(ended.exit, sandboxd::runtime::Exit::Code(4));
    drop(slow);
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn a_client_that_goes_leaves_its_process() {
    need_root!();
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("sleep 600")).await;
    task.start().await.unwrap();
    let room = room(&task, false, false).await;
    let mut remote = room.exec("echo on; cat; touch /tmp/mark", ALL).await;
    let mut line = [0; 3];
    remote.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    drop(remote);
    // Its input is at its end, and it goes on.
    let seen = async {
        loop {
            let outcome = room.exec("ls /tmp", ALL).await.outcome().await.unwrap();
            if outcome.stdout == b"mark\n" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), seen).await.unwrap();
    task.remove().await.unwrap();
    pod.end().await;
}
