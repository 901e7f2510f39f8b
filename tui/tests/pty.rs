//! The real binary on a real terminal (a pseudo-terminal, read with vt100).

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use std::path::Path;
use std::time::{Duration, Instant};

use daemon::Daemon;
use nix::sys::signal::Signal;
use sandboxd_api::console::delta::Change;
use sandboxd_pty::{PATIENCE, Pty};
use sandboxd_sim::{Sim, world};

fn console(endpoint: &Path) -> Pty {
    let binary = Path::new(env!("CARGO_BIN_EXE_sandboxd-tui"));
    Pty::run(binary, &["--endpoint", endpoint.to_str().unwrap()])
}

#[tokio::test(flavor = "multi_thread")]
async fn it_starts_draws_explains_quits_and_gives_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let mut pty = console(&daemon.socket);
    pty.wait_for("● live");
    pty.wait_for("!! init");
    assert!(pty.is_raw());
    pty.press(b"3dw");
    pty.wait_for("kobj_ns_current_may_mount");
    pty.press(b"\x1b");
    pty.wait_for("[3 Checks]");
    pty.press(b"q");
    assert_eq!(pty.ended(), Some(0));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_copies_over_the_terminal_and_remembers_its_columns() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let mut pty = console(&daemon.socket);
    pty.wait_for("● live");
    pty.press(b"y");
    pty.wait_for("copied the pod's id, 64 characters");
    let copied = pty.copied();
    assert_eq!(copied.len(), 1, "{copied:?}");
    assert_eq!(copied[0].len(), 88, "64 characters in base64: {copied:?}");
    // Hides the namespace's column.
    pty.press(b"cj ");
    pty.wait_for("[ ] NAMESPACE");
    pty.press(b"q");
    assert_eq!(pty.ended(), Some(0));
    let kept = std::fs::read_to_string(pty.config().join("sandboxd/tui.toml")).unwrap();
    assert!(kept.starts_with("columns = [\"name\", \"state\""), "{kept}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_it_and_give_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut pty = console(&dir.path().join("nobody.sock"));
        pty.wait_for("cannot reach");
        pty.signal(signal);
        assert_eq!(pty.ended(), Some(code));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_console_sleeps() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&dir.path().join("console.sock"));
    let mut pty = console(&daemon.socket);
    pty.wait_for("● live");
    // The checks show no ages: nothing at all is left to wake up for.
    pty.press(b"3");
    pty.wait_for("[3 Checks]");
    std::thread::sleep(Duration::from_millis(300));
    let before = switches(pty.pid());
    std::thread::sleep(Duration::from_secs(2));
    let woken = switches(pty.pid()) - before;
    assert!(woken <= 2, "woken {woken} times in 2 s");
    pty.press(b"q");
    assert_eq!(pty.ended(), Some(0));
    daemon.stop().await;
}

/// How often the threads of a process went to sleep (proc_pid_status(5)).
fn switches(pid: u32) -> u64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |task: std::fs::DirEntry| {
        let status = std::fs::read_to_string(task.path().join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    tasks.map(|task| of(task.unwrap())).sum()
}

#[test]
fn a_panic_gives_the_terminal_back_before_its_message() {
    let this = std::env::current_exe().unwrap();
    let mut pty = Pty::run(&this, &["--ignored", "--exact", "panics_with_the_terminal_taken", "--nocapture"]);
    assert_eq!(pty.ended(), Some(101));
    pty.wait_for("the terminal is still ours");
}

/// Run by the test above, on a terminal of its own.
#[test]
#[ignore = "the other half of a_panic_gives_the_terminal_back_before_its_message"]
fn panics_with_the_terminal_taken() {
    let _screen = sandboxd_tui::terminal::Screen::take(true).unwrap();
    panic!("the terminal is still ours");
}

fn acting(sim: &Sim) -> Pty {
    let binary = Path::new(env!("CARGO_BIN_EXE_sandboxd-tui"));
    Pty::run(binary, &["--endpoint", sim.socket.to_str().unwrap(), "--allow-actions"])
}

/// Into the containers of the only pod, and a shell in the first.
fn into_a_shell(pty: &mut Pty) {
    pty.wait_for("● ready");
    pty.press(b"\r");
    pty.wait_for("main");
    pty.press(b"e");
    pty.wait_for("in a container that is not there");
}

async fn until(what: &str, seen: impl Fn() -> bool) {
    let began = Instant::now();
    while !seen() {
        assert!(began.elapsed() < PATIENCE, "{what} never came");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_has_the_terminal_and_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::start(&dir.path().join("console.sock"), world::node("here", 1));
    let mut pty = acting(&sim);
    into_a_shell(&mut pty);
    // The command has the ordinary screen.
    pty.assert_ordinary();
    assert!(pty.is_raw(), "keys are passed on as they are");
    // Keys that mean something to the console or to a cooked terminal are the command's.
    pty.press(b"q\x03\x1b[A\r");
    pty.wait_for("you typed <q");
    until("the bytes", || sim.sessions()[0].stdin == b"q\x03\x1b[A\r").await;
    assert_eq!(sim.sessions()[0].sizes, [(80, 24)]);
    assert_eq!(sim.sessions()[0].command, ["/bin/sh"]);
    pty.resize(100, 30);
    until("the new size", || sim.sessions()[0].sizes.last() == Some(&(100, 30))).await;
    // While it runs the console goes on watching.
    let mut pod = sim.snapshot().pods[0].clone();
    pod.checks.get_or_insert_default().denied = 4_321;
    sim.change(&Change::Pod(pod));
    pty.press(b"exit 3\r");
    pty.wait_for("ended with exit code 3");
    assert!(pty.is_taken());
    // The keys are the console's again.
    pty.press(b"\x1b");
    pty.wait_for("4,321");
    pty.press(b"q");
    assert_eq!(pty.ended(), Some(0));
    sim.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_is_left_by_its_keys_and_ended_by_its_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::start(&dir.path().join("console.sock"), world::node("here", 1));
    let mut pty = acting(&sim);
    into_a_shell(&mut pty);
    pty.press(b"\x1d\x1d\x1d");
    pty.wait_for("left /bin/sh");
    until("the end of the session", || sim.sessions()[0].ended).await;
    pty.press(b"e");
    until("another session", || sim.sessions().len() == 2).await;
    pty.wait_for("in a container that is not there");
    sim.stop().await;
    pty.wait_for("!! /bin/sh in container main");
    pty.press(b"q");
    assert_eq!(pty.ended(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_a_command_has_the_terminal_gives_it_back() {
    let dir = tempfile::tempdir().unwrap();
    let sim = Sim::start(&dir.path().join("console.sock"), world::node("here", 1));
    let mut pty = acting(&sim);
    into_a_shell(&mut pty);
    pty.signal(Signal::SIGTERM);
    assert_eq!(pty.ended(), Some(143));
    until("the end of the session", || sim.sessions()[0].ended).await;
    sim.stop().await;
}

#[test]
fn a_panic_while_the_screen_is_lent_gives_the_terminal_back() {
    let this = std::env::current_exe().unwrap();
    let mut pty = Pty::run(&this, &["--ignored", "--exact", "panics_with_the_screen_lent", "--nocapture"]);
    assert_eq!(pty.ended(), Some(101));
    pty.wait_for("lent and lost");
}

/// Run by the test above, on a terminal of its own.
#[test]
#[ignore = "the other half of a_panic_while_the_screen_is_lent_gives_the_terminal_back"]
fn panics_with_the_screen_lent() {
    let mut screen = sandboxd_tui::terminal::Screen::take(true).unwrap();
    screen.lend().unwrap();
    panic!("lent and lost");
}
