//! The daemon's settings: one struct, every default documented in `default.toml`.
//!
//! ```text
//! file ──parse──▶ Config ──Overrides::apply──▶ Config ──check──▶ [Problem] empty: the daemon may build
//! ```
//! Parsing refuses unknown keys and wrong types, with the line; [`check`] refuses values that cannot work,
//! with the key, the value and what to do.

mod check;
mod console;
mod duration;
mod handlers;
mod image;
mod streaming;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::observer::{Bounds, ObserverSettings, Rung, SyscallResults};

pub use check::{Problem, check};
pub use console::Console;
pub use handlers::{Handler, NATIVE, NETWORK_FIRST, RuntimeKind};
pub use image::Image;
pub use streaming::{Streaming, TlsVersion};

/// Where the configuration is looked for when no `--config` is given.
pub const DEFAULT_PATH: &str = "/etc/sandboxd/config.toml";

/// The default configuration with its comments: what `sandboxd config default` prints.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// All settings. `default.toml` says what each is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    pub root: PathBuf,
    pub state: PathBuf,
    pub cri_socket: PathBuf,
    pub console_socket: PathBuf,
    pub socket_group: String,
    pub default_handler: String,
    /// An address and a port, or empty ([`Config::metrics`]).
    pub metrics_address: String,
    pub console: Console,
    pub cni: Cni,
    pub cgroup: Cgroup,
    pub log: Log,
    pub observer: Observer,
    pub pod: Pod,
    pub image: Image,
    pub streaming: Streaming,
    pub tracing: Tracing,
    /// As written; [`Config::handlers`] adds those that are always there.
    #[serde(rename = "handlers")]
    pub configured_handlers: BTreeMap<String, Handler>,
}

/// `[cni]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cni {
    pub conf_dir: PathBuf,
    pub bin_dirs: Vec<PathBuf>,
    #[serde(with = "duration")]
    pub add_timeout: Duration,
    #[serde(with = "duration")]
    pub del_timeout: Duration,
}

/// `[cgroup]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cgroup {
    pub driver: CgroupDriver,
}

/// Who writes the cgroup tree.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// systemd where it runs the cgroups (`/run/systemd/system` is there), else cgroupfs.
    #[default]
    Auto,
    Cgroupfs,
    Systemd,
}

/// `[log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    pub level: String,
    pub format: LogFormat,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `[observer]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Observer {
    pub enabled: bool,
    pub history: usize,
    pub history_mib: usize,
    #[serde(with = "duration")]
    pub history_age: Duration,
    pub rungs: Vec<Rung>,
    pub all_capabilities: bool,
    pub syscall_results: SyscallResults,
}

/// `[pod]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pod {
    pub unprivileged_ports: bool,
    pub unprivileged_icmp: bool,
    /// Empty: beside the daemon's binary, else on the PATH ([`Config::shim`]).
    pub shim_path: PathBuf,
}

/// `[tracing]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tracing {
    /// Empty: nowhere.
    pub otlp_endpoint: String,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            root: "/var/lib/sandboxd".into(),
            state: "/run/sandboxd".into(),
            cri_socket: "/run/sandboxd/cri.sock".into(),
            console_socket: "/run/sandboxd/console.sock".into(),
            socket_group: String::new(),
            default_handler: NATIVE.to_owned(),
            metrics_address: String::new(),
            console: Console::default(),
            cni: Cni::default(),
            cgroup: Cgroup::default(),
            log: Log::default(),
            observer: Observer::default(),
            pod: Pod::default(),
            image: Image::default(),
            streaming: Streaming::default(),
            tracing: Tracing::default(),
            configured_handlers: BTreeMap::new(),
        }
    }
}

impl Default for Cni {
    fn default() -> Self {
        Self {
            conf_dir: "/etc/cni/net.d".into(),
            bin_dirs: vec!["/opt/cni/bin".into(), "/usr/lib/cni".into()],
            add_timeout: Duration::from_secs(120),
            del_timeout: Duration::from_secs(60),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { level: "info".to_owned(), format: LogFormat::Text }
    }
}

impl Default for Observer {
    fn default() -> Self {
        Self {
            enabled: true,
            history: 4096,
            history_mib: 8,
            history_age: Duration::from_hours(24),
            rungs: Rung::LADDER.to_vec(),
            all_capabilities: false,
            syscall_results: SyscallResults::Auto,
        }
    }
}

impl Observer {
    /// As the observer takes them.
    #[must_use]
    pub fn settings(&self) -> ObserverSettings {
        let bytes = self.history_mib.saturating_mul(1 << 20);
        let history = Bounds { checks: self.history, bytes, age: self.history_age };
        ObserverSettings {
            enabled: self.enabled,
            history,
            rungs: self.rungs.clone(),
            all_capabilities: self.all_capabilities,
            results: self.syscall_results,
        }
    }
}

impl Default for Pod {
    fn default() -> Self {
        Self { unprivileged_ports: true, unprivileged_icmp: true, shim_path: PathBuf::new() }
    }
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error(
        "reading the configuration {path}: name another file with --config, or leave --config out for the defaults"
    )]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the configuration {path} is not valid; `sandboxd config default` prints every key")]
    Parse {
        path: PathBuf,
        #[source]
        source: toml::de::Error,
    },
    #[error("{origin}: {}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Values { origin: String, problems: Vec<Problem> },
}

impl Config {
    /// Parses TOML. Values are not checked yet: see [`check`].
    ///
    /// # Errors
    /// On anything that is not TOML, an unknown key or a value of the wrong type, with its line.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Reads a file. With `None` the default path is read; where nothing is there, the defaults hold.
    ///
    /// # Errors
    /// When the file cannot be read (an explicit one must exist) or parsed.
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        let file = path.unwrap_or(Path::new(DEFAULT_PATH));
        match std::fs::read_to_string(file) {
            Ok(text) => {
                Self::parse(&text).map_err(|source| ConfigError::Parse { path: file.to_owned(), source })
            }
            Err(e) if path.is_none() && e.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(source) => Err(ConfigError::Read { path: file.to_owned(), source }),
        }
    }

    /// The configuration, or every problem in it as one error.
    ///
    /// # Errors
    /// [`ConfigError::Values`] when [`check`] finds something.
    pub fn checked(self, path: Option<&Path>) -> Result<Self, ConfigError> {
        let problems = check(&self);
        if problems.is_empty() {
            return Ok(self);
        }
        let origin = path.unwrap_or(Path::new(DEFAULT_PATH)).display().to_string();
        Err(ConfigError::Values { origin, problems })
    }

    /// Where metrics are served; `None`: nowhere.
    #[must_use]
    pub fn metrics(&self) -> Option<SocketAddr> {
        self.metrics_address.parse().ok()
    }

    /// The shim binary: as configured, else beside the daemon's own, else on the PATH.
    #[must_use]
    pub fn shim(&self) -> Option<PathBuf> {
        if !self.pod.shim_path.as_os_str().is_empty() {
            return Some(self.pod.shim_path.clone());
        }
        let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("sandboxd-shim"));
        beside.filter(|p| p.is_file()).or_else(|| handlers::find_on_path("sandboxd-shim"))
    }
}

#[cfg(test)]
mod tests;
