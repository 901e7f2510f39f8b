//! Why the pod's network could not be set up, checked or torn down.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::pod::model::PodId;

use super::exec::Verb;

/// An error of the network room. Plugins speak for themselves: see [`PluginReport`].
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no CNI network is ready: {message}")]
    NotReady { message: String },
    #[error("pod id {id:?} is no id: expected 1 to 64 lower-case letters and digits")]
    PodId { id: String },
    #[error("{key} {value:?} cannot be handed to CNI plugins: ';' separates CNI_ARGS; rename the pod")]
    CniArg { key: &'static str, value: String },
    #[error(
        "host ports ({ports}) need a plugin with the capability \"portMappings\", and none of network \
         {network:?} ({config}) declares it: add the portmap plugin to its list, or drop the ports"
    )]
    PortMappings { ports: String, network: String, config: PathBuf },
    #[error(
        "annotation {annotation} needs a plugin with the capability \"bandwidth\", and none of network \
         {network:?} ({config}) declares it: add the bandwidth plugin to its list, or drop the annotation"
    )]
    Bandwidth { annotation: &'static str, network: String, config: PathBuf },
    #[error("annotation {annotation} has the value {value:?}: expected a quantity from 1k to 1P bit/s")]
    Quantity { annotation: &'static str, value: String },
    #[error("CNI plugin {plugin:?} is not in {dirs}: install it, or name its directory as a CNI bin dir")]
    PluginMissing { plugin: String, dirs: String },
    #[error("starting CNI plugin {path} for {verb}")]
    Spawn {
        path: PathBuf,
        verb: Verb,
        #[source]
        source: std::io::Error,
    },
    #[error("CNI plugin {plugin} failed on {verb}: {report}")]
    Plugin { plugin: String, verb: Verb, report: Box<PluginReport> },
    #[error(
        "CNI plugin {plugin} had not finished {verb} when the {} ms for the whole chain were over; \
         its process group was killed{}", .allowed.as_millis(), said(.stderr)
    )]
    Timeout { plugin: String, verb: Verb, allowed: Duration, stderr: String },
    #[error("CNI plugin {plugin} wrote more than {limit} bytes to stdout on {verb} and was killed")]
    TooMuchOutput { plugin: String, verb: Verb, limit: usize },
    #[error("CNI plugin {plugin} answered {verb} with what is no CNI result: {excerpt:?}")]
    BadResult {
        plugin: String,
        verb: Verb,
        excerpt: String,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "CNI plugin {plugin} answered with a result of CNI version {version:?}: supported are {}",
        super::version::CniVersion::SUPPORTED
    )]
    ResultVersion { plugin: String, version: String },
    #[error("the result of network {network:?} has no address on {ifname}: the chain needs an IPAM plugin")]
    NoAddress { network: String, ifname: &'static str },
    #[error("building the request for CNI plugin {plugin}")]
    Request {
        plugin: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("pod {pod} has no finished CNI ADD to check")]
    NotAttached { pod: PodId },
    #[error("lease {path} is not readable as one")]
    Lease {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("{action} in the pod's network namespace")]
    Loopback {
        action: &'static str,
        #[source]
        source: std::io::Error,
    },
    #[error("{path} is larger than {limit} bytes: not handed to pods as resolv.conf")]
    ResolvConfSize { path: PathBuf, limit: u64 },
    #[error("the task of the {what} ended without an answer")]
    TaskLost { what: &'static str },
}

/// How many bytes of a plugin's words go into an error: gRPC carries the text in a header, and common
/// clients refuse headers of more than 8 KiB.
const WORDS: usize = 2048;

/// What a failed plugin said: its error object (CNI specification, "Errors"), else what it printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginReport {
    /// "exit status 1", "signal 9".
    pub exit: String,
    /// 1–99 are the specification's, from 100 the plugin's own.
    pub code: Option<u64>,
    pub msg: String,
    pub details: String,
    pub stderr: String,
}

impl fmt::Display for PluginReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.msg.is_empty() {
            write!(f, "{} without an error message", self.exit)?;
        } else {
            f.write_str(excerpt(&self.msg, WORDS))?;
        }
        if !self.details.is_empty() {
            write!(f, "; {}", excerpt(&self.details, WORDS / 2))?;
        }
        if let Some(code) = self.code {
            write!(f, " (code {code}{})", well_known(code))?;
        }
        f.write_str(&said(&self.stderr))
    }
}

/// The specification's names for error codes.
fn well_known(code: u64) -> &'static str {
    match code {
        1 => ", incompatible CNI version",
        2 => ", unsupported field in the network configuration",
        3 => ", container unknown",
        4 => ", invalid environment variable",
        5 => ", I/O failure",
        6 => ", content not decodable",
        7 => ", invalid network configuration",
        11 => ", try again later",
        50 => ", plugin not available",
        51 => ", plugin not available, running pods may have limited connectivity",
        _ => "",
    }
}

fn said(stderr: &str) -> String {
    let text = stderr.trim();
    if text.is_empty() { String::new() } else { format!("; stderr: {}", excerpt(text, WORDS / 2)) }
}

/// The head of a text, cut at a character boundary.
pub(super) fn excerpt(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugin_words_come_first_and_the_text_stays_bounded() {
        let report = PluginReport {
            exit: "exit status 1".into(),
            code: Some(7),
            msg: "é".repeat(4000),
            details: "x".repeat(4000),
            stderr: "y".repeat(4000),
        };
        let text = report.to_string();
        assert!(text.starts_with("éé"));
        assert!(text.contains("(code 7, invalid network configuration)"), "{text}");
        assert!(text.len() < 4400, "{}", text.len());
    }
}
