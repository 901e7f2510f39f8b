//! Exec and attach.

use std::io::{Read, Write};
use std::time::Duration;

use sandboxd_streaming::Wanted;
use sandboxd_streaming::client::{Endpoint, Remote};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::fake::{Room, room};
use crate::container::error::ContainerError;
use crate::runtime::task::Size;
use crate::streaming::StreamingError;

const V4: &str = "v4.channel.k8s.io";
const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
const TALK: Wanted = Wanted { stdin: true, stdout: true, stderr: false, tty: false };

async fn exec(room: &Room, script: &str, wanted: Wanted) -> Remote {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let url = room.streaming.exec("c", command, wanted).unwrap();
    Remote::open(&Endpoint::new(&url).unwrap(), &[V4], wanted).await.unwrap()
}

async fn attach(room: &Room, wanted: Wanted) -> Remote {
    let url = room.streaming.attach("c", wanted).unwrap();
    Remote::open(&Endpoint::new(&url).unwrap(), &[V4], wanted).await.unwrap()
}

fn status(error: &[u8]) -> Value {
    serde_json::from_slice(error).unwrap()
}

#[tokio::test]
async fn an_exec_has_its_streams_and_its_exit_code() {
    let room = room(false, false).await;
    let mut remote = exec(&room, "cat; echo err >&2; exit 7", ALL).await;
    let mut stdin = remote.stdin.take().unwrap();
    stdin.write_all(b"typed").await.unwrap();
    stdin.shutdown().await.unwrap();
    let outcome = remote.outcome().await.unwrap();
    assert_eq!((&*outcome.stdout, &*outcome.stderr), (&b"typed"[..], &b"err\n"[..]));
    assert_eq!(status(&outcome.error)["details"]["causes"][0]["message"], "7");
}

#[tokio::test]
async fn a_signal_is_an_exit_code_above_128() {
    let room = room(false, false).await;
    let outcome = exec(&room, "kill -9 $$", ALL).await.outcome().await.unwrap();
    assert_eq!(status(&outcome.error)["details"]["causes"][0]["message"], "137");
}

#[tokio::test]
async fn what_cannot_be_executed_is_said_with_its_cause() {
    let room = room(false, false).await;
    let url = room.streaming.exec("c", vec!["/no/such".into()], ALL).unwrap();
    let remote = Remote::open(&Endpoint::new(&url).unwrap(), &[V4], ALL).await.unwrap();
    let message = status(&remote.outcome().await.unwrap().error)["message"].to_string();
    assert!(message.contains("executing") && message.contains("No such file"), "{message}");
}

#[tokio::test]
async fn urls_are_for_what_runs() {
    let room = room(false, false).await;
    let exec = |id: &str| room.streaming.exec(id, vec!["true".into()], ALL).unwrap_err();
    assert!(matches!(exec("exited"), StreamingError::Container(ContainerError::State { .. })));
    assert!(matches!(exec("other"), StreamingError::Container(ContainerError::NotFound { .. })));
    assert!(room.streaming.attach("other", ALL).is_err());
    assert!(matches!(room.streaming.port_forward("other", vec![]), Err(StreamingError::NoPod { .. })));
    let made = room.node.pod.lock().unwrap().id.to_string();
    let unready = room.streaming.port_forward(&made, vec![]).unwrap_err();
    assert!(matches!(unready, StreamingError::PodNotReady { .. }));
}

#[tokio::test]
async fn an_attach_ends_with_its_container() {
    let room = room(true, false).await;
    let mut remote = attach(&room, TALK).await;
    remote.stdin.as_mut().unwrap().write_all(b"word").await.unwrap();
    let (typed, shown) = room.node.task.attached.lock().unwrap().pop().unwrap();
    let (mut typed, mut shown) = (std::fs::File::from(typed.unwrap()), std::fs::File::from(shown.unwrap()));
    let echo = tokio::task::spawn_blocking(move || {
        let mut word = [0; 4];
        typed.read_exact(&mut word).unwrap();
        shown.write_all(&word).unwrap();
        // The end of input comes before the end of the container.
        assert_eq!(typed.read(&mut word).unwrap(), 0);
        shown.write_all(b" and more").unwrap();
    });
    remote.stdin.take().unwrap().shutdown().await.unwrap();
    echo.await.unwrap();
    room.node.task.ended.cancel();
    let outcome = remote.outcome().await.unwrap();
    assert_eq!(outcome.stdout, b"word and more");
    assert_eq!(status(&outcome.error)["status"], "Success");
}

#[tokio::test]
async fn the_end_of_input_detaches_where_the_containers_goes_on() {
    let room = room(false, false).await;
    let mut remote = attach(&room, TALK).await;
    remote.stdin.take().unwrap().shutdown().await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(5), remote.outcome()).await.unwrap().unwrap();
    assert_eq!(status(&outcome.error)["status"], "Success");
    assert!(!room.node.task.ended.is_cancelled());
}

#[tokio::test]
async fn sizes_reach_an_attached_terminal() {
    let room = room(false, true).await;
    let wanted = Wanted { tty: true, ..TALK };
    let mut remote = attach(&room, wanted).await;
    remote.resize.as_mut().unwrap().write_all(b"{\"Width\":80,\"Height\":24}").await.unwrap();
    for _ in 0..200 {
        if *room.node.task.sizes.lock().unwrap() == [Size { columns: 80, rows: 24 }] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no size came");
}

#[tokio::test]
async fn a_client_that_goes_leaves_its_process() {
    let room = room(false, false).await;
    let dir = tempfile::tempdir().unwrap();
    let mark = dir.path().join("mark");
    let script = format!("echo on; cat >/dev/null; touch {}", mark.display());
    let mut remote = exec(&room, &script, ALL).await;
    let mut line = [0; 3];
    remote.stdout.as_mut().unwrap().read_exact(&mut line).await.unwrap();
    drop(remote);
    // Its input is at its end, and it goes on.
    for _ in 0..200 {
        if mark.exists() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the process did not go on");
}
