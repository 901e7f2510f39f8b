//! `sandboxd doctor`: what this node can do, check by check, each with a verdict, a reason and a remedy.
//!
//! Features are probed by using them, never derived from versions. Probes leave nothing behind. The
//! console asks the same checks.

mod apparmor;
mod cgroups;
mod cni;
mod console;
mod kernel;
mod namespaces;
mod observer;
mod places;
mod privileges;
mod probe;
mod report;

use serde::Serialize;

use crate::config::{self, Config};
use crate::observer::Observer;

pub use observer::counts;
pub use privileges::may_make_pods;
pub use report::{to_json, to_text};

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Ok,
    /// Pods run, with less.
    Warn,
    /// Pods with a user namespace, or all, do not run.
    Fail,
}

/// One finished check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    pub verdict: Verdict,
    /// What was seen.
    pub reason: String,
    /// What to do; empty when there is nothing to do.
    pub remedy: String,
}

impl Check {
    fn ok(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, reason: reason.into(), remedy: String::new() }
    }

    pub(crate) fn warn(name: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, reason: reason.into(), remedy: remedy.into() }
    }

    fn fail(name: &'static str, reason: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, reason: reason.into(), remedy: remedy.into() }
    }
}

/// Runs every check. Blocks for some milliseconds: not for an async task. `observer`: the daemon's own,
/// where this runs in it; otherwise the program is loaded once to see what loads.
#[must_use]
pub fn examine(config: &Config, observer: Option<&Observer>) -> Vec<Check> {
    let mut checks = vec![configuration(config)];
    checks.extend(privileges::checks());
    checks.extend(kernel::checks(config));
    checks.push(apparmor::check(observer.is_some()));
    checks.extend(cgroups::checks(config));
    checks.extend(cni::checks(config));
    checks.extend(places::checks(config));
    checks.push(console::check(config));
    checks.push(observer::check(config, observer));
    checks.extend(observer.and_then(|observer| counts(&(&observer.status()).into())));
    checks.push(namespaces::check(config, observer));
    checks
}

fn configuration(config: &Config) -> Check {
    let problems = config::check(config);
    if problems.is_empty() {
        return Check::ok("config", "every value can work");
    }
    let reason = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    Check::fail("config", reason, "correct the configuration; `sandboxd config default` prints every key")
}

/// A file of one number.
fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
