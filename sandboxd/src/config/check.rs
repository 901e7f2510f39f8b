//! Values that parse and still cannot work.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use super::{Config, Console, Handler, NETWORK_FIRST, RuntimeKind, Streaming};
use crate::pod::model::FlowKind;

/// Longest path a unix socket can have: `sun_path` of unix(7) without its NUL.
const SOCKET_PATH_MAX: usize = 107;
const TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);
const PULL_TIMEOUT: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);
const HISTORY_MAX: usize = 1 << 20;
const HISTORY_MIB: std::ops::RangeInclusive<usize> = 1..=1024;
const HISTORY_AGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);
const IDLE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(7 * 24 * 60 * 60);
const CONNECTIONS: std::ops::RangeInclusive<usize> = 1..=65_536;

/// One value that cannot work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As in the file: `cni.add_timeout`.
    pub key: String,
    pub value: String,
    pub wrong: Wrong,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}: {}", self.key, self.value, self.wrong)
    }
}

/// What is wrong with a value, and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    #[error("not an absolute path: start it with /")]
    NotAbsolute,
    #[error("{len} bytes, a unix socket's path has at most 107: move the socket to a shorter path")]
    SocketPathLength { len: usize },
    #[error("the same as {other}: give each a place of its own")]
    SameAs { other: &'static str },
    #[error("no plugin directory: name at least one, such as /opt/cni/bin")]
    NoBinDirs,
    #[error("not between 1s and 10m: write for example \"2m\"")]
    Timeout,
    #[error("not a log filter ({reason}): write \"info\", or \"info,sandboxd::network=debug\"")]
    LogFilter { reason: String },
    #[error("more than 1048576 checks: lower it")]
    History,
    #[error("not http://HOST:PORT: write for example \"http://127.0.0.1:4317\", or leave the key empty")]
    OtlpEndpoint,
    #[error("not between 1s and 720h: write for example \"24h\"")]
    HistoryAge,
    #[error("no such group on this machine: create it, or leave the key empty")]
    NoGroup,
    #[error("no handler of that name: configured are {known}")]
    NoHandler { known: String },
    #[error("not a name a RuntimeClass can give: lower-case letters, digits and inner '-', at most 63")]
    HandlerName,
    #[error("runtime = \"oci\" needs the path of the runtime's binary: add path = \"/usr/sbin/runc\"")]
    OciWithoutPath,
    #[error("runtime = \"native\" runs no other binary: remove the key, or write runtime = \"oci\"")]
    NativeWithPath,
    #[error("this handler always has flow = \"network-first\" and runtime = \"native\": choose another name")]
    NetworkFirstChanged,
    #[error("not an address and a port: write for example \"127.0.0.1:9465\", or leave the key empty")]
    MetricsAddress,
    #[error("not between 1 and {most}")]
    Count { most: u64 },
    #[error("not between 1s and 24h: write for example \"1h\"")]
    PullTimeout,
    #[error("{0}")]
    Reference(sandboxd_image::BadReference),
    #[error("{0}")]
    Policy(String),
    #[error("no such file: install it, or correct the path")]
    NoFile,
    #[error("needs {other} beside it: set both, or neither")]
    Half { other: &'static str },
    #[error("TLS does not work with these files: {reason}")]
    Tls { reason: String },
    #[error("others could listen in and type along: set tls_cert and tls_key, or use 127.0.0.1")]
    PlainAddress,
    #[error(
        "needs {others} beside it: consoles of other machines are served over TLS, by their certificates"
    )]
    ConsoleTls { others: String },
    #[error("not used without console.address: set it, or leave the key empty")]
    NoAddress,
    #[error("not an address and a port: write for example \"0.0.0.0:9466\", or leave the key empty")]
    Address,
    #[error("not between 1s and 7d: write for example \"4h\"")]
    IdleTimeout,
    #[error("not between 1 and 65536: write for example 1000")]
    Connections,
}

/// Everything wrong with a configuration; empty when the daemon may be built from it.
#[must_use]
pub fn check(config: &Config) -> Vec<Problem> {
    let mut found = Checker::default();
    found.paths(config);
    found.cni(config);
    found.others(config);
    found.console(config);
    found.image(&config.image);
    found.streaming(&config.streaming);
    let handlers = config.handlers();
    for (name, handler) in &config.configured_handlers {
        found.handler(name, handler);
    }
    if !handlers.contains_key(&config.default_handler) {
        let known = handlers.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        found.add("default_handler", &config.default_handler, Wrong::NoHandler { known });
    }
    found.0
}

#[derive(Default)]
struct Checker(Vec<Problem>);

impl Checker {
    fn add(&mut self, key: impl Into<String>, value: impl fmt::Debug, wrong: Wrong) {
        self.0.push(Problem { key: key.into(), value: format!("{value:?}"), wrong });
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.add(key, path, Wrong::NotAbsolute);
        }
    }

    fn paths(&mut self, c: &Config) {
        self.absolute("root", &c.root);
        self.absolute("state", &c.state);
        for (key, socket) in [("cri_socket", &c.cri_socket), ("console_socket", &c.console_socket)] {
            self.absolute(key, socket);
            let len = socket.as_os_str().len();
            if len > SOCKET_PATH_MAX {
                self.add(key, socket, Wrong::SocketPathLength { len });
            }
        }
        if c.root == c.state {
            self.add("state", &c.state, Wrong::SameAs { other: "root" });
        }
        if c.cri_socket == c.console_socket {
            self.add("console_socket", &c.console_socket, Wrong::SameAs { other: "cri_socket" });
        }
    }

    fn cni(&mut self, c: &Config) {
        self.absolute("cni.conf_dir", &c.cni.conf_dir);
        if c.cni.bin_dirs.is_empty() {
            self.add("cni.bin_dirs", &c.cni.bin_dirs, Wrong::NoBinDirs);
        }
        for dir in &c.cni.bin_dirs {
            self.absolute("cni.bin_dirs", dir);
        }
        for (key, value) in [("cni.add_timeout", c.cni.add_timeout), ("cni.del_timeout", c.cni.del_timeout)] {
            if !TIMEOUT.contains(&value) {
                self.add(key, value, Wrong::Timeout);
            }
        }
    }

    fn others(&mut self, c: &Config) {
        if let Err(e) = c.log.level.parse::<tracing_subscriber::filter::Targets>() {
            self.add("log.level", &c.log.level, Wrong::LogFilter { reason: e.to_string() });
        } else if let Some(word) = mistyped_level(&c.log.level) {
            let reason = format!("{word:?} is no level, and as a module it would silence all others");
            self.add("log.level", &c.log.level, Wrong::LogFilter { reason });
        }
        if !c.metrics_address.is_empty() && c.metrics().is_none() {
            self.add("metrics_address", &c.metrics_address, Wrong::MetricsAddress);
        }
        let endpoint = &c.tracing.otlp_endpoint;
        if !endpoint.is_empty() && !is_plain_http(endpoint) {
            self.add("tracing.otlp_endpoint", endpoint, Wrong::OtlpEndpoint);
        }
        if c.observer.history > HISTORY_MAX {
            self.add("observer.history", c.observer.history, Wrong::History);
        }
        if !HISTORY_MIB.contains(&c.observer.history_mib) {
            self.add("observer.history_mib", c.observer.history_mib, Wrong::Count { most: 1024 });
        }
        if !HISTORY_AGE.contains(&c.observer.history_age) {
            self.add("observer.history_age", c.observer.history_age, Wrong::HistoryAge);
        }
        self.group("socket_group", &c.socket_group);
        let shim = &c.pod.shim_path;
        if !shim.as_os_str().is_empty() {
            self.absolute("pod.shim_path", shim);
            if shim.is_absolute() && !shim.is_file() {
                self.add("pod.shim_path", shim, Wrong::NoFile);
            }
        }
    }

    fn group(&mut self, key: &str, name: &str) {
        if !name.is_empty() && !matches!(nix::unistd::Group::from_name(name), Ok(Some(_))) {
            self.add(key, name, Wrong::NoGroup);
        }
    }

    fn console(&mut self, c: &Config) {
        let c: &Console = &c.console;
        self.group("console.socket_group", &c.socket_group);
        self.group("console.operator_group", &c.operator_group);
        let files = [
            ("console.tls_cert", &c.tls_cert),
            ("console.tls_key", &c.tls_key),
            ("console.client_ca", &c.client_ca),
        ];
        let (given, missing): (Vec<_>, Vec<_>) =
            files.into_iter().partition(|(_, path)| !path.as_os_str().is_empty());
        if c.address.is_empty() {
            for (key, path) in given {
                self.add(key, path, Wrong::NoAddress);
            }
            return;
        }
        if c.address.parse::<std::net::SocketAddr>().is_err() {
            self.add("console.address", &c.address, Wrong::Address);
        }
        if !missing.is_empty() {
            let others = missing.iter().map(|(key, _)| *key).collect::<Vec<_>>().join(", ");
            self.add("console.address", &c.address, Wrong::ConsoleTls { others });
        }
        let before = self.0.len();
        for (key, path) in given {
            self.absolute(key, path);
            if path.is_absolute() && !path.is_file() {
                self.add(key, path, Wrong::NoFile);
            }
        }
        if missing.is_empty() && self.0.len() == before {
            self.tls("console.tls_cert", &c.tls());
        }
    }

    fn tls(&mut self, key: &str, tls: &sandboxd_streaming::Tls) {
        if let Err(error) = tls.check() {
            let source = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
            let reason = format!("{error}{}", source.unwrap_or_default());
            self.add(key, &tls.cert, Wrong::Tls { reason });
        }
    }

    fn image(&mut self, c: &super::Image) {
        let counts = [
            ("image.max_parallel_downloads", c.max_parallel_downloads as u64, 64),
            ("image.max_total_downloads", c.max_total_downloads as u64, 64),
            ("image.unpackers", c.unpackers as u64, 64),
            ("image.max_layer_gib", c.max_layer_gib, 4096),
        ];
        for (key, value, most) in counts {
            if !(1..=most).contains(&value) {
                self.add(key, value, Wrong::Count { most });
            }
        }
        for (key, value) in
            [("image.connect_timeout", c.connect_timeout), ("image.progress_timeout", c.progress_timeout)]
        {
            if !TIMEOUT.contains(&value) {
                self.add(key, value, Wrong::Timeout);
            }
        }
        if !PULL_TIMEOUT.contains(&c.pull_timeout) {
            self.add("image.pull_timeout", c.pull_timeout, Wrong::PullTimeout);
        }
        for name in &c.pinned {
            if let Err(wrong) = name.parse::<sandboxd_image::Reference>() {
                self.add("image.pinned", name, Wrong::Reference(wrong));
            }
        }
        for (key, path) in [
            ("image.registry_config_dir", &c.registry_config_dir),
            ("image.signature_policy", &c.signature_policy),
        ] {
            if !path.as_os_str().is_empty() {
                self.absolute(key, path);
            }
        }
        let policy = &c.signature_policy;
        if policy.is_absolute()
            && let Err(wrong) = sandboxd_image::pull::PolicyFile::read(policy)
        {
            self.add("image.signature_policy", policy, Wrong::Policy(wrong.to_string()));
        }
    }

    fn streaming(&mut self, c: &Streaming) {
        let files = [
            ("streaming.tls_cert", &c.tls_cert),
            ("streaming.tls_key", &c.tls_key),
            ("streaming.tls_client_ca", &c.tls_client_ca),
        ];
        let before = self.0.len();
        for (key, path) in files.into_iter().filter(|(_, path)| !path.as_os_str().is_empty()) {
            self.absolute(key, path);
            if path.is_absolute() && !path.is_file() {
                self.add(key, path, Wrong::NoFile);
            }
        }
        let [cert, key, ca] = files.map(|(_, path)| !path.as_os_str().is_empty());
        match (cert, key) {
            (true, false) => self.add("streaming.tls_cert", &c.tls_cert, Wrong::Half { other: "tls_key" }),
            (false, true) => self.add("streaming.tls_key", &c.tls_key, Wrong::Half { other: "tls_cert" }),
            (false, false) if ca => {
                self.add("streaming.tls_client_ca", &c.tls_client_ca, Wrong::Half { other: "tls_cert" });
            }
            _ => {}
        }
        if let (Some(tls), true) = (c.tls(), self.0.len() == before) {
            self.tls("streaming.tls_cert", &tls);
        }
        if !c.address.ip().is_loopback() && c.tls().is_none() {
            self.add("streaming.address", c.address, Wrong::PlainAddress);
        }
        if !IDLE.contains(&c.idle_timeout) {
            self.add("streaming.idle_timeout", c.idle_timeout, Wrong::IdleTimeout);
        }
        if !TIMEOUT.contains(&c.creation_timeout) {
            self.add("streaming.creation_timeout", c.creation_timeout, Wrong::Timeout);
        }
        if !CONNECTIONS.contains(&c.max_connections) {
            self.add("streaming.max_connections", c.max_connections, Wrong::Connections);
        }
    }

    fn handler(&mut self, name: &str, handler: &Handler) {
        let key = |rest: &str| format!("handlers.{name}{rest}");
        if !is_dns_label(name) {
            self.add(key(""), name, Wrong::HandlerName);
        }
        match (handler.runtime, &handler.path) {
            (RuntimeKind::Oci, None) => self.add(key(".runtime"), "oci", Wrong::OciWithoutPath),
            (RuntimeKind::Oci, Some(path)) => {
                self.absolute(&key(".path"), path);
                if path.is_absolute() && !path.is_file() {
                    self.add(key(".path"), path, Wrong::NoFile);
                }
            }
            (RuntimeKind::Native, Some(path)) => self.add(key(".path"), path, Wrong::NativeWithPath),
            (RuntimeKind::Native, None) => {}
        }
        if name == NETWORK_FIRST
            && (handler.flow != FlowKind::NetworkFirst || handler.runtime != RuntimeKind::Native)
        {
            self.add(key(".flow"), handler.flow.name(), Wrong::NetworkFirstChanged);
        }
    }
}

/// `http://HOST:PORT`, with nothing after it.
fn is_plain_http(url: &str) -> bool {
    let Some(authority) = url.strip_prefix("http://") else { return false };
    let Some((host, port)) = authority.trim_end_matches('/').rsplit_once(':') else { return false };
    let named = !host.is_empty() && !host.contains(['/', '@', '?', '#', ' ']);
    named && port.parse::<u16>().is_ok_and(|port| port != 0)
}

/// A word alone that is neither a level nor a module of the daemon: a filter takes "warning" or "inof" for a
/// module's name, and logs nothing.
fn mistyped_level(filter: &str) -> Option<&str> {
    let level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    filter
        .split(',')
        .find(|word| !word.is_empty() && !word.contains('=') && !level(word) && !word.starts_with("sandboxd"))
}

/// RFC 1123: what Kubernetes lets a RuntimeClass's `handler` be.
fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !name.is_empty()
        && name.len() <= 63
        && name.bytes().all(inner)
        && !name.starts_with('-')
        && !name.ends_with('-')
}
