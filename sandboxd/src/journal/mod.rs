//! What is being done to which pod, on disk before it is done.
//!
//! One file a pod, `STATE/pods/ID/pod.json`, replaced by rename. The state directory is a tmpfs on a node
//! (it dies with the boot, as do the namespaces the file speaks of), so there is nothing to fsync: a
//! process killed at any byte leaves either the old file or the new one. What must outlive the boot, the
//! CNI lease, is the network room's and lives under the root directory.
//!
//! The record names the step that is *about to* happen, and the boot it happens in. After a crash
//! `pod::recover` adopts a record whose step is [`StepName::Ready`] and undoes every other one; a record
//! of another boot describes namespaces that are gone, and only its lease is given back.

mod file;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::pod::model::{Pod, PodId, StepName};

/// The layout of [`Record`]; a daemon refuses to guess at another one.
const VERSION: u32 = 1;

/// The largest record that is read back, in bytes. A pod's labels and annotations are bounded by the
/// gRPC message that brought them.
const MAX_RECORD: u64 = 32 * 1024 * 1024;

/// One pod's entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// /proc/sys/kernel/random/boot_id of the boot it was written in.
    pub boot_id: String,
    /// The step that was about to be made; `Ready` once all are.
    pub step: StepName,
    pub pod: Pod,
}

/// The pods' records under one state directory.
#[derive(Debug)]
pub struct Journal {
    pods: PathBuf,
    boot_id: String,
}

/// What a directory under `pods/` turned out to be.
#[derive(Debug)]
pub enum Found {
    Record(Box<Record>),
    /// A directory whose record is missing or unreadable: made, and then the daemon died, or damaged.
    Broken {
        id: PodId,
        why: JournalError,
    },
}

/// Why the journal could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{path} is not a pod record; it is undone as far as its name allows")]
    Malformed {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "{path} has layout {found}, this daemon writes {VERSION}: use the sandboxd that wrote it, or remove its pods"
    )]
    Version { path: PathBuf, found: u32 },
}

impl JournalError {
    /// Whether there is no record any more, as opposed to one that this daemon cannot read just now.
    fn is_damage(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, InvalidData, NotADirectory, NotFound};
        match self {
            Self::Malformed { .. } => true,
            Self::Io { source, .. } => {
                matches!(source.kind(), NotFound | NotADirectory | InvalidData | FileTooLarge)
            }
            Self::Version { .. } => false,
        }
    }
}

impl Journal {
    /// Opens (and makes) the journal under the state directory.
    ///
    /// # Errors
    /// When the directory cannot be made or the boot id not be read.
    pub fn open(state: &Path) -> Result<Self, JournalError> {
        let pods = state.join("pods");
        file::private_dir(&pods).map_err(io_error("make", &pods))?;
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let boot_id = fs::read_to_string(path).map_err(io_error("read", path))?.trim().to_owned();
        Ok(Self { pods, boot_id })
    }

    /// The boot this daemon runs in.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    /// A pod's own directory.
    #[must_use]
    pub fn dir(&self, id: &PodId) -> PathBuf {
        self.pods.join(id.as_str())
    }

    /// Makes a pod's directory: the first trace of a pod on disk.
    ///
    /// # Errors
    /// When it cannot be made, or exists (ids are random: then something is wrong).
    pub fn begin(&self, pod: &Pod) -> Result<(), JournalError> {
        let dir = self.dir(&pod.id);
        file::make_private(&dir).map_err(io_error("make", &dir))?;
        self.write(pod, StepName::Reserved)
    }

    /// Says which step comes next, before it does.
    ///
    /// # Errors
    /// When the record cannot be written; the step must not be made then.
    pub fn write(&self, pod: &Pod, step: StepName) -> Result<(), JournalError> {
        let path = self.record(&pod.id);
        let record = Record { version: VERSION, boot_id: self.boot_id.clone(), step, pod: pod.clone() };
        let bytes = serde_json::to_vec(&record)
            .map_err(|source| JournalError::Malformed { path: path.clone(), source })?;
        file::replace(&path, &bytes).map_err(io_error("write", &path))
    }

    /// Removes a pod's directory and all that is in it. Gone already is fine.
    ///
    /// # Errors
    /// When something in it cannot be removed: a pin that is still mounted, say.
    pub fn remove(&self, id: &PodId) -> Result<(), JournalError> {
        let dir = self.dir(id);
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &dir)(e)),
            _ => Ok(()),
        }
    }

    /// All pods the journal knows of, for the daemon's start.
    ///
    /// # Errors
    /// When the directory or a record in it cannot be read, or a record has another layout: what runs may
    /// be whole, and is no business of a daemon that cannot tell.
    pub fn read(&self) -> Result<Vec<Found>, JournalError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.pods).map_err(io_error("read", &self.pods))? {
            let entry = entry.map_err(io_error("read", &self.pods))?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let id = PodId::from_string(name);
            found.push(match self.read_one(&id) {
                Ok(record) => Found::Record(Box::new(record)),
                Err(why) if why.is_damage() => Found::Broken { id, why },
                Err(why) => return Err(why),
            });
        }
        Ok(found)
    }

    fn read_one(&self, id: &PodId) -> Result<Record, JournalError> {
        let path = self.record(id);
        let bytes = file::read_bounded(&path, MAX_RECORD).map_err(io_error("read", &path))?;
        let malformed = |source| JournalError::Malformed { path: path.clone(), source };
        let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(malformed)?;
        let version = value.get("version").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if version != u64::from(VERSION) {
            return Err(JournalError::Version { path, found: u32::try_from(version).unwrap_or(u32::MAX) });
        }
        serde_json::from_value(value).map_err(malformed)
    }

    fn record(&self, id: &PodId) -> PathBuf {
        self.dir(id).join("pod.json")
    }
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::test_pod;

    #[test]
    fn reads_back_what_it_wrote() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let pod = test_pod("web");
        journal.begin(&pod).unwrap();
        journal.write(&pod, StepName::Networked).unwrap();
        let found = journal.read().unwrap();
        let [Found::Record(record)] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((record.step, &record.pod), (StepName::Networked, &pod));
        assert_eq!(record.boot_id, journal.boot_id());
        journal.remove(&pod.id).unwrap();
        journal.remove(&pod.id).unwrap();
        assert!(journal.read().unwrap().is_empty());
    }

    #[test]
    fn a_torn_record_is_named_not_guessed() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let pod = test_pod("web");
        journal.begin(&pod).unwrap();
        fs::write(journal.record(&pod.id), b"{\"version\":1,\"boot").unwrap();
        let found = journal.read().unwrap();
        assert!(
            matches!(&found[..], [Found::Broken { id, why: JournalError::Malformed { .. } }] if *id == pod.id)
        );
    }

    #[test]
    fn what_may_be_whole_is_not_taken_for_broken() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let pod = test_pod("web");
        journal.begin(&pod).unwrap();
        fs::write(journal.record(&pod.id), b"{\"version\":7}").unwrap();
        let error = journal.read().unwrap_err();
        assert!(matches!(error, JournalError::Version { found: 7, .. }), "{error}");
        // EISDIR stands for any failure of the read itself.
        fs::remove_file(journal.record(&pod.id)).unwrap();
        fs::create_dir(journal.record(&pod.id)).unwrap();
        let error = journal.read().unwrap_err();
        assert!(matches!(error, JournalError::Io { .. }), "{error}");
    }

    #[test]
    fn a_pod_begins_once() {
        let state = tempfile::tempdir().unwrap();
        let journal = Journal::open(state.path()).unwrap();
        let pod = test_pod("web");
        journal.begin(&pod).unwrap();
        assert!(journal.begin(&pod).is_err());
    }
}
