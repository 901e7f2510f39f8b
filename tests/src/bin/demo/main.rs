//! The demo: a pod in the old order, which fails as containerd issue 6908 describes; the same pod in the
//! right order; the console. Run by `cargo xtask demo`.
//!
//! ```text
//! start ─▶ wrong order ─▶ right order ─▶ console ─▶ clean up ─▶ what is left: nothing
//!   └────────────┴── SIGINT, SIGTERM, SIGHUP ─┴────────▲
//! ```
//! Signals are taken from the first moment on and never end the process by themselves; whatever the demo
//! is doing is dropped, and the node is stopped and swept.

#![forbid(unsafe_code)]

mod acts;
mod say;
mod screen;
mod table;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;
use sandboxd_tests::interrupt::{INTERRUPTED, Interrupts};
use sandboxd_tests::node::{Node, Options};

#[derive(Parser)]
#[command(about = "A pod in the wrong order, the same pod in the right one, the console")]
struct Cli {
    /// Prints one console frame as text, also on a terminal.
    #[arg(long)]
    once: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match play(&cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn play(cli: &Cli) -> Result<ExitCode> {
    let mut interrupts = Interrupts::new()?;
    let live = !cli.once && std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let node = tokio::select! {
        // Dropped half-way it sweeps what it made.
        node = Node::start(Options::default()) => node?,
        () = interrupts.next() => return Ok(ExitCode::from(INTERRUPTED)),
    };
    let outcome = tokio::select! {
        outcome = acts::all(&node, live) => Some(outcome),
        () = interrupts.next() => None,
    };
    if !matches!(outcome, Some(Ok(()))) {
        say::blank();
    }
    say::line("Cleaning up: pods, daemon, bridge, rules, cgroup, directories.");
    let log = if matches!(outcome, Some(Err(_))) { node.log_tail(40) } else { String::new() };
    let left = node.stop().await;
    match outcome {
        Some(Err(error)) => {
            eprintln!("The daemon's last words:\n{log}");
            return Err(error);
        }
        None => return Ok(ExitCode::from(INTERRUPTED)),
        Some(Ok(())) => {}
    }
    let left = left?;
    if left.is_empty() {
        say::line("Nothing is left: no process, mount, namespace, interface, rule, cgroup or file.");
        return Ok(ExitCode::SUCCESS);
    }
    say::line("The pods left these behind (they are swept now):");
    for leftover in left {
        say::item(&leftover.to_string());
    }
    Ok(ExitCode::FAILURE)
}
