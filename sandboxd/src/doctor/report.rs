//! The checks as a table and as JSON.

use std::fmt::Write as _;

use super::{Check, Verdict};

/// One paragraph a check: verdict and name, the reason, the remedy under it.
#[must_use]
pub fn to_text(checks: &[Check]) -> String {
    let width = checks.iter().map(|c| c.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok  ",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{verdict}  {:width$}  {}", check.name, check.reason);
        if !check.remedy.is_empty() {
            let _ = writeln!(text, "      {:width$}  -> {}", "", check.remedy);
        }
    }
    let count = |verdict| checks.iter().filter(|c| c.verdict == verdict).count();
    let (warn, fail) = (count(Verdict::Warn), count(Verdict::Fail));
    let _ = writeln!(text, "{} checks, {warn} warnings, {fail} failures", checks.len());
    text
}

/// An array of objects with `name`, `verdict`, `reason`, `remedy`.
///
/// # Errors
/// None in practice: strings and an enum always serialise.
pub fn to_json(checks: &[Check]) -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(checks).map(|json| json + "\n")
}
