//! Streams of containers through the seam that the daemon uses.

use sandboxd::runtime::Exit;
use sandboxd::runtime::task::{LogState, Wanted};

use super::bench_box::{Box, Given, read_all};
use super::setup::need_root;

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true };

#[tokio::test]
async fn the_user_of_the_container_may_open_its_streams_again() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let given =
            Given::shell("echo out > /proc/self/fd/1; echo err > /proc/self/fd/2; cat /proc/self/fd/0");
        let mut given = given.process(|process| {
            process.user_mut().set_uid(1000).set_gid(1000);
        });
        (given.stdin, given.stdin_once) = (true, true);
        let (task, log) = pod.make(given).await;
        let streams = task.attach(ALL).await.unwrap();
        task.start().await.unwrap();
        rustix::io::write(streams.stdin.as_ref().unwrap(), b"in\n").unwrap();
        drop(streams.stdin);
        assert_eq!(read_all(streams.stdout).await, "out\nin\n");
        assert_eq!(read_all(streams.stderr).await, "err\n");
        assert_eq!(task.wait().await.exit, Exit::Code(0));
        let mut lines = log.lines();
        lines.sort();
        assert_eq!(lines, ["stderr F err", "stdout F in", "stdout F out"]);
        task.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn a_log_goes_on_in_another_file_without_a_gap() {
    need_root!();
    let pod = Box::pod(true).await;
    let mut given = Given::shell("cat");
    (given.stdin, given.stdin_once) = (true, true);
    let (task, first) = pod.make(given).await;
    task.start().await.unwrap();
    let streams = task.attach(ALL).await.unwrap();
    let stdin = streams.stdin.unwrap();
    let mut expected = Vec::new();
    let (later, second) = pod.another_log();
    let mut second_log = Some(second);
    for number in 0..2000 {
        let line = format!("line {number}\n");
        while rustix::io::write(&stdin, line.as_bytes()).is_err() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        expected.push(format!("stdout F line {number}"));
        if number == 1000 {
            // The container may only be starting: the first file is to have some of the lines.
            let begun = std::time::Instant::now();
            while first.lines().is_empty() && begun.elapsed() < std::time::Duration::from_secs(20) {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            task.reopen_log(second_log.take().unwrap()).await.unwrap();
        }
    }
    drop((stdin, streams.stdout));
    assert_eq!(task.wait().await.exit, Exit::Code(0));
    let mut lines = first.lines();
    let (split, more) = (lines.len(), later.lines());
    lines.extend(more);
    assert_eq!(lines, expected);
    assert!(split > 0 && split < expected.len(), "{split} lines before");
    assert_eq!(task.log_state().await.unwrap(), LogState::default());
    task.remove().await.unwrap();
    pod.end().await;
}
