//! Attached clients, and execs, of containers.

use std::time::{Duration, Instant};

use sandboxd_shim::proto::{ExecVerb, Exit, Reply, Wanted};

use super::need_root;
use super::pod::{ALL, PATIENCE, Pod, Streams, Wants, read_to_end, read_until, readable, records, write_all};

const OUTPUT: Wanted = Wanted { stdin: false, ..ALL };
const INTERACTIVE: Wants = Wants { stdin: true, stdin_once: false, terminal: false };

#[test]
fn a_client_attached_before_the_start_gets_all_and_then_the_end() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.create("seq 1 5000; echo error >&2", Wants::default());
    let one = pod.attach(&id, OUTPUT);
    let two = pod.attach(&id, OUTPUT);
    pod.start(&id);
    for client in [one, two] {
        let text = String::from_utf8(read_to_end(client.stdout.as_ref().unwrap())).unwrap();
        assert_eq!(text.lines().count(), 5000);
        assert_eq!(read_to_end(client.stderr.as_ref().unwrap()), b"error\n");
    }
}

#[test]
fn a_client_that_reads_gets_a_long_output_whole() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.create("seq 1 3000000", Wants::default());
    let client = pod.attach(&id, OUTPUT);
    pod.start(&id);
    let text = String::from_utf8(read_to_end(client.stdout.as_ref().unwrap())).unwrap();
    assert!(text.lines().enumerate().all(|(at, line)| line == (at + 1).to_string()));
    assert_eq!(text.lines().count(), 3_000_000);
    pod.wait(&id);
}

#[test]
fn input_reaches_the_container_and_with_stdin_once_its_end_does_too() {
    need_root!();
    let mut pod = Pod::new();
    let (id, mut log) = pod.run("cat; echo done", Wants { stdin_once: true, ..INTERACTIVE });
    let Streams { stdin, stdout, .. } = pod.attach(&id, ALL);
    let stdin = stdin.unwrap();
    write_all(&stdin, b"hello\n");
    let stdout = stdout.unwrap();
    assert_eq!(read_until(&stdout, |seen| seen.ends_with(b"\n")).0, b"hello\n");
    drop(stdin);
    assert_eq!(read_to_end(&stdout), b"done\n");
    pod.wait(&id);
    assert_eq!(records(&mut log).len(), 2);
}

#[test]
fn without_stdin_once_the_next_client_goes_on() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.run("cat", INTERACTIVE);
    for word in [b"one\n", b"two\n"] {
        let client = pod.attach(&id, ALL);
        write_all(client.stdin.as_ref().unwrap(), word);
        assert_eq!(read_until(client.stdout.as_ref().unwrap(), |seen| seen.len() >= 4).0, word);
    }
    // And a container made while this one runs does not keep its input open.
    pod.create("true", Wants::default());
    assert!(pod.state(&id).exit.is_none());
}

#[test]
fn one_containers_end_of_input_does_not_wait_for_another_that_is_not_started() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.run("cat; echo done", Wants { stdin_once: true, ..INTERACTIVE });
    let client = pod.attach(&id, ALL);
    // Made after the pipes of the first, and held back before its exec.
    let (waiting, _) = pod.create("true", INTERACTIVE);
    drop(client.stdin);
    assert_eq!(read_to_end(client.stdout.as_ref().unwrap()), b"done\n");
    pod.wait(&id);
    pod.start(&waiting);
}

#[test]
fn a_client_that_does_not_read_holds_up_neither_the_container_nor_the_shim() {
    need_root!();
    let mut pod = Pod::new();
    let (id, mut log) = pod.create("seq 1 1000000", Wants::default());
    let slow = pod.attach(&id, OUTPUT);
    pod.start(&id);
    pod.wait(&id);
    assert_eq!(records(&mut log).len(), 1_000_000);
    let seen = read_to_end(slow.stdout.as_ref().unwrap());
    assert!(seen.starts_with(b"1\n2\n3\n"), "{} bytes", seen.len());
}

#[test]
fn an_idle_pod_with_clients_takes_no_time() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.run("sleep 100", INTERACTIVE);
    let kept = pod.attach(&id, ALL);
    let half = Streams { stdout: None, ..pod.attach(&id, ALL) };
    drop(pod.attach(&id, ALL));
    // More than the container's pipe and the shim take: this client is not read any more.
    for _ in 0..64 {
        let _ = rustix::io::write(kept.stdin.as_ref().unwrap(), &[b'x'; 4096]);
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = pod.cpu();
    std::thread::sleep(Duration::from_millis(500));
    assert!(pod.cpu() - before <= Duration::from_millis(20), "{:?}", pod.cpu() - before);
    drop((kept, half));
}

#[test]
fn an_exec_has_streams_of_its_own_and_half_closes() {
    need_root!();
    let mut pod = Pod::new();
    let (id, mut log) = pod.run("sleep 100", Wants::default());
    let (exec, pidfd, streams) = pod.exec(&id, "cat; echo error >&2; exit 7", ALL, false);
    let stdin = streams.stdin.unwrap();
    write_all(&stdin, b"to and fro");
    assert_eq!(read_until(streams.stdout.as_ref().unwrap(), |seen| seen.len() >= 10).0, b"to and fro");
    drop(stdin);
    assert_eq!(read_to_end(streams.stdout.as_ref().unwrap()), b"");
    assert_eq!(read_to_end(streams.stderr.as_ref().unwrap()), b"error\n");
    readable(&pidfd);
    match pod.exec_verb(exec, ExecVerb::State) {
        Reply::ExecState { exit: Some(ended) } => assert_eq!(ended.exit, Exit::Code(7)),
        other => panic!("{other:?}"),
    }
    assert_eq!(records(&mut log), []);
}

#[test]
fn an_exec_goes_on_when_the_daemon_goes() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.run("sleep 100", Wants::default());
    let script = "seq 1 200000; echo more; echo 1 > /tmp/finished; exec sleep 100";
    let (_, pidfd, streams) = pod.exec(&id, script, ALL, false);
    // It waits for the daemon to read.
    std::thread::sleep(Duration::from_millis(50));
    drop(streams);
    pod.restart_daemon();
    let until = Instant::now() + PATIENCE;
    loop {
        let (_, _, look) = pod.exec(&id, "cat /tmp/finished 2>&1", ALL, false);
        if read_to_end(look.stdout.as_ref().unwrap()) == b"1\n" {
            break;
        }
        assert!(Instant::now() < until, "it hangs, or was killed");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(pidfd);
    assert!(pod.state(&id).exit.is_none());
}

#[test]
fn a_released_exec_is_told_that_nobody_reads() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.run("sleep 100", Wants::default());
    let (exec, pidfd, streams) = pod.exec(&id, "exec yes", ALL, false);
    assert_eq!(pod.exec_verb(exec, ExecVerb::Release { drop: false }), Reply::Done);
    let stdout = streams.stdout.as_ref().unwrap();
    assert!(read_until(stdout, |seen| seen.len() > 1_000_000).0.starts_with(b"y\ny\n"));
    drop(streams);
    readable(&pidfd);
}

#[test]
fn a_daemon_that_comes_back_attaches_again_and_the_log_has_no_gap() {
    need_root!();
    let mut pod = Pod::new();
    let (id, mut log) = pod.run("cat", INTERACTIVE);
    let first = pod.attach(&id, ALL);
    write_all(first.stdin.as_ref().unwrap(), b"before\n");
    assert_eq!(read_until(first.stdout.as_ref().unwrap(), |seen| seen.len() >= 7).0, b"before\n");
    drop(first);
    pod.restart_daemon();
    let second = pod.attach(&id, ALL);
    write_all(second.stdin.as_ref().unwrap(), b"after\n");
    assert_eq!(read_until(second.stdout.as_ref().unwrap(), |seen| seen.len() >= 6).0, b"after\n");
    pod.remove(&id);
    let texts: Vec<_> = records(&mut log).into_iter().map(|record| record.2).collect();
    assert_eq!(texts, ["before", "after"]);
    assert_eq!(read_to_end(second.stdout.as_ref().unwrap()), b"");
}
