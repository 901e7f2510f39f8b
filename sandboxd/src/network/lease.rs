//! What CNI was asked to do for a pod, and what it answered: kept on disk until DEL has succeeded.
//!
//! ```text
//! prepare ──▶ intent ──ADD──▶ intent + result ──DEL succeeded──▶ nothing
//!                └──────────────DEL succeeded──────────────────────▲
//! ```
//!
//! The *intent* (`<pod>.json`) holds the exact configuration and arguments, so that DEL gives the plugins
//! what ADD gave them, whatever became of the conf directory. It outlives the boot, because addresses do:
//! one fsync before the first side effect. The fsync comes after the rename: on the journaling file
//! systems (ext4, XFS, btrfs) syncing a file commits its name with it, so one is enough. A crash before it
//! leaves at most a torn file that no side effect followed.
//!
//! The *result* (`<pod>.result.json`) is a file of its own, so that writing it without an fsync can never
//! tear the intent. Losing it costs DEL its `prevResult`, which the specification makes optional.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::pod::model::PodId;

use super::conf::NetworkConfig;
use super::error::NetworkError;
use super::result::CniResult;

/// The intent of one pod's attachment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Lease {
    pub pod: PodId,
    pub network: NetworkConfig,
    /// CNI_ARGS.
    pub args: String,
    /// Capability arguments by name.
    pub capabilities: BTreeMap<String, Value>,
}

/// The directory of leases.
#[derive(Debug)]
pub(super) struct Leases {
    dir: PathBuf,
}

const RESULT: &str = ".result.json";
const INTENT: &str = ".json";

impl Leases {
    /// Opens the directory, making it where it is missing.
    pub(super) fn open(dir: PathBuf) -> Result<Self, NetworkError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.map_err(io_error("making the lease directory", &dir))?;
        let leases = Self { dir };
        // What a crash left half written; names with a dot in front are never leases.
        for name in leases.names()?.into_iter().filter(|n| n.starts_with('.')) {
            let _ = fs::remove_file(leases.dir.join(name));
        }
        Ok(leases)
    }

    fn names(&self) -> Result<Vec<String>, NetworkError> {
        let error = |e| io_error("listing leases in", &self.dir)(e);
        let entries = fs::read_dir(&self.dir).map_err(error)?;
        let names = entries.map(|e| e.map(|e| e.file_name().into_string().ok()));
        Ok(names.collect::<io::Result<Vec<_>>>().map_err(error)?.into_iter().flatten().collect())
    }

    /// The path of a pod's file. Ids become file names here, so only what cannot climb is let through.
    fn path(&self, pod: &PodId, suffix: &str) -> Result<PathBuf, NetworkError> {
        let id = pod.as_str();
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if id.is_empty() || id.len() > 64 || !id.bytes().all(plain) {
            return Err(NetworkError::PodId { id: id.to_owned() });
        }
        Ok(self.dir.join(format!("{id}{suffix}")))
    }

    /// Writes the intent; on disk when this returns. Blocks for the fsync.
    pub(super) fn write_intent(&self, lease: &Lease) -> Result<(), NetworkError> {
        let path = self.path(&lease.pod, INTENT)?;
        let bytes =
            serde_json::to_vec(lease).map_err(|source| NetworkError::Lease { path: path.clone(), source })?;
        let file = self.replace(&path, &bytes)?;
        file.sync_all().map_err(io_error("syncing lease", &path))
    }

    /// Keeps the result of ADD for CHECK and DEL.
    pub(super) fn write_result(&self, pod: &PodId, result: &CniResult) -> Result<(), NetworkError> {
        self.replace(&self.path(pod, RESULT)?, result.raw().get().as_bytes()).map(drop)
    }

    fn replace(&self, path: &Path, bytes: &[u8]) -> Result<File, NetworkError> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = self.dir.join(format!(".{name}.tmp"));
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&temporary).map_err(io_error("making lease", &temporary))?;
        file.write_all(bytes).map_err(io_error("writing lease", &temporary))?;
        fs::rename(&temporary, path).map_err(io_error("renaming lease to", path))?;
        Ok(file)
    }

    /// The pod's intent. `None`: it never had one, or DEL has finished.
    pub(super) fn read(&self, pod: &PodId) -> Result<Option<Lease>, NetworkError> {
        let path = self.path(pod, INTENT)?;
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(lease) => Ok(Some(lease)),
                Err(source) => Err(NetworkError::Lease { path, source }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("reading lease", &path)(e)),
        }
    }

    /// The stored result; `None` where there is none or a crash tore it.
    pub(super) fn result(&self, pod: &PodId) -> Result<Option<CniResult>, NetworkError> {
        let path = self.path(pod, RESULT)?;
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice::<Box<RawValue>>(&bytes) {
                Ok(raw) => Ok(Some(CniResult::from_raw(raw))),
                Err(error) => {
                    tracing::warn!(%pod, path = %path.display(), %error, "stored CNI result is torn: DEL runs without it");
                    Ok(None)
                }
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(io_error("reading CNI result", &path)(e)),
        }
    }

    /// Forgets a pod. Result first: an intent without a result is a valid state, the reverse is not.
    pub(super) fn remove(&self, pod: &PodId) -> Result<(), NetworkError> {
        for suffix in [RESULT, INTENT] {
            let path = self.path(pod, suffix)?;
            match fs::remove_file(&path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("removing lease", &path)(e));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All leases. Files that are none are set aside under the extension `unreadable` with a warning: a
    /// torn intent is one whose fsync never returned, so no plugin ran for it.
    pub(super) fn list(&self) -> Result<Vec<Lease>, NetworkError> {
        let mut leases = Vec::new();
        for name in self.names()? {
            let Some(id) = name.strip_suffix(INTENT).filter(|id| !id.contains('.')) else { continue };
            let pod = PodId::from_string(id.to_owned());
            match self.read(&pod) {
                Ok(lease) => leases.extend(lease.filter(|l| l.pod == pod)),
                Err(error) => {
                    let path = self.dir.join(&name);
                    tracing::warn!(path = %path.display(), %error, "set aside");
                    let aside = path.with_extension("unreadable");
                    fs::rename(&path, &aside).map_err(io_error("setting aside lease", &aside))?;
                }
            }
        }
        leases.sort_by(|a, b| a.pod.cmp(&b.pod));
        Ok(leases)
    }
}

fn io_error(action: &'static str, path: &Path) -> impl Fn(io::Error) -> NetworkError {
    let path = path.to_owned();
    move |source| NetworkError::Io { action, path: path.clone(), source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::conf;

    fn lease(dir: &Path, id: &str) -> Lease {
        let conf = dir.join("n.conf");
        fs::write(&conf, r#"{"cniVersion":"1.0.0","name":"n","type":"bridge","odd": 1.50e1 }"#).unwrap();
        Lease {
            pod: PodId::from_string(id.into()),
            network: conf::load(&conf).unwrap(),
            args: "IgnoreUnknown=1".into(),
            capabilities: BTreeMap::from([("dns".to_owned(), serde_json::json!({"servers": ["::1"]}))]),
        }
    }

    #[test]
    fn a_lease_comes_back_as_it_went_and_goes() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path().join("leases")).unwrap();
        let written = lease(dir.path(), "abc1");
        leases.write_intent(&written).unwrap();
        let result = CniResult::parse("p", br#"{"cniVersion":"1.0.0"}"#, written.network.version).unwrap();
        leases.write_result(&written.pod, &result).unwrap();
        let read = leases.read(&written.pod).unwrap().unwrap();
        assert_eq!(read.network.plugins[0].object["odd"].get(), "1.50e1");
        assert_eq!(read.capabilities, written.capabilities);
        assert_eq!(leases.list().unwrap().len(), 1);
        leases.remove(&written.pod).unwrap();
        leases.remove(&written.pod).unwrap();
        assert!(leases.read(&written.pod).unwrap().is_none());
        assert_eq!(fs::read_dir(dir.path().join("leases")).unwrap().count(), 0);
    }

    #[test]
    fn torn_files_are_set_aside_and_ids_cannot_climb() {
        let dir = tempfile::tempdir().unwrap();
        let leases = Leases::open(dir.path().to_owned()).unwrap();
        fs::write(dir.path().join("abc2.json"), b"{\"pod\":").unwrap();
        fs::write(dir.path().join("abc2.result.json"), b"{\"cni").unwrap();
        assert!(leases.list().unwrap().is_empty());
        assert!(dir.path().join("abc2.unreadable").exists());
        assert!(leases.result(&PodId::from_string("abc2".into())).unwrap().is_none());
        for id in ["", "../x", "a/b", "A", &"a".repeat(65)] {
            let error = leases.read(&PodId::from_string(id.into())).unwrap_err();
            assert!(matches!(error, NetworkError::PodId { .. }), "{id}: {error}");
        }
    }
}
