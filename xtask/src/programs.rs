//! The demo, the benches and the recorded session: builds their program of the `tests` crate and becomes it, so
//! that a signal meets one process, the one that cleans up.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{build, deps, run};

/// What `cargo xtask demo` takes.
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// Prints one console frame as text, also on a terminal.
    #[arg(long)]
    once: bool,
}

/// What `cargo xtask bench` takes.
#[derive(Debug, clap::Args)]
pub struct Bench {
    /// Pods made one after the other for the latencies.
    #[arg(long, default_value_t = 50)]
    pods: u32,
    /// Pods started at once, and kept for the memory figures.
    #[arg(long, default_value_t = 20)]
    parallel: u32,
    /// Times a large image is pulled; none where 0.
    #[arg(long, default_value_t = 3)]
    pulls: u32,
    /// Only the console: frame times and CPU over a simulated daemon. Needs no root.
    #[arg(long)]
    only_console: bool,
    /// Only the pulls, against `skopeo copy` and `umoci unpack`.
    #[arg(long, conflicts_with = "only_console")]
    only_pulls: bool,
    /// One JSON document instead of tables; the console's is one of its own, on the first line.
    #[arg(long)]
    json: bool,
}

/// What `cargo xtask record-session` takes.
#[derive(Debug, clap::Args)]
pub struct RecordSession {
    /// The recording [default: the fixture of the console's tests]
    file: Option<PathBuf>,
}

/// Builds and becomes the program that records the session.
pub fn record_session(options: &RecordSession) -> Result<()> {
    let file = match &options.file {
        Some(file) => std::path::absolute(file)?,
        None => run::root().join("tui/tests/fixtures/session.jsonl"),
    };
    let dir = prepare(&deps::RUN)?;
    let mut command = Command::new(dir.join("session"));
    command.arg(file);
    become_program(&mut command, &dir)
}

/// Builds and becomes the demo.
pub fn demo(options: &Demo) -> Result<()> {
    let dir = prepare(&deps::RUN)?;
    let mut command = Command::new(dir.join("demo"));
    command.args(options.once.then_some("--once"));
    become_program(&mut command, &dir)
}

/// Builds and becomes the bench.
pub fn bench(options: &Bench) -> Result<()> {
    if !options.only_pulls {
        console(options)?;
    }
    if options.only_console {
        return Ok(());
    }
    let dir = prepare(&deps::BENCH)?;
    let mut command = Command::new(dir.join("bench"));
    command.args(["--pods", &options.pods.to_string(), "--parallel", &options.parallel.to_string()]);
    command.args(["--pulls", &options.pulls.to_string()]);
    command.args(options.only_pulls.then_some("--only-pulls"));
    command.args(options.json.then_some("--json"));
    become_program(&mut command, &dir)
}

/// The console's section: a bench target of its crate, so that it measures the program as it is installed.
fn console(options: &Bench) -> Result<()> {
    let mut command = run::cargo();
    command.args(["bench", "--quiet", "-p", "sandboxd-tui", "--bench", "console", "--"]);
    command.args(options.json.then_some("--json"));
    run::run(&mut command)
}

fn prepare(needs: &[&deps::Need]) -> Result<PathBuf> {
    deps::ensure(needs)?;
    ensure!(deps::is_root(), "this makes namespaces, mounts and a bridge: run it as root");
    build::release()
}

fn become_program(command: &mut Command, dir: &Path) -> Result<()> {
    command.env("SANDBOXD_BIN_DIR", dir);
    // Only returns when it could not.
    let error = command.exec();
    Err(error).with_context(|| format!("running {}", run::words(command)))
}
