//! Recordings: what a daemon sent, as JSON lines, each with the time it came in.
//!
//! ```text
//! {"at_ns":1790000000000000000,"snapshot":{…}}
//! {"at_ns":1790000000100000000,"delta":{"time_ns":…,"check":{…}}}
//! {"at_ns":1790000000200000000,"explained":{"check":{…},"explanation":{…}}}
//! {"at_ns":1790000000300000000,"answered":{"namespaces":{…}}}
//! {"at_ns":1790000000400000000,"log":{"container_id":…,"lines":[{"time_ns":…,"text":…}]}}
//! ```
//!
//! With several nodes each line has the name of its own: `"node":"worker-1"`. The field names are those of
//! `console_v1.proto`. `--json` prints the same lines. A line that begins with `#` is a comment.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sandboxd_api::console::{ExplainCheckResponse, LogLine, WatchResponse, delta, watch_response};
use serde::{Deserialize, Serialize};

use crate::feed::query::Answer;

/// One line.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// When it came in, in nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// Whose it is, where several nodes are recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    #[serde(flatten)]
    pub what: What,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(clippy::large_enum_variant, reason = "one is alive at a time")]
pub enum What {
    Snapshot(sandboxd_api::console::Snapshot),
    Delta(Change),
    Explained(ExplainCheckResponse),
    Answered(Answer),
    Log(LogPart),
}

/// More of a log that was followed, or its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogPart {
    pub container_id: String,
    /// The first of what was read from the log's tail: what was read of it before comes again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub anew: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lines: Vec<LogText>,
    /// Why it ended; empty where it was at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<String>,
}

/// A `LogLine` as text: bytes would be numbers in JSON. What is no UTF-8 is replaced, as the console shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogText {
    pub time_ns: i64,
    #[serde(default, skip_serializing_if = "is_false")]
    pub stderr: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    pub partial: bool,
    pub text: String,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(value: &bool) -> bool {
    !value
}

impl From<&LogLine> for LogText {
    fn from(line: &LogLine) -> Self {
        let LogLine { time_ns, stderr, partial, text } = line;
        let text = String::from_utf8_lossy(text).into_owned();
        Self { time_ns: *time_ns, stderr: *stderr, partial: *partial, text }
    }
}

impl From<LogText> for LogLine {
    fn from(line: LogText) -> Self {
        let LogText { time_ns, stderr, partial, text } = line;
        Self { time_ns, stderr, partial, text: text.into_bytes() }
    }
}

/// A `Delta` with what changed beside its time, as the protocol's own JSON form has it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Change {
    pub time_ns: i64,
    #[serde(flatten)]
    pub change: delta::Change,
}

impl What {
    /// `None` for a message this build does not know.
    pub fn from_message(message: WatchResponse) -> Option<Self> {
        Some(match message.message? {
            watch_response::Message::Snapshot(snapshot) => Self::Snapshot(snapshot),
            watch_response::Message::Delta(delta) => {
                Self::Delta(Change { time_ns: delta.time_ns, change: delta.change? })
            }
        })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(
        "cannot make the recording {path:?}: name a file that does not exist yet, in a writable directory"
    )]
    Create { path: PathBuf, source: io::Error },
    #[error("cannot write to the recording {path:?}")]
    Write { path: PathBuf, source: io::Error },
    #[error("cannot read the recording {path:?}")]
    Read { path: PathBuf, source: io::Error },
    #[error("line {line} of {path:?} is not a line of a recording")]
    Line { path: PathBuf, line: usize, source: serde_json::Error },
    #[error("the recording {path:?} holds no snapshot: nothing to show")]
    Empty { path: PathBuf },
}

/// Writes a recording. Each line is one write, so that a recording cut short is whole up to its end.
#[derive(Debug)]
pub struct Recorder {
    file: File,
    path: PathBuf,
}

impl Recorder {
    /// Makes the file, for its owner only; an existing one is never overwritten.
    pub fn create(path: &Path) -> Result<Self, RecordError> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .map_err(|source| RecordError::Create { path: path.to_owned(), source })?;
        Ok(Self { file, path: path.to_owned() })
    }

    pub fn write(&mut self, entry: &Entry) -> Result<(), RecordError> {
        self.file
            .write_all(line(entry).as_bytes())
            .map_err(|source| RecordError::Write { path: self.path.clone(), source })
    }
}

/// A recording as one node's feed writes it.
#[derive(Debug, Clone)]
pub struct Recording {
    recorder: Arc<Mutex<Recorder>>,
    /// The node's name, where several are recorded.
    node: Option<String>,
}

impl Recording {
    pub fn new(recorder: &Arc<Mutex<Recorder>>, node: Option<String>) -> Self {
        Self { recorder: Arc::clone(recorder), node }
    }

    pub fn write(&self, at_ns: i64, what: What) -> Result<(), RecordError> {
        let entry = Entry { at_ns, node: self.node.clone(), what };
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner).write(&entry)
    }
}

/// The entries of each node, in the order in which the nodes appear; one without a name is the node of a recording
/// of one.
pub fn by_node(entries: Vec<Entry>) -> Vec<(Option<String>, Vec<Entry>)> {
    let mut nodes: Vec<(Option<String>, Vec<Entry>)> = Vec::new();
    for entry in entries {
        match nodes.iter_mut().find(|(name, _)| *name == entry.node) {
            Some((_, of_it)) => of_it.push(entry),
            None => nodes.push((entry.node.clone(), vec![entry])),
        }
    }
    nodes
}

/// An entry as its line, with its newline.
pub fn line(entry: &Entry) -> String {
    let json = serde_json::to_string(entry).expect("messages have string keys and finite numbers");
    crate::text::escape_json(&json) + "\n"
}

/// Reads a whole recording. A last line cut short, as a crash leaves it, is left out.
pub fn read(path: &Path) -> Result<Vec<Entry>, RecordError> {
    let failed = |source| RecordError::Read { path: path.to_owned(), source };
    let lines: Vec<String> = BufReader::new(File::open(path).map_err(failed)?)
        .lines()
        .collect::<Result<_, _>>()
        .map_err(failed)?;
    let mut entries = Vec::with_capacity(lines.len());
    for (index, text) in lines.iter().enumerate() {
        if text.trim().is_empty() || text.starts_with('#') {
            continue;
        }
        match serde_json::from_str(text) {
            Ok(entry) => entries.push(entry),
            Err(source) if source.is_eof() && index + 1 == lines.len() => {}
            Err(source) => {
                return Err(RecordError::Line { path: path.to_owned(), line: index + 1, source });
            }
        }
    }
    if !entries.iter().any(|entry: &Entry| matches!(entry.what, What::Snapshot(_))) {
        return Err(RecordError::Empty { path: path.to_owned() });
    }
    Ok(entries)
}
