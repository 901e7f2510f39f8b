//! The environment a container asks for. Names are text; values are bytes, and nearly always text.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A variable's value: any bytes but NUL.
///
/// Text is a string in a record, as it was in those of earlier releases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum EnvValue {
    Text(String),
    /// Not UTF-8.
    Bytes(Vec<u8>),
}

impl EnvValue {
    /// What stands for it where only text can: U+FFFD for each byte that is none, as JSON written in Go has it.
    #[must_use]
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => text.into(),
            Self::Bytes(bytes) => text(bytes).into(),
        }
    }
}

/// U+FFFD for each byte that is no text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let replaced = |invalid: &[u8]| invalid.iter().map(|_| char::REPLACEMENT_CHARACTER).collect::<String>();
    bytes.utf8_chunks().flat_map(|chunk| [chunk.valid().to_owned(), replaced(chunk.invalid())]).collect()
}

impl From<Vec<u8>> for EnvValue {
    fn from(value: Vec<u8>) -> Self {
        String::from_utf8(value).map_or_else(|error| Self::Bytes(error.into_bytes()), Self::Text)
    }
}

impl From<&str> for EnvValue {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// Variables whose values are not text, by name. The environment of an OCI process has U+FFFD in them.
pub type RawEnv = BTreeMap<String, Vec<u8>>;

/// Those of a request.
#[must_use]
pub fn raw(envs: &[(String, EnvValue)]) -> RawEnv {
    let last: BTreeMap<_, _> = envs.iter().map(|(name, value)| (name, value)).collect();
    let raw = |(name, value): (&String, &EnvValue)| match value {
        EnvValue::Text(_) => None,
        EnvValue::Bytes(bytes) => Some((name.clone(), bytes.clone())),
    };
    last.into_iter().filter_map(raw).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_byte_that_is_no_text_is_one_character() {
        let text = |bytes: &[u8]| EnvValue::from(bytes.to_vec()).text().into_owned();
        assert_eq!(text(b"a\xff\xfeb"), "a\u{fffd}\u{fffd}b");
        // The first two bytes of three: Rust would make them one, Go does not.
        assert_eq!(text(b"\xe2\x82"), "\u{fffd}\u{fffd}");
        assert_eq!(text("\u{20ac}".as_bytes()), "\u{20ac}");
    }

    #[test]
    fn a_record_has_the_bytes_and_reads_those_of_earlier_releases() {
        let every: Vec<u8> = (1..=255).collect();
        let envs = vec![("B".to_owned(), EnvValue::from(every)), ("T".to_owned(), "t".into())];
        let json = serde_json::to_string(&envs).unwrap();
        assert!(json.ends_with(r#"["T","t"]]"#), "{json}");
        assert_eq!(serde_json::from_str::<Vec<(String, EnvValue)>>(&json).unwrap(), envs);
        let earlier: Vec<(String, EnvValue)> = serde_json::from_str(r#"[["A","\u0001x"]]"#).unwrap();
        assert_eq!(earlier, [("A".to_owned(), "\u{1}x".into())]);
    }

    #[test]
    fn the_last_value_of_a_name_counts() {
        let bytes = |byte: u8| EnvValue::from(vec![byte]);
        let envs = [
            ("A".to_owned(), bytes(0xff)),
            ("A".to_owned(), "text".into()),
            ("B".to_owned(), "text".into()),
            ("B".to_owned(), bytes(0xfe)),
            ("B".to_owned(), bytes(0xfd)),
        ];
        assert_eq!(raw(&envs), RawEnv::from([("B".to_owned(), vec![0xfd])]));
    }
}
