//! What a runtime said when it failed.
//!
//! The shim sends what was logged as it is: a line of its own words, then lines of JSON.

use serde::Deserialize;

use crate::runtime::RuntimeError;

/// Longest message that is passed on, in characters.
const MESSAGE: usize = 2048;

#[derive(Debug, Deserialize)]
struct Entry {
    #[serde(default)]
    level: String,
    #[serde(default)]
    msg: String,
}

/// The error in the daemon's words.
pub fn told(error: RuntimeError, runtime: &str) -> RuntimeError {
    let RuntimeError::Command { message } = error else { return error };
    let message = said(&message);
    // Both name a command that cannot be executed; the words are those kubelet shows.
    match message.find("exec: \"") {
        Some(at) => RuntimeError::Command { message: message.get(at..).unwrap_or_default().to_owned() },
        None if message.contains("executable file `") => RuntimeError::Command { message },
        None => RuntimeError::Oci { runtime: runtime.to_owned(), message },
    }
}

/// The last error that was logged; without one the shim's words.
fn said(text: &str) -> String {
    let (first, log) = text.split_once('\n').unwrap_or((text, ""));
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Entry>(line).ok());
    let mut errors = entries.filter(|entry| matches!(entry.level.as_str(), "error" | "fatal"));
    let last = errors.rfind(|entry| !entry.msg.is_empty()).map(|entry| entry.msg);
    let message = last.unwrap_or_else(|| {
        let rest = log.lines().last().unwrap_or_default();
        if rest.is_empty() { first.to_owned() } else { format!("{first}: {rest}") }
    });
    message.chars().take(MESSAGE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> RuntimeError {
        told(RuntimeError::Command { message: text.to_owned() }, "runc")
    }

    #[test]
    fn the_last_error_counts() {
        let text = "/usr/bin/runc create: exit status: 1\n{\"level\":\"warning\",\"msg\":\"w\"}\n\
                    {\"level\":\"error\",\"msg\":\"no such thing\",\"time\":\"t\"}\n";
        assert_eq!(words(text).to_string(), "runc: no such thing");
    }

    #[test]
    fn a_command_that_is_missing_is_told_apart() {
        let text = "x\n{\"level\":\"error\",\"msg\":\"runc create failed: unable to start container process: exec: \
                    \\\"nope\\\": executable file not found in $PATH\"}";
        let error = words(text);
        assert!(matches!(&error, RuntimeError::Command { .. }), "{error:?}");
        assert_eq!(error.to_string(), "exec: \"nope\": executable file not found in $PATH");
    }

    #[test]
    fn who_logs_nothing_has_the_shims_words() {
        assert_eq!(words("crun create: exit status: 1\n").to_string(), "runc: crun create: exit status: 1");
        assert_eq!(words("a\nno JSON").to_string(), "runc: a: no JSON");
    }
}
