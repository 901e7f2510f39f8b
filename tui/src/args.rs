//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::model::filter::{Filter, Kind};
use crate::model::sort::Sort;

/// The operator's console of sandboxd: who owns which namespace, and why something was denied.
#[derive(Debug, Clone, Parser)]
#[command(name = "sandboxd-tui", version)]
pub struct Args {
    /// The daemon's console socket, also as unix://PATH.
    #[arg(long, value_name = "PATH", default_value = "/run/sandboxd/console.sock", value_parser = socket)]
    pub endpoint: PathBuf,

    /// Print one frame as text and leave. Width: the terminal's, else COLUMNS, else 120.
    #[arg(long)]
    pub once: bool,

    /// Print JSON instead: one document with --once, else every message as a line, as --record writes them.
    #[arg(long)]
    pub json: bool,

    /// Show the pods that match: text, /regex/, !not, field:value (owner:init, state:ready, ns:default).
    #[arg(long, value_name = "QUERY", value_parser = pod_filter)]
    pub filter: Option<Filter>,

    /// Sort the pods by a column (name, ns, state, owner, denied, age, …); - in front turns it round.
    #[arg(long, value_name = "COLUMN", allow_hyphen_values = true)]
    pub sort: Option<Sort>,

    /// Write what the daemon sends to a new file, as JSON lines with times.
    #[arg(long, value_name = "FILE", conflicts_with = "replay")]
    pub record: Option<PathBuf>,

    /// Play a recorded file instead of asking a daemon: at its own pace, or its end with --once.
    #[arg(long, value_name = "FILE")]
    pub replay: Option<PathBuf>,

    /// Draw with ASCII characters only.
    #[arg(long)]
    pub ascii: bool,

    /// Leave the mouse to the terminal.
    #[arg(long)]
    pub no_mouse: bool,
}

/// Tools of this field name sockets both ways.
#[expect(clippy::unnecessary_wraps, reason = "clap's form of a value parser")]
fn socket(text: &str) -> Result<PathBuf, std::convert::Infallible> {
    Ok(PathBuf::from(text.strip_prefix("unix://").unwrap_or(text)))
}

impl Args {
    /// What no option of its own can refuse.
    pub fn check(&self) -> Result<(), clap::Error> {
        if self.json && !self.once && (self.filter.is_some() || self.sort.is_some()) {
            return Err(clap::Error::raw(
                clap::error::ErrorKind::ArgumentConflict,
                "--json streams every message as it is: --filter and --sort need --once as well\n",
            ));
        }
        Ok(())
    }
}

fn pod_filter(text: &str) -> Result<Filter, crate::model::filter::FilterError> {
    Filter::parse(text, Kind::Pods)
}
