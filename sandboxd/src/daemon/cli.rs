//! The command line. Flags override the configuration file.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::events::EventsArgs;
use crate::client::explain::ExplainArgs;
use crate::client::namespaces::NamespacesArgs;
use crate::config::{Config, ConfigError, LogFormat};
use crate::image::ImageCommand;

/// A container runtime for Kubernetes nodes whose pods own their namespaces.
#[derive(Debug, Parser)]
#[command(name = "sandboxd", version, about, propagate_version = true, disable_help_subcommand = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the CRI and the console
    Serve(ServeArgs),
    /// Print or check the configuration
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Pull, list, remove, import and export images of the running daemon
    Image(ImageArgs),
    /// Show all namespaces of the node: who owns them, who is in them, what keeps them alive, which are leaked
    Namespaces(NamespacesArgs),
    /// Say in words why the kernel denied something
    Explain(ExplainArgs),
    /// Print checks, events of pods and containers, and their changes, recorded or as they happen
    Events(EventsArgs),
    /// Check what this node can do; exits with 1 when something fails
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Configuration file [default: /etc/sandboxd/config.toml, if it is there]
        #[arg(long, value_name = "F")]
        config: Option<PathBuf>,
        /// Socket for consoles of the daemon that is asked for its observer's counts, where one runs
        #[arg(long, value_name = "P")]
        console_socket: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print the default configuration with its comments
    Default,
    /// Say what is wrong with a configuration
    Check {
        /// Configuration file [default: /etc/sandboxd/config.toml, if it is there]
        #[arg(long, value_name = "F")]
        config: Option<PathBuf>,
    },
}

#[derive(Debug, Args)]
pub struct ImageArgs {
    /// Configuration file, for the sockets [default: /etc/sandboxd/config.toml, if it is there]
    #[arg(long, value_name = "F", global = true)]
    pub config: Option<PathBuf>,
    /// The daemon's socket for kubelet
    #[arg(long, value_name = "P", global = true)]
    pub cri_socket: Option<PathBuf>,
    /// The daemon's socket for sandboxd-tui
    #[arg(long, value_name = "P", global = true)]
    pub console_socket: Option<PathBuf>,
    #[command(subcommand)]
    pub command: ImageCommand,
}

impl ImageArgs {
    /// The configuration file with these flags laid over it.
    ///
    /// # Errors
    /// See [`Config::load`].
    pub fn configuration(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(path) = &self.cri_socket {
            config.cri_socket.clone_from(path);
        }
        if let Some(path) = &self.console_socket {
            config.console_socket.clone_from(path);
        }
        Ok(config)
    }
}

#[derive(Debug, Default, Args)]
pub struct ServeArgs {
    /// Configuration file [default: /etc/sandboxd/config.toml, if it is there]
    #[arg(long, value_name = "F")]
    pub config: Option<PathBuf>,
    /// Directory of what outlives a boot
    #[arg(long, value_name = "D")]
    pub root: Option<PathBuf>,
    /// Directory of what dies with the boot
    #[arg(long, value_name = "D")]
    pub state: Option<PathBuf>,
    /// Socket for kubelet
    #[arg(long, value_name = "P")]
    pub cri_socket: Option<PathBuf>,
    /// Socket for sandboxd-tui
    #[arg(long, value_name = "P")]
    pub console_socket: Option<PathBuf>,
    /// Directory of CNI configurations
    #[arg(long, value_name = "D")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Directory of CNI plugins; may be given several times
    #[arg(long, value_name = "D")]
    pub cni_bin_dir: Vec<PathBuf>,
    /// Serve Prometheus metrics here, such as 127.0.0.1:9465
    #[arg(long, value_name = "A")]
    pub metrics_address: Option<String>,
    /// error, warn, info, debug, trace, or a filter
    #[arg(long, value_name = "L")]
    pub log_level: Option<String>,
    /// Form of log lines
    #[arg(long, value_name = "F")]
    pub log_format: Option<LogFormat>,
}

impl ServeArgs {
    /// The configuration file with these flags laid over it, checked.
    ///
    /// # Errors
    /// See [`Config::load`] and [`Config::checked`].
    pub fn configuration(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        let set = |slot: &mut PathBuf, flag: &Option<PathBuf>| {
            if let Some(path) = flag {
                slot.clone_from(path);
            }
        };
        set(&mut config.root, &self.root);
        set(&mut config.state, &self.state);
        set(&mut config.cri_socket, &self.cri_socket);
        set(&mut config.console_socket, &self.console_socket);
        set(&mut config.cni.conf_dir, &self.cni_conf_dir);
        if !self.cni_bin_dir.is_empty() {
            config.cni.bin_dirs.clone_from(&self.cni_bin_dir);
        }
        if let Some(address) = &self.metrics_address {
            config.metrics_address.clone_from(address);
        }
        if let Some(level) = &self.log_level {
            config.log.level.clone_from(level);
        }
        if let Some(format) = self.log_format {
            config.log.format = format;
        }
        config.checked(self.config.as_deref())
    }
}
