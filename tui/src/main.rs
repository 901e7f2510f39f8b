//! `sandboxd-tui`: parses the command line and runs.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use sandboxd_tui::args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Err(error) = args.check() {
        error.exit();
    }
    // One thread is plenty: the work is waiting.
    let ran = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let ran = runtime.block_on(sandboxd_tui::run::run(args));
            // A thread may still wait for a key: leave it behind.
            runtime.shutdown_background();
            ran
        });
    match ran {
        Ok(code) => code,
        Err(error) => {
            eprintln!("sandboxd-tui: {error:#}");
            ExitCode::FAILURE
        }
    }
}
