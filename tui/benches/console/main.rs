//! Figures of the console: the time of a frame over 1,000 pods and 100,000 checks, what the real program takes of a
//! core when idle and under 1,000 checks a second. Run by `cargo xtask bench`, alone with `--only-console`.

#![allow(clippy::unwrap_used, reason = "a bench: what cannot go on ends")]

mod figures;
mod frames;
mod program;

use clap::Parser;

use figures::Figures;

pub const PODS: u64 = 1_000;
pub const CHECKS: u64 = 100_000;

#[derive(Parser)]
#[command(about = "Frame times and CPU of the console, over a simulated daemon")]
struct Cli {
    /// One JSON document instead of tables.
    #[arg(long)]
    json: bool,
    /// Seconds over which the CPU of the program is taken.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Frames of each view and size.
    #[arg(long, default_value_t = 300)]
    frames: u32,
    /// Given by cargo.
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let cli = Cli::parse();
    let mut figures = Figures::default();
    frames::measure(cli.frames, &mut figures);
    program::measure(cli.seconds, &mut figures).await;
    figures.print(cli.json);
}
