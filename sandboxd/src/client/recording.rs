//! Recordings of sandboxd-tui: JSON lines of what the daemon sent. Only the explained checks in them are read.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;

use sandboxd_api::console::{Check, ExplainCheckResponse};
use serde::Deserialize;

use super::ClientError;

/// A line, as far as it is of interest here.
#[derive(Debug, Deserialize)]
struct Line {
    #[serde(rename = "at_ns")]
    _at_ns: i64,
    explained: Option<ExplainCheckResponse>,
    delta: Option<Delta>,
    snapshot: Option<Snapshot>,
}

#[derive(Debug, Deserialize)]
struct Delta {
    check: Option<Check>,
}

#[derive(Debug, Deserialize)]
struct Snapshot {
    #[serde(default)]
    recent_checks: Vec<Check>,
}

/// The explained check with this number, or the last one that is wanted.
pub(super) fn explained(
    path: &Path,
    seq: Option<u64>,
    wanted: impl Fn(&Check) -> bool,
) -> Result<ExplainCheckResponse, ClientError> {
    let failed = |source| ClientError::Recording { path: path.to_owned(), source };
    let mut reader = BufReader::new(File::open(path).map_err(failed)?);
    let (mut found, mut alone) = (None, None);
    let (mut text, mut number) = (String::new(), 0);
    loop {
        text.clear();
        number += 1;
        if reader.read_line(&mut text).map_err(failed)? == 0 {
            break;
        }
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        let line: Line = match serde_json::from_str(&text) {
            Ok(line) => line,
            // Cut short, as a crash leaves it.
            Err(error) if error.is_eof() && !text.ends_with('\n') => break,
            Err(source) => {
                return Err(ClientError::RecordingLine { path: path.to_owned(), line: number, source });
            }
        };
        let takes = |check: &Check| seq.map_or_else(|| wanted(check), |seq| check.seq == seq);
        if let Some(told) = line.explained
            && told.check.as_ref().is_some_and(&takes)
        {
            found = Some(told);
        }
        let seen = line.delta.and_then(|delta| delta.check);
        let recent = line.snapshot.map(|snapshot| snapshot.recent_checks).unwrap_or_default();
        if let Some(check) = recent.into_iter().chain(seen).filter(takes).last() {
            alone = Some(check);
        }
    }
    match (found, alone, seq) {
        (Some(told), ..) => Ok(told),
        // Not asked about while it was recorded: its summary is there.
        (None, Some(check), _) => Ok(ExplainCheckResponse { check: Some(check), explanation: None }),
        (None, None, Some(seq)) => Err(ClientError::NotRecorded { path: path.to_owned(), seq }),
        (None, None, None) => Err(ClientError::NoneRecorded { path: path.to_owned(), of: String::new() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn recorded(lines: &[&str]) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.concat().as_bytes()).unwrap();
        file
    }

    const LINES: [&str; 5] = [
        "# a comment\n",
        "{\"at_ns\":1,\"snapshot\":{\"recent_checks\":[{\"seq\":3,\"summary\":\"old\"}],\"pods\":[]}}\n",
        "{\"at_ns\":2,\"delta\":{\"time_ns\":2,\"check\":{\"seq\":4,\"summary\":\"new\",\"verdict\":\"DENIED\"}}}\n",
        "{\"at_ns\":3,\"explained\":{\"check\":{\"seq\":4},\"explanation\":{\"fix\":\"do it\"}}}\n",
        "{\"at_ns\":4,\"delta\":{\"time_ns\":4,\"pod_rem",
    ];

    #[test]
    fn what_was_explained_is_found_again() {
        let file = recorded(&LINES);
        let told = explained(file.path(), Some(4), |_| false).unwrap();
        assert_eq!(told.explanation.unwrap().fix, "do it");
        let last = explained(file.path(), None, |_| true).unwrap();
        assert_eq!(last.check.unwrap().seq, 4);
        let alone = explained(file.path(), Some(3), |_| false).unwrap();
        assert_eq!((alone.check.unwrap().summary.as_str(), alone.explanation), ("old", None));
        assert!(matches!(
            explained(file.path(), Some(9), |_| true),
            Err(ClientError::NotRecorded { seq: 9, .. })
        ));
    }

    #[test]
    fn what_is_no_recording_is_named_with_its_line() {
        let file = recorded(&["{\"at_ns\":1,\"delta\":{}}\n", "hello\n"]);
        let error = explained(file.path(), Some(1), |_| true).unwrap_err();
        assert!(error.to_string().starts_with("line 2 of "), "{error}");
    }
}
