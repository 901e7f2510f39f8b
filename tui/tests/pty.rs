//! The real binary on a real terminal (a pseudo-terminal, read with vt100).

#![allow(clippy::unwrap_used, reason = "tests may unwrap")]

#[path = "support/daemon.rs"]
mod daemon;
mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use daemon::Daemon;
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use sandboxd_api::console::delta::Change;
use sandboxd_sim::{Sim, world};

const PATIENCE: Duration = Duration::from_secs(15);

struct Pty {
    keys: File,
    terminal: OwnedFd,
    child: Child,
    screen: Arc<Mutex<vt100::Parser<Clipboard>>>,
    /// The console's own, so that it neither reads nor writes the developer's.
    config: tempfile::TempDir,
}

/// What was put on the terminal's clipboard, as it was sent.
#[derive(Default)]
struct Clipboard(Vec<Vec<u8>>);

impl vt100::Callbacks for Clipboard {
    fn copy_to_clipboard(&mut self, _: &mut vt100::Screen, _type: &[u8], data: &[u8]) {
        self.0.push(data.to_owned());
    }
}

impl Pty {
    /// Runs a program as the leader of a session whose terminal is a new one of 80×24.
    fn run(program: &Path, args: &[&str]) -> Self {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let config = tempfile::tempdir().unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(program)
            .args(args)
            .env("TERM", "xterm-256color")
            .env("XDG_CONFIG_HOME", config.path())
            .env_remove("NO_COLOR")
            .env("RUST_BACKTRACE", "0")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let screen = Arc::new(Mutex::new(vt100::Parser::new_with_callbacks(24, 80, 0, Clipboard::default())));
        let mut output = File::from(pty.master.try_clone().unwrap());
        let parser = Arc::clone(&screen);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read) = output.read(&mut buffer) {
                parser.lock().unwrap().process(&buffer[..read]);
            }
        });
        Self { keys: File::from(pty.master), terminal: pty.slave, child, screen, config }
    }

    fn contents(&self) -> String {
        self.screen.lock().unwrap().screen().contents()
    }

    fn wait_for(&self, words: &str) {
        let began = Instant::now();
        while !self.contents().contains(words) {
            assert!(began.elapsed() < PATIENCE, "{words:?} never came: {}", self.contents());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(self.terminal.as_fd()).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Waits for the end and checks that the terminal is as it was.
    fn ended(&mut self) -> Option<i32> {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "did not end: {}", self.contents());
            std::thread::sleep(Duration::from_millis(10));
        };
        // The last bytes may still be on their way through the terminal.
        let began = Instant::now();
        while self.screen.lock().unwrap().screen().alternate_screen() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        assert!(!screen.alternate_screen(), "the alternate screen is left");
        assert!(!screen.hide_cursor(), "the cursor is shown");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
        drop(parser);
        assert!(!self.is_raw(), "the terminal is cooked again");
        status.code()
    }
}

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
    let copied = pty.screen.lock().unwrap().callbacks().0.clone();
    assert_eq!(copied.len(), 1, "{copied:?}");
    assert_eq!(copied[0].len(), 88, "64 characters in base64: {copied:?}");
    // Hides the namespace's column.
    pty.press(b"cj ");
    pty.wait_for("[ ] NAMESPACE");
    pty.press(b"q");
    assert_eq!(pty.ended(), Some(0));
    let kept = std::fs::read_to_string(pty.config.path().join("sandboxd/tui.toml")).unwrap();
    assert!(kept.starts_with("columns = [\"name\", \"state\""), "{kept}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_end_it_and_give_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    for (signal, code) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130)] {
        let mut pty = console(&dir.path().join("nobody.sock"));
        pty.wait_for("cannot reach");
        kill(Pid::from_raw(pty.child.id().cast_signed()), signal).unwrap();
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
    let before = switches(pty.child.id());
    std::thread::sleep(Duration::from_secs(2));
    let woken = switches(pty.child.id()) - before;
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
    {
        let parser = pty.screen.lock().unwrap();
        assert!(!parser.screen().alternate_screen(), "the command has the ordinary screen");
        assert!(!parser.screen().hide_cursor());
        assert_eq!(parser.screen().mouse_protocol_mode(), vt100::MouseProtocolMode::None);
    }
    assert!(pty.is_raw(), "keys are passed on as they are");
    // Keys that mean something to the console or to a cooked terminal are the command's.
    pty.press(b"q\x03\x1b[A\r");
    pty.wait_for("you typed <q");
    until("the bytes", || sim.sessions()[0].stdin == b"q\x03\x1b[A\r").await;
    assert_eq!(sim.sessions()[0].sizes, [(80, 24)]);
    assert_eq!(sim.sessions()[0].command, ["/bin/sh"]);
    resize(&pty, 30, 100);
    until("the new size", || sim.sessions()[0].sizes.last() == Some(&(100, 30))).await;
    // While it runs the console goes on watching.
    let mut pod = sim.snapshot().pods[0].clone();
    pod.checks.get_or_insert_default().denied = 4_321;
    sim.change(&Change::Pod(pod));
    pty.press(b"exit 3\r");
    pty.wait_for("ended with exit code 3");
    assert!(pty.screen.lock().unwrap().screen().alternate_screen());
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
    kill(Pid::from_raw(pty.child.id().cast_signed()), Signal::SIGTERM).unwrap();
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

/// Gives the terminal another size, which its foreground process is told by SIGWINCH.
fn resize(pty: &Pty, rows: u16, columns: u16) {
    let status = Command::new("stty")
        .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
        .stdin(Stdio::from(pty.terminal.try_clone().unwrap()))
        .status();
    assert!(status.unwrap().success());
}
