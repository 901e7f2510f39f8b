//! A program on a terminal of its own: a pseudo-terminal whose other side is read with vt100.
//!
//! For tests: what does not come in time is a panic with the screen as it was. A program that still runs when its
//! [`Pty`] goes is killed.

#![allow(
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "every method panics when a test is to fail"
)]

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;

/// How long a screen may take.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A program and its terminal.
pub struct Pty {
    keys: File,
    terminal: OwnedFd,
    child: Child,
    screen: Arc<Mutex<vt100::Parser<Clipboard>>>,
    written: Arc<AtomicU64>,
    config: tempfile::TempDir,
}

impl std::fmt::Debug for Pty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pty").field("pid", &self.pid()).field("screen", &self.contents()).finish()
    }
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
    pub fn run<A: AsRef<OsStr>>(program: &Path, args: &[A]) -> Self {
        Self::sized(program, args, 80, 24)
    }

    /// The same on a terminal of another size.
    pub fn sized<A: AsRef<OsStr>>(program: &Path, args: &[A], columns: u16, rows: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        // A program that had the other side too would not be hung up when whoever reads it is gone.
        for side in [&pty.master, &pty.slave] {
            fcntl(side, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).unwrap();
        }
        let config = tempfile::tempdir().unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "--wait"])
            .arg(program)
            .args(args)
            .env("TERM", "xterm-256color")
            .env("TZ", "UTC")
            .env("XDG_CONFIG_HOME", config.path())
            .env_remove("NO_COLOR")
            .env("RUST_BACKTRACE", "0")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let parser = vt100::Parser::new_with_callbacks(rows, columns, 0, Clipboard::default());
        let screen = Arc::new(Mutex::new(parser));
        let mut output = File::from(pty.master.try_clone().unwrap());
        let parser = Arc::clone(&screen);
        let written = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(read) = output.read(&mut buffer) {
                count.fetch_add(read as u64, Ordering::Relaxed);
                lock(&parser).process(&buffer[..read]);
            }
        });
        Self { keys: File::from(pty.master), terminal: pty.slave, child, screen, written, config }
    }

    /// The program's pid: it takes the place of what starts its session.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `XDG_CONFIG_HOME` of the program: a directory of its own, so that it neither reads nor writes the developer's.
    pub fn config(&self) -> &Path {
        self.config.path()
    }

    /// Bytes that the program has written to its terminal.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// The screen as text.
    pub fn contents(&self) -> String {
        lock(&self.screen).screen().contents()
    }

    /// Everything that was put on the clipboard, as it was sent.
    pub fn copied(&self) -> Vec<Vec<u8>> {
        lock(&self.screen).callbacks().0.clone()
    }

    /// Waits until the screen has these words.
    #[track_caller]
    pub fn wait_for(&self, words: &str) {
        self.wait_until(&format!("{words:?}"), |screen| screen.contains(words));
    }

    /// Waits until the screen has lost these words.
    #[track_caller]
    pub fn wait_gone(&self, words: &str) {
        self.wait_until(&format!("the end of {words:?}"), |screen| !screen.contains(words));
    }

    /// Waits for a screen.
    #[track_caller]
    pub fn wait_until(&self, what: &str, seen: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !seen(&self.contents()) {
            assert!(began.elapsed() < PATIENCE, "{what} never came: {}", self.contents());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Types.
    pub fn press(&mut self, keys: &[u8]) {
        self.keys.write_all(keys).unwrap();
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid().cast_signed()), signal).unwrap();
    }

    /// Gives the terminal another size, which its foreground process is told by SIGWINCH.
    pub fn resize(&self, columns: u16, rows: u16) {
        lock(&self.screen).screen_mut().set_size(rows, columns);
        let status = Command::new("stty")
            .args(["rows", &rows.to_string(), "cols", &columns.to_string()])
            .stdin(Stdio::from(self.terminal.try_clone().unwrap()))
            .status();
        assert!(status.unwrap().success());
    }

    /// Whether keys reach the program as they are typed.
    pub fn is_raw(&self) -> bool {
        !tcgetattr(self.terminal.as_fd()).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    /// Whether a program draws on the whole screen.
    pub fn is_taken(&self) -> bool {
        lock(&self.screen).screen().alternate_screen()
    }

    /// Checks that the screen is an ordinary one: the shell's, with its cursor, and the mouse left alone.
    #[track_caller]
    pub fn assert_ordinary(&self) {
        let parser = lock(&self.screen);
        let screen = parser.screen();
        assert!(!screen.alternate_screen(), "the alternate screen is left");
        assert!(!screen.hide_cursor(), "the cursor is shown");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None);
    }

    /// Waits for the end and checks that the terminal is as it was; the exit code.
    #[track_caller]
    pub fn ended(&mut self) -> Option<i32> {
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
        while self.is_taken() && began.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.assert_ordinary();
        assert!(!self.is_raw(), "the terminal is cooked again");
        status.code()
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        // Of one that has ended there is nothing to end.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A test that failed while it looked at the screen leaves a screen that can be looked at.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
