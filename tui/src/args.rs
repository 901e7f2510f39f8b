//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::feed::target::{self, Address, Target, TargetError, TlsFiles};
use crate::model::filter::{Filter, Kind};
use crate::model::sort::Sort;

/// The operator's console of sandboxd: who owns which namespace, and why something was denied.
#[derive(Debug, Clone, Parser)]
#[command(name = "sandboxd-tui", version)]
pub struct Args {
    /// A daemon: its console socket, also as unix://PATH, or https://HOST:PORT. Repeated for several nodes.
    #[arg(long, value_name = "ENDPOINT", default_value = "/run/sandboxd/console.sock")]
    pub endpoint: Vec<Address>,

    /// A TOML file of nodes: [[node]] with name, endpoint, and over TLS ca, cert, key, server_name.
    #[arg(long, value_name = "FILE", conflicts_with = "endpoint")]
    pub nodes: Option<PathBuf>,

    /// Of https endpoints: the authority that daemons' certificates come from.
    #[arg(long, value_name = "FILE", requires_all = ["cert", "key"])]
    pub ca: Option<PathBuf>,

    /// Of https endpoints: this console's certificate.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "key"])]
    pub cert: Option<PathBuf>,

    /// Of https endpoints: the key of --cert.
    #[arg(long, value_name = "FILE", requires_all = ["ca", "cert"])]
    pub key: Option<PathBuf>,

    /// Let keys stop, remove and run something, after a question. The daemon decides who may.
    #[arg(long, conflicts_with = "replay")]
    pub allow_actions: bool,

    /// Change nothing: the default.
    #[arg(long, conflicts_with = "allow_actions")]
    pub read_only: bool,

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

impl Args {
    /// The daemons to watch.
    pub fn targets(&self) -> Result<Vec<Target>, TargetError> {
        if let Some(file) = &self.nodes {
            return target::read_nodes(file);
        }
        let tls = match (&self.ca, &self.cert, &self.key) {
            (Some(ca), Some(cert), Some(key)) => {
                let (ca, cert, key) = (ca.clone(), cert.clone(), key.clone());
                Some(TlsFiles { ca, cert, key, server_name: None })
            }
            _ => None,
        };
        let mut targets: Vec<Target> = Vec::new();
        for address in &self.endpoint {
            // Named twice is watched once.
            if targets.iter().all(|target| target.address != *address) {
                targets.push(Target::of_endpoint(address.clone(), tls.clone())?);
            }
        }
        Ok(targets)
    }

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
