//! A pod outlives the daemon that made it, and leaves nothing when it goes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use sandboxd::pod::model::{NsKind, PodId};
use sandboxd::runtime::native::NativeRuntime;
use sandboxd::runtime::{Exit, Runtime, RuntimeError};

use super::setup::{Planned, chain, created, exists, need_root, processes, runtime, shim, started};

const CHILD_DIR: &str = "SANDBOXD_TEST_POD_DIR";
const CHILD_START: &str = "SANDBOXD_TEST_POD_START";
const CHILD_POD: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// Not a test of its own: the daemon that [`killed_daemon`] kills.
#[tokio::test]
#[ignore = "the daemon of the tests below: it waits to be killed"]
async fn daemon_to_be_killed() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let mut planned = Planned::userns().in_dir(PathBuf::from(dir));
    planned.plan.pod = PodId::from_string(CHILD_POD.to_owned());
    let runtime = runtime().await;
    let pod = created(&runtime, &planned).await;
    if std::env::var_os(CHILD_START).is_some() {
        pod.infra.start().await.unwrap();
    }
    println!("made {}", pod.infra.infra_pid());
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// Starts a daemon, has it make a pod in `dir`, and kills it. The infra container's pid.
fn killed_daemon(dir: &std::path::Path, start: bool) -> i32 {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "life::daemon_to_be_killed", "--ignored", "--nocapture"])
        .env(CHILD_DIR, dir)
        .stdout(Stdio::piped());
    if start {
        command.env(CHILD_START, "1");
    }
    let mut daemon = command.spawn().unwrap();
    let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.split_once("made ").and_then(|(_, pid)| pid.parse::<i32>().ok()));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    pid.expect("the daemon made no pod")
}

#[tokio::test]
async fn a_restarted_daemon_adopts_what_a_killed_one_made() {
    need_root!();
    for start in [true, false] {
        let dir = tempfile::Builder::new().prefix("sandboxd-native-").tempdir().unwrap();
        let pid = killed_daemon(dir.path(), start);
        assert!(exists(pid));
        let runtime = runtime().await;
        let pod = PodId::from_string(CHILD_POD.to_owned());
        let infra = runtime.adopt(&pod, dir.path()).await.unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(infra.infra_pid(), pid);
        infra.namespace(NsKind::Net).unwrap();
        if start {
            assert!(matches!(infra.start().await, Err(RuntimeError::Shim { .. })), "started twice");
        }
        infra.kill().await.unwrap();
        assert_eq!(infra.wait().await, Exit::Signal(libc::SIGKILL));
        assert!(!exists(pid));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        assert!(matches!(runtime.adopt(&pod, dir.path()).await, Err(RuntimeError::Shim { .. })));
    }
}

#[tokio::test]
async fn the_exit_status_is_kept_for_the_next_daemon() {
    need_root!();
    let dir = tempfile::Builder::new().prefix("sandboxd-native-").tempdir().unwrap();
    let pid = killed_daemon(dir.path(), true);
    let killed = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(killed, rustix::process::Signal::TERM).unwrap();
    let runtime = runtime().await;
    let pod = PodId::from_string(CHILD_POD.to_owned());
    let infra = runtime.adopt(&pod, dir.path()).await.unwrap();
    for _ in 0..2 {
        let ended = tokio::time::timeout(Duration::from_secs(5), infra.wait()).await;
        assert_eq!(ended, Ok(Exit::Code(0)));
    }
    assert!(infra.namespace(NsKind::Net).is_err());
    infra.kill().await.unwrap();
    infra.kill().await.unwrap();
}

#[tokio::test]
async fn a_term_before_the_pause_listens_is_not_lost() {
    need_root!();
    let pod = created(&runtime().await, &Planned::userns()).await;
    rustix::process::pidfd_send_signal(pod.infra.pidfd(), rustix::process::Signal::TERM).unwrap();
    pod.infra.start().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), pod.infra.wait()).await;
    assert_eq!(ended, Ok(Exit::Code(0)));
    pod.end().await;
}

#[tokio::test]
async fn another_pods_shim_is_not_adopted() {
    need_root!();
    let planned = Planned::userns();
    let runtime = runtime().await;
    let pod = created(&runtime, &planned).await;
    let other = PodId::random().unwrap();
    let error = runtime.adopt(&other, &planned.plan.dir).await.expect_err("it was adopted");
    assert!(error.to_string().contains(planned.plan.pod.as_str()), "{error}");
    pod.end().await;
}

#[tokio::test]
async fn with_the_shim_dies_the_pod() {
    need_root!();
    let planned = Planned::userns();
    let pod = started(&runtime().await, &planned).await;
    let shim = rustix::process::Pid::from_raw(pod.infra.shim_pid()).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(5), pod.infra.wait()).await;
    assert_eq!(ended, Ok(Exit::Unknown));
    pod.end().await;
}

#[tokio::test]
async fn a_wait_that_is_cut_short_does_not_mix_up_answers() {
    need_root!();
    let planned = Planned::userns();
    let pod = created(&runtime().await, &planned).await;
    for _ in 0..50 {
        // Cut short anywhere between request and answer.
        let _ = tokio::time::timeout(Duration::from_micros(100), pod.infra.wait()).await;
    }
    pod.infra.start().await.unwrap();
    let waits = (pod.infra.wait(), pod.infra.wait(), pod.infra.kill());
    let (first, second, killed) = tokio::join!(waits.0, waits.1, waits.2);
    killed.unwrap();
    assert_eq!((first, second), (Exit::Signal(libc::SIGKILL), Exit::Signal(libc::SIGKILL)));
}

#[tokio::test]
async fn a_cancelled_create_leaves_no_shim() {
    need_root!();
    // A shim of its own name, told from those of other tests.
    let dir = tempfile::tempdir().unwrap();
    let own = format!("shim-{}", std::process::id());
    std::fs::copy(shim(), dir.path().join(&own)).unwrap();
    let runtime = NativeRuntime::new(Some(dir.path().join(&own))).await.unwrap();
    for after in [500, 1_000, 2_000, 4_000, 8_000] {
        let planned = Planned::userns();
        let made = runtime.create(&planned.plan, &|_| ());
        if let Ok(Ok(infra)) = tokio::time::timeout(Duration::from_micros(after), made).await {
            infra.kill().await.unwrap();
        }
    }
    for _ in 0..100 {
        if processes(&own).is_empty() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("shims are left: {:?}", processes(&own));
}
