//! Records the session that the console's panels are tested with: a real daemon, real pods, and the console's own
//! `--record` while somebody walks through it. Run by `cargo xtask record-session`.
//!
//! ```text
//! node ─▶ console on a terminal, recording ─▶ pods come, fail, end ─▶ every view is looked at ─▶ q
//!                                                                                               │
//!                             tui/tests/fixtures/session.jsonl ◀── names of this machine go ◀───┘
//! ```

#![forbid(unsafe_code)]

mod clean;
mod walk;
mod world;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use nix::sched::{CloneFlags, unshare};
use sandboxd_pty::Pty;
use sandboxd_tests::bins;
use sandboxd_tests::interrupt::{INTERRUPTED, Interrupts};
use sandboxd_tests::node::{Node, Options};

/// What the node is called.
const NODE: &str = "worker-3";
const COLUMNS: u16 = 120;
const ROWS: u16 = 40;

#[derive(Parser)]
#[command(about = "Records the session that the console's panels are tested with")]
struct Cli {
    /// The recording; one that is there is replaced when the new one is whole.
    file: PathBuf,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match named().and_then(|runtime| {
        let recorded = runtime.block_on(record(&cli));
        // A walk that was interrupted waits for its screen yet: leave it behind.
        runtime.shutdown_background();
        recorded
    }) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Gives this process, and with it the daemon, the node's name. Before there are threads: each has its own.
fn named() -> Result<tokio::runtime::Runtime> {
    unshare(CloneFlags::CLONE_NEWUTS).context("a UTS namespace of its own: run it as root")?;
    nix::unistd::sethostname(NODE).context("naming the node")?;
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

async fn record(cli: &Cli) -> Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    let node = tokio::select! {
        // Dropped half-way it sweeps what it made.
        node = Node::start(Options::default()) => node?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let outcome = tokio::select! {
        outcome = session(&node, &cli.file) => Some(outcome),
        () = interrupts.next() => None,
    };
    if matches!(outcome, Some(Err(_))) {
        eprintln!("The daemon's last words:\n{}", node.log_tail(40));
    }
    let left = node.stop().await;
    match outcome {
        Some(recorded) => recorded?,
        None => return Ok(ExitCode::from(INTERRUPTED)),
    }
    let left = left?;
    ensure!(left.is_empty(), "the pods left behind: {left:?}");
    Ok(ExitCode::SUCCESS)
}

async fn session(node: &Node, file: &Path) -> Result<()> {
    let raw = node.path("session.jsonl");
    let mut args: Vec<OsString> = vec!["--endpoint".into(), node.console_socket().into()];
    args.extend(["--record".into(), raw.clone().into()]);
    let console = bins::find("sandboxd-tui")?;
    let mut console = Pty::sized(&console, &args, COLUMNS, ROWS);
    console.wait_for("● live");
    let world = world::make(node).await?;
    let walked = tokio::task::spawn_blocking(move || {
        walk::through(&mut console);
        console.press(b"q");
        console.ended()
    });
    ensure!(walked.await.context("the walk")? == Some(0), "the console ended otherwise than by q");
    let text = clean::recording(node, &world, &raw)?;
    world.end_leak()?;
    let next = file.with_extension("new");
    std::fs::write(&next, &text).with_context(|| format!("writing {}", next.display()))?;
    clean::judge(&text, node).with_context(|| format!("{} is left to be looked at", next.display()))?;
    std::fs::rename(&next, file).with_context(|| format!("replacing {}", file.display()))?;
    println!("{}: {} lines, {} kB", file.display(), text.lines().count(), text.len() / 1_000);
    Ok(())
}
