//! How a session ended, in the words of the protocol's version.

use serde::Serialize;

/// How the error channel speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Up to v3: nothing for success, a text otherwise.
    Text,
    /// From v4: a `metav1.Status` in JSON.
    Json,
}

/// A `metav1.Status`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    metadata: Empty,
    status: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<Details>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
}

#[derive(Debug, Serialize)]
struct Empty {}

#[derive(Debug, Serialize)]
struct Details {
    causes: [Cause; 1],
}

#[derive(Debug, Serialize)]
struct Cause {
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    message: String,
}

impl Status {
    pub(super) fn success() -> Self {
        let message = String::new();
        Self { metadata: Empty {}, status: "Success", message, reason: None, details: None, code: None }
    }

    pub(super) fn exit_code(code: i32, command: &[String]) -> Self {
        let command = command.join(" ");
        let message = format!(
            "command terminated with non-zero exit code: error executing command [{command}], exit code {code}"
        );
        let cause = Cause { reason: Some("ExitCode"), message: code.to_string() };
        Self::failure("NonZeroExitCode", message, cause, None)
    }

    pub(super) fn internal(why: &str) -> Self {
        let cause = Cause { reason: None, message: why.to_owned() };
        Self::failure("InternalError", format!("Internal error occurred: {why}"), cause, Some(500))
    }

    fn failure(reason: &'static str, message: String, cause: Cause, code: Option<u16>) -> Self {
        let details = Some(Details { causes: [cause] });
        Self { metadata: Empty {}, status: "Failure", message, reason: Some(reason), details, code }
    }

    pub(super) fn text(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Text => self.message.clone().into_bytes(),
            // A struct of strings and numbers is always JSON.
            Format::Json => serde_json::to_vec(self).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(status: &Status) -> String {
        String::from_utf8(status.text(Format::Json)).unwrap()
    }

    #[test]
    fn success_is_silent_before_v4() {
        assert_eq!(json(&Status::success()), r#"{"metadata":{},"status":"Success"}"#);
        assert!(Status::success().text(Format::Text).is_empty());
    }

    #[test]
    fn an_exit_code_is_a_cause() {
        let status = Status::exit_code(3, &["sh".into(), "-c".into(), "exit 3".into()]);
        let message = "command terminated with non-zero exit code: error executing command [sh -c exit 3], \
                       exit code 3";
        let expected = format!(
            r#"{{"metadata":{{}},"status":"Failure","message":"{message}","reason":"NonZeroExitCode","details":{{"causes":[{{"reason":"ExitCode","message":"3"}}]}}}}"#
        );
        assert_eq!(json(&status), expected);
        assert_eq!(status.text(Format::Text), message.as_bytes());
    }

    #[test]
    fn an_error_is_internal() {
        let json = json(&Status::internal("no such file"));
        assert!(json.contains(r#""message":"Internal error occurred: no such file""#), "{json}");
        assert!(json.ends_with(r#""details":{"causes":[{"message":"no such file"}]},"code":500}"#), "{json}");
    }
}
