//! Figures of this machine: latency of each rpc, parallel starts, memory, system calls of a pod, cost of a
//! capability check, pulls. Run by `cargo xtask bench`. Each figure is a median with its minimum and maximum.

mod containers;
mod cost;
mod latency;
mod memory;
mod plugins;
mod pulls;
mod report;
mod restart;
mod runc;
mod stats;
mod syscalls;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sandboxd_tests::interrupt::{INTERRUPTED, Interrupts};
use sandboxd_tests::node::{Node, Options};

use report::Report;

#[derive(Parser)]
#[command(about = "Latency, memory and cost of a capability check")]
struct Cli {
    /// Pods made one after the other.
    #[arg(long, default_value_t = 50)]
    pods: u32,
    /// Pods started at once, and kept for the memory figures.
    #[arg(long, default_value_t = 20)]
    parallel: u32,
    /// Times a large image is pulled; none where 0.
    #[arg(long, default_value_t = 3)]
    pulls: u32,
    /// Only the pulls.
    #[arg(long)]
    only_pulls: bool,
    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,
}

/// The state directory belongs on a tmpfs: /run where it is one, else /dev/shm.
fn tmpfs() -> Option<&'static Path> {
    const TMPFS_MAGIC: i64 = 0x0102_1994;
    ["/run", "/dev/shm"]
        .into_iter()
        .map(Path::new)
        .find(|dir| nix::sys::statfs::statfs(*dir).is_ok_and(|fs| fs.filesystem_type().0 == TMPFS_MAGIC))
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn run(cli: &Cli) -> Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    let mut report = Report::new(cli.json);
    if cli.only_pulls {
        let pulled = pulls(cli, &mut interrupts, &mut report).await?;
        report.print();
        return Ok(pulled);
    }
    let on = tmpfs();
    report.note(&match on {
        Some(dir) => format!("state and root on {} (tmpfs)", dir.display()),
        None => {
            "state and root on the temporary directory's file system: no tmpfs in /run or /dev/shm".into()
        }
    });
    let options = Options { on: on.map(Path::to_path_buf), ..Options::default() };
    let mut node = tokio::select! {
        node = Node::start(options) => node?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let outcome = tokio::select! {
        outcome = measure(&mut node, cli, &mut report) => Some(outcome),
        () = interrupts.next() => None,
    };
    let left = node.stop().await;
    match outcome {
        Some(outcome) => outcome?,
        None => return Ok(ExitCode::from(INTERRUPTED)),
    }
    // Without a daemon: what the same calls cost when nobody watches.
    cost::unwatched(&mut report)?;
    let pulled = pulls(cli, &mut interrupts, &mut report).await?;
    for leftover in left? {
        report.note(&format!("left behind: {leftover}"));
    }
    report.print();
    Ok(pulled)
}

async fn pulls(cli: &Cli, interrupts: &mut Interrupts, report: &mut Report) -> Result<ExitCode> {
    tokio::select! {
        outcome = pulls::against_skopeo(cli.pulls, report) => outcome.map(|()| ExitCode::SUCCESS),
        () = interrupts.next() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn measure(node: &mut Node, cli: &Cli, report: &mut Report) -> Result<()> {
    memory::idle(node, report)?;
    plugins::alone(node, cli.pods, report)?;
    latency::one_by_one(node, cli.pods, report).await?;
    latency::at_once(node, cli.parallel, report).await?;
    containers::one_by_one(node, cli.pods, report).await?;
    memory::with_pods(node, cli.parallel, report).await?;
    containers::with_pods(node, cli.parallel, report).await?;
    restart::with_pods(node, cli.parallel, report).await?;
    runc::same_infra(node, cli.pods, report).await?;
    syscalls::of_a_pod(node, report).await?;
    cost::watched(node, report).await
}
