//! The real program on a pseudo-terminal, watching a simulated daemon over its socket: what it takes of a core.

use std::path::Path;
use std::time::{Duration, Instant};

use sandboxd_pty::Pty;
use sandboxd_sim::{Sim, world};

use crate::PODS;
use crate::figures::Figures;

/// Checks a second, told for a while before anything is measured.
const RATE: u64 = 1_000;

struct Program(Pty);

impl Program {
    fn start(endpoint: &Path, width: u16, height: u16) -> Self {
        let args = ["--endpoint".as_ref(), endpoint.as_os_str()];
        Self(Pty::sized(Path::new(env!("CARGO_BIN_EXE_sandboxd-tui")), &args, width, height))
    }

    /// Nanoseconds on a CPU so far, of all threads (proc(5), schedstat).
    fn on_cpu(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.0.pid())).unwrap();
        let of = |task: std::fs::DirEntry| {
            let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        };
        tasks.filter_map(|task| of(task.unwrap())).sum()
    }

    fn resident_kib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Percent of one core over so many seconds, and kilobytes written to the terminal a second.
    async fn share(&self, seconds: u64) -> (f64, f64) {
        let (before, written, began) = (self.on_cpu(), self.0.written(), Instant::now());
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        let took = began.elapsed().as_secs_f64();
        let bytes = self.0.written() - written;
        ((self.on_cpu() - before) as f64 / took / 1e7, bytes as f64 / 1_000.0 / took)
    }
}

pub async fn measure(seconds: u64, figures: &mut Figures) {
    let dir = tempfile::tempdir().unwrap();
    figures.group("Console, the program on a terminal of 200x60", ["% of a core", "kB/s out", "MiB"]);
    for view in ["1", "3"] {
        let sim = Sim::start(&dir.path().join("console.sock"), world::node("busy", PODS));
        let mut program = Program::start(&sim.socket, 200, 60);
        let began = Instant::now();
        while program.0.written() < 5_000 {
            assert!(began.elapsed() < Duration::from_secs(20), "the console draws nothing");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        program.0.press(view.as_bytes());
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
        program.0.press(b"q");
        program.0.ended();
        sim.stop().await;
    }
}
