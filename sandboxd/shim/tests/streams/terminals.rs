//! Containers and execs with a terminal.

use rustix::termios::{Winsize, tcgetwinsize, tcsetwinsize};
use sandboxd_shim::proto::{ExecVerb, Reply, Verb};

use super::need_root;
use super::pod::{ALL, Pod, Wants, read_to_end, read_until, records, write_all};

const TERMINAL: Wants = Wants { stdin: true, stdin_once: false, terminal: true };

#[test]
fn a_container_has_its_terminal_as_console_with_a_size_and_the_log_has_its_output() {
    need_root!();
    let mut pod = Pod::new();
    let script = "stty size; stty size < /dev/console; trap 'stty size; exit' WINCH; echo ready; \
        while true; do read line; echo got $line; done";
    let (id, mut log) = pod.create(script, TERMINAL);
    let client = pod.attach(&id, ALL);
    assert!(client.stderr.is_none());
    pod.start(&id);
    let stdout = client.stdout.as_ref().unwrap();
    let seen = read_until(stdout, |seen| seen.ends_with(b"ready\r\n")).0;
    assert_eq!(String::from_utf8_lossy(&seen), "24 80\r\n24 80\r\nready\r\n");
    write_all(client.stdin.as_ref().unwrap(), b"line\n");
    let seen = read_until(stdout, |seen| seen.ends_with(b"got line\r\n")).0;
    assert_eq!(String::from_utf8_lossy(&seen), "line\r\ngot line\r\n");
    assert_eq!(pod.verb(&id, Verb::Resize { columns: 100, rows: 40 }).0, Reply::Done);
    // The trap is run when read ends: by the line, or by the signal itself, and then nobody reads the line.
    match rustix::io::write(client.stdin.as_ref().unwrap(), b"x\n") {
        Ok(_) | Err(rustix::io::Errno::PIPE) => {}
        Err(errno) => panic!("{errno}"),
    }
    let rest = read_to_end(stdout);
    assert!(rest.windows(8).any(|window| window == b"40 100\r\n"), "{}", String::from_utf8_lossy(&rest));
    pod.wait(&id);
    let records = records(&mut log);
    assert!(records.iter().all(|record| record.0 == "stdout"));
    assert_eq!(records[2].2, "ready\r");
}

#[test]
fn what_a_terminal_was_given_last_is_in_the_log() {
    need_root!();
    let mut pod = Pod::new();
    let (id, mut log) = pod.run("seq 1 20000", Wants { stdin: false, ..TERMINAL });
    pod.wait(&id);
    let records = records(&mut log);
    assert_eq!(records.len(), 20_000);
    assert_eq!(records.last().unwrap().2, "20000\r");
}

#[test]
fn a_container_may_close_its_terminal_and_open_it_again() {
    need_root!();
    let mut pod = Pod::new();
    let script =
        "exec < /proc/version > /tmp/x 2>&1; sleep 0.2; exec < /dev/console > /dev/console 2>&1; echo back";
    let (id, mut log) = pod.run(script, TERMINAL);
    pod.wait(&id);
    assert_eq!(records(&mut log).last().map(|record| record.2.clone()), Some("back\r".into()));
}

#[test]
fn an_exec_with_a_terminal_is_the_daemons() {
    need_root!();
    let mut pod = Pod::new();
    let (id, _) = pod.run("sleep 100", Wants::default());
    let (exec, _, streams) = pod.exec(&id, "stty size; read line; stty size; exit", ALL, true);
    let stdout = streams.stdout.as_ref().unwrap();
    assert_eq!(read_until(stdout, |seen| seen.ends_with(b"\n")).0, b"24 80\r\n");
    assert_eq!(pod.exec_verb(exec, ExecVerb::Resize { columns: 111, rows: 22 }), Reply::Done);
    assert_eq!(tcgetwinsize(stdout).unwrap().ws_col, 111);
    tcsetwinsize(stdout, Winsize { ws_row: 33, ws_col: 44, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    write_all(streams.stdin.as_ref().unwrap(), b"go\n");
    assert_eq!(read_to_end(stdout), b"go\r\n33 44\r\n");
}
