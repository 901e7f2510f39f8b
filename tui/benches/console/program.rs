//! The real program on a pseudo-terminal, watching a simulated daemon over its socket: what it takes of a core.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::pty::{Winsize, openpty};
use sandboxd_sim::{Sim, world};

use crate::PODS;
use crate::figures::Figures;

/// Checks a second, told for a while before anything is measured.
const RATE: u64 = 1_000;

struct Program {
    keys: File,
    child: Child,
    written: Arc<AtomicU64>,
}

impl Program {
    fn start(endpoint: &Path, width: u16, height: u16) -> Self {
        let size = Winsize { ws_row: height, ws_col: width, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).unwrap();
        let stdio = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new("setsid")
            .args(["--ctty", "--wait", env!("CARGO_BIN_EXE_sandboxd-tui"), "--endpoint"])
            .arg(endpoint)
            .env("TERM", "xterm-256color")
            .stdin(stdio())
            .stdout(stdio())
            .stderr(stdio())
            .spawn()
            .unwrap();
        let written = Arc::new(AtomicU64::new(0));
        let mut output = File::from(pty.master.try_clone().unwrap());
        let count = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut buffer = [0; 65_536];
            while let Ok(read) = output.read(&mut buffer) {
                count.fetch_add(read as u64, Ordering::Relaxed);
            }
        });
        Self { keys: File::from(pty.master), child, written }
    }

    /// Nanoseconds on a CPU so far, of all threads (proc(5), schedstat).
    fn on_cpu(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let of = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        };
        tasks.filter_map(|task| of(task.unwrap())).sum()
    }

    fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Percent of one core over so many seconds, and kilobytes written to the terminal a second.
    async fn share(&self, seconds: u64) -> (f64, f64) {
        let (before, written, began) = (self.on_cpu(), self.written.load(Ordering::Relaxed), Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let took = began.elapsed().as_secs_f64();
        let bytes = self.written.load(Ordering::Relaxed) - written;
        ((self.on_cpu() - before) as f64 / took / 1e7, bytes as f64 / 1_000.0 / took)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.keys.write_all(b"q"));
        drop(self.child.wait());
    }
}

pub async fn measure(seconds: u64, figures: &mut Figures) {
    let dir = tempfile::tempdir().unwrap();
    figures.group("Console, the program on a terminal of 200x60", ["% of a core", "kB/s out", "MiB"]);
    for view in ["1", "3"] {
        let sim = Sim::start(&dir.path().join("console.sock"), world::node("busy", PODS));
        let mut program = Program::start(&sim.socket, 200, 60);
        let began = Instant::now();
        while program.written.load(Ordering::Relaxed) < 5_000 {
            assert!(began.elapsed() < Duration::from_secs(20), "the console draws nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        program.keys.write_all(view.as_bytes()).unwrap();
        tokio::time::sleep(Duration::from_secs(2)).await;
        let name = if view == "1" { "pods" } else { "checks" };
        let samples = usize::try_from(seconds).unwrap();
        let (share, out) = program.share(seconds).await;
        figures.row(&format!("{name}: idle"), "", [share, out, program.resident_kib() / 1024.0], samples);
        if view == "1" {
            let met = if share < 1.0 { "met" } else { "MISSED" };
            figures.note(format!("idle with {PODS} pods: {share:.2} % of a core; the goal of 1 % is {met}"));
        }
        let flood = sim.flood(RATE);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let (share, out) = program.share(seconds).await;
        flood.abort();
        let row = format!("{name}: {RATE} checks a second");
        figures.row(&row, "", [share, out, program.resident_kib() / 1024.0], samples);
        drop(program);
        sim.stop().await;
    }
}
