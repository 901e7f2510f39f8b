//! The `sandboxd` binary: parses the command line, then parse → build → run.

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;
use sandboxd::client::{self, ClientError, ConsoleArgs};
use sandboxd::config::{Config, DEFAULT_TOML};
use sandboxd::daemon::cli::{Cli, Command, ConfigCommand, ImageArgs, ServeArgs};
use sandboxd::daemon::{self, Daemon};
use sandboxd::doctor;

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Serve(args) => serve(&args),
        Command::Config(ConfigCommand::Default) => print(DEFAULT_TOML),
        Command::Config(ConfigCommand::Check { config }) => check(config.as_deref()),
        Command::Image(args) => images(args),
        Command::Namespaces(args) => ask(client::namespaces::run(&args)),
        Command::Explain(args) => ask(client::explain::run(&args)),
        Command::Events(args) => ask(client::events::run(&args)),
        Command::Doctor { json, config, console_socket } => {
            examine(json, &ConsoleArgs { config, console_socket })
        }
    };
    outcome.unwrap_or_else(|error| {
        // `:#` prints the chain, ": " between the parts.
        eprintln!("sandboxd: {error:#}");
        ExitCode::FAILURE
    })
}

fn serve(args: &ServeArgs) -> anyhow::Result<ExitCode> {
    let config = args.configuration()?;
    daemon::logging::start(&config.log);
    daemon::memory::tune();
    daemon::runtime()?.block_on(async {
        let shutdown = daemon::Signals::install()?;
        let daemon = Daemon::build(config).await?;
        daemon.run(shutdown).await?;
        Ok(ExitCode::SUCCESS)
    })
}

fn images(args: ImageArgs) -> anyhow::Result<ExitCode> {
    let config = args.configuration()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(sandboxd::image::run_command(args.command, &config))?;
    Ok(ExitCode::SUCCESS)
}

/// Runs a client of the daemon.
fn ask(asked: impl Future<Output = Result<(), ClientError>>) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(asked)?;
    Ok(ExitCode::SUCCESS)
}

fn check(path: Option<&std::path::Path>) -> anyhow::Result<ExitCode> {
    Config::load(path)?.checked(path)?;
    print("the configuration is valid\n")
}

fn examine(json: bool, console: &ConsoleArgs) -> anyhow::Result<ExitCode> {
    let config = Config::load(console.config.as_deref())?;
    let mut checks = doctor::examine(&config, None);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    checks.extend(runtime.block_on(client::doctor::observer_counts(console)));
    print(&if json { doctor::to_json(&checks)? } else { doctor::to_text(&checks) })?;
    let failed = checks.iter().any(|c| c.verdict == doctor::Verdict::Fail);
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Writes to standard output; a reader that went away (`| head`) is no error.
fn print(text: &str) -> anyhow::Result<ExitCode> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(e.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}
