//! Logs of containers.

use std::io::{Read, Seek, SeekFrom};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, prlimit};
use sandboxd_shim::proto::{Exit, Reply, Request, Verb, Wanted};

use super::need_root;
use super::pod::{PATIENCE, Pod, Wants, records};

fn record(stream: &str, tag: &str, text: &str) -> (String, String, String) {
    (stream.into(), tag.into(), text.into())
}

#[test]
fn what_a_container_wrote_is_in_the_log_when_its_end_is_known() {
    need_root!();
    let mut pod = Pod::new();
    let script = "echo one; echo two >&2; echo three > /dev/stdout; printf rest; exit 3";
    let (id, mut log) = pod.run(script, Wants::default());
    let state = pod.wait(&id);
    assert_eq!(state.exit.unwrap().exit, Exit::Code(3));
    let records = records(&mut log);
    let of = |stream: &str| records.iter().filter(|r| r.0 == stream).cloned().collect::<Vec<_>>();
    assert_eq!(
        of("stdout"),
        [record("stdout", "F", "one"), record("stdout", "F", "three"), record("stdout", "P", "rest")]
    );
    assert_eq!(of("stderr"), [record("stderr", "F", "two")]);
    assert_eq!((state.lost_bytes, state.log_errno), (0, None));
    assert_eq!(state.missed_bytes, 0);
}

/// The signal of that would end the shim, and with it the pod.
#[test]
fn a_limit_of_file_size_is_an_error_of_the_log() {
    need_root!();
    let mut pod = Pod::new();
    let limit = Rlimit { current: Some(4096), maximum: Some(4096) };
    prlimit(Some(pod.shim()), Resource::Fsize, limit).unwrap();
    // What the shim ignores, the container does not: 128 and SIGXFSZ.
    let (id, mut log) = pod.run("sh -c 'kill -XFSZ $$'; echo $?; seq 1 100000; exit 3", Wants::default());
    let state = pod.wait(&id);
    assert_eq!(state.exit.unwrap().exit, Exit::Code(3));
    assert_eq!(state.log_errno, Some(libc::EFBIG));
    assert!(state.lost_bytes > 100_000, "{state:?}");
    let records = records(&mut log);
    assert_eq!(records.iter().find(|record| record.0 == "stdout").unwrap().2, "153");
}

#[test]
fn a_burst_before_the_end_is_all_there() {
    need_root!();
    let mut pod = Pod::new();
    let (id, mut log) = pod.run("seq 1 300000", Wants::default());
    pod.wait(&id);
    let records = records(&mut log);
    assert_eq!(records.len(), 300_000);
    assert!(records.iter().enumerate().all(|(at, record)| record.2 == (at + 1).to_string()));
}

#[test]
fn rotation_while_the_container_writes_loses_nothing() {
    need_root!();
    let mut pod = Pod::new();
    let (id, log) = pod.run("seq 1 400000", Wants::default());
    let mut logs = vec![log];
    for turn in 0..20 {
        let (file, log) = pod.log(&format!("rotated-{turn}"));
        let (reply, _) = pod.ask(&Request::Container { id: id.clone(), verb: Verb::ReopenLog }, &[file]);
        assert_eq!(reply, Reply::Done);
        logs.push(log);
        std::thread::sleep(Duration::from_millis(5));
    }
    pod.wait(&id);
    let all: Vec<_> = logs.iter_mut().flat_map(records).collect();
    assert_eq!(all.len(), 400_000);
    assert!(all.iter().enumerate().all(|(at, record)| record.2 == (at + 1).to_string()));
}

#[test]
fn a_container_that_writes_without_end_holds_up_nobody() {
    need_root!();
    let mut pod = Pod::new();
    let (loud, mut log) = pod.run("exec yes", Wants::default());
    let begun = std::time::Instant::now();
    let (quiet, mut quiet_log) = pod.run("echo heard", Wants::default());
    pod.wait(&quiet);
    assert_eq!(records(&mut quiet_log), [record("stdout", "F", "heard")]);
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    while log.metadata().unwrap().len() < 100_000 {
        assert!(begun.elapsed() < PATIENCE);
    }
    pod.remove(&loud);
    // Whole records, though it was killed in the middle.
    let mut end = [0; 3];
    log.seek(SeekFrom::End(-3)).unwrap();
    log.read_exact(&mut end).unwrap();
    assert!(end == *b" y\n" || end == *b"P \n", "{end:?}");
}

#[test]
fn an_ended_container_leaves_no_descriptors_but_those_of_its_record() {
    need_root!();
    let mut pod = Pod::new();
    let before = pod.descriptors();
    for _ in 0..3 {
        let wants = Wants { stdin: true, ..Wants::default() };
        let (id, _) = pod.run("echo x", wants);
        pod.wait(&id);
        pod.remove(&id);
    }
    assert_eq!(pod.descriptors(), before);
}

#[test]
#[ignore = "measures: run with --release --ignored --nocapture"]
fn figures() {
    need_root!();
    let mut pod = Pod::new();
    println!("memory of a shim with a pod: {} kB", pod.memory());
    let (idle, _) = pod.run("echo started; exec sleep 100", Wants::default());
    println!("with a container that has written a line: {} kB", pod.memory());
    for (name, line) in [("20 bytes", 19), ("100 bytes", 99), ("16 KiB", 16_383)] {
        let script = format!(
            "line=$(head -c {line} /dev/zero | tr '\\0' x); yes $line | head -c 33554432 > /tmp/text; read go; \
             for n in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat /tmp/text; done"
        );
        let (id, _) = pod.run(&script, Wants { stdin: true, ..Wants::default() });
        let client = pod.attach(&id, Wanted { stdin: true, ..Wanted::default() });
        std::thread::sleep(Duration::from_secs(2));
        let (begun, cpu) = (std::time::Instant::now(), pod.cpu());
        super::pod::write_all(client.stdin.as_ref().unwrap(), b"go\n");
        pod.wait(&id);
        let megabytes = 16.0 * 33.554_432;
        println!(
            "lines of {name}: {:.0} MB/s of what the container wrote; of the shim's time {:.0} MB/s; memory {} kB",
            megabytes / begun.elapsed().as_secs_f64(),
            megabytes / (pod.cpu() - cpu).as_secs_f64(),
            pod.memory()
        );
        pod.remove(&id);
        std::fs::File::options().write(true).truncate(true).open(pod.log_path(&id)).unwrap();
    }
    pod.remove(&idle);
}
