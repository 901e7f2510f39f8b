//! Development tasks.

mod ebpf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "xtask", about = "Development tasks")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Builds the eBPF object that sandboxd embeds.
    BuildEbpf {
        /// Without DWARF, as it goes into a release of the daemon.
        #[arg(long)]
        release: bool,
    },
}

fn main() -> anyhow::Result<()> {
    match Cli::parse().task {
        Task::BuildEbpf { release } => {
            println!("{}", ebpf::build_ebpf(release)?.display());
            Ok(())
        }
    }
}
