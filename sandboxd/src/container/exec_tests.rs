use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use oci_spec::runtime::Process as OciProcess;
use tokio::sync::watch;

use super::super::fake::{Done, FakeProcess, FakeTask};
use super::*;
use crate::container::env::RawEnv;
use crate::runtime::task::{Streams, TaskExit, Wanted};

/// A task whose next command writes to the returned ends.
fn task() -> (Arc<FakeTask>, Arc<FakeProcess>, io::PipeWriter, io::PipeWriter) {
    let (stdout, out) = io::pipe().unwrap();
    let (stderr, err) = io::pipe().unwrap();
    for fd in [&stdout, &stderr] {
        rustix::io::ioctl_fionbio(fd, true).unwrap();
    }
    let streams = Streams { stdin: None, stdout: Some(stdout.into()), stderr: Some(stderr.into()) };
    let process = Arc::new(FakeProcess {
        streams: Mutex::new(streams),
        end: watch::Sender::new(None),
        killed: watch::Sender::new(false),
    });
    let task = Arc::new(FakeTask::new(Done::default(), libc::SIGTERM));
    *task.process.lock().unwrap() = Some(Arc::clone(&process) as _);
    (task, process, out, err)
}

fn plan() -> ExecPlan {
    let wanted = Wanted { stdin: false, stdout: true, stderr: true };
    ExecPlan { process: OciProcess::default(), raw_env: RawEnv::new(), wanted }
}

fn end(process: &FakeProcess, exit: Exit) {
    process.end.send_replace(Some(TaskExit { exit, at_ns: 1 }));
}

#[tokio::test]
async fn what_was_written_before_the_end_is_kept() {
    let (task, process, mut out, mut err) = task();
    out.write_all(b"out").unwrap();
    err.write_all(b"err").unwrap();
    end(&process, Exit::Signal(9));
    // Its writing ends stay open, as a child in the background holds them.
    let said = run(&*task, plan(), None).await.unwrap();
    assert_eq!((said.stdout.as_slice(), said.stderr.as_slice()), (&b"out"[..], &b"err"[..]));
    assert_eq!(said.exit_code, 137);
    assert!(!*process.killed.borrow());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_child_that_never_stops_writing_does_not_hold_it_up() {
    let (task, process, mut out, err) = task();
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            // Fails once nobody reads any more.
            while !stop.load(Ordering::Relaxed) && out.write_all(&[b'y'; 4096]).is_ok() {}
        })
    };
    let running = tokio::spawn(async move { run(&*task, plan(), None).await });
    tokio::time::sleep(Duration::from_millis(50)).await;
    end(&process, Exit::Code(0));
    let said = tokio::time::timeout(Duration::from_secs(10), running).await;
    stop.store(true, Ordering::Relaxed);
    let said = said.expect("it ends with its command").unwrap().unwrap();
    assert_eq!(said.exit_code, 0);
    assert!(!said.stdout.is_empty());
    writer.join().unwrap();
    drop(err);
}

#[tokio::test]
async fn what_takes_too_long_is_killed() {
    let (task, process, out, err) = task();
    let error = run(&*task, plan(), Some(Duration::from_millis(20))).await.unwrap_err();
    assert!(matches!(error, ContainerError::ExecTimeout { .. }), "{error}");
    assert!(*process.killed.borrow());
    drop((out, err));
}

#[tokio::test]
async fn a_caller_that_goes_away_has_it_killed() {
    let (task, process, out, err) = task();
    let running = tokio::spawn(async move { run(&*task, plan(), None).await });
    tokio::time::sleep(Duration::from_millis(20)).await;
    running.abort();
    let mut killed = process.killed.subscribe();
    tokio::time::timeout(Duration::from_secs(5), killed.wait_for(|killed| *killed)).await.unwrap().unwrap();
    drop((out, err));
}
