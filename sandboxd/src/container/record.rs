//! What is written of a container, for the daemon that comes after this one.
//!
//! Records lie in the state directory: a container does not outlive its pod, and a pod not the boot. So a rename
//! is enough and nothing is synced; what a crash of the machine leaves in the root directory (files a container
//! wrote) has no record then, and is removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Process, Spec};
use serde::{Deserialize, Serialize};

use super::error::ContainerError;
use super::model::{Container, ContainerId};

/// Longest record that is read: environments can have megabytes.
const MAX: u64 = 32 << 20;

/// How far a container has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Phase {
    /// Its making had begun: to be undone.
    Making,
    Made,
}

/// All that is needed to go on with a container, or to undo it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub phase: Phase,
    pub container: Container,
    /// The pod's, beneath which the container's cgroup is planned.
    pub cgroup_parent: String,
    /// What further processes of it are like; `None` while it is being made.
    pub process: Option<Process>,
}

/// The records of the node.
#[derive(Debug)]
pub(super) struct Records {
    dir: PathBuf,
}

impl Records {
    /// # Errors
    /// When the directory cannot be made.
    pub(super) fn open(state: &Path) -> Result<Self, ContainerError> {
        let dir = state.join("containers");
        fs::create_dir_all(&dir).map_err(io_error("making", &dir))?;
        Ok(Self { dir })
    }

    fn path(&self, id: &ContainerId, kind: &str) -> PathBuf {
        self.dir.join(format!("{id}.{kind}"))
    }

    pub(super) fn write(&self, record: &Record) -> Result<(), ContainerError> {
        self.replace(&self.path(&record.container.id, "json"), record)
    }

    /// The OCI spec, for those who ask for it.
    pub(super) fn write_spec(&self, id: &ContainerId, spec: &Spec) -> Result<(), ContainerError> {
        self.replace(&self.path(id, "spec"), spec)
    }

    pub(super) fn spec(&self, id: &ContainerId) -> Option<serde_json::Value> {
        let bytes = read_bounded(&self.path(id, "spec")).ok()?;
        serde_json::from_slice(&bytes).ok()
    }

    fn replace(&self, path: &Path, value: &impl Serialize) -> Result<(), ContainerError> {
        let next = path.with_extension("new");
        let bytes = serde_json::to_vec(value).map_err(|e| io_error("encoding", path)(e.into()))?;
        fs::write(&next, bytes).map_err(io_error("writing", &next))?;
        fs::rename(&next, path).map_err(io_error("writing", path))
    }

    /// Idempotent.
    pub(super) fn remove(&self, id: &ContainerId) -> Result<(), ContainerError> {
        for kind in ["spec", "json"] {
            let path = self.path(id, kind);
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("removing", &path)(error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// All of them. One that cannot be read is said and removed: what it stood for has no record, and goes.
    pub(super) fn read(&self) -> Result<Vec<Record>, ContainerError> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.dir).map_err(io_error("reading", &self.dir))? {
            let path = entry.map_err(io_error("reading", &self.dir))?.path();
            match path.extension().and_then(|extension| extension.to_str()) {
                Some("json") => {}
                // Half written by a daemon that was killed.
                Some("new") => {
                    let _ = fs::remove_file(&path);
                    continue;
                }
                _ => continue,
            }
            let bytes = read_bounded(&path).map_err(io_error("reading", &path))?;
            match serde_json::from_slice(&bytes) {
                Ok(record) => records.push(record),
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "not a record of a container: removed");
                    let _ = fs::remove_file(&path);
                }
            }
        }
        Ok(records)
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {MAX} bytes")));
    }
    Ok(bytes)
}

pub(super) fn io_error<'a>(
    action: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ContainerError + use<'a> {
    move |source| ContainerError::Io { action, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_record_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        let container = crate::container::fake::container();
        let record = Record { phase: Phase::Made, container, cgroup_parent: String::new(), process: None };
        let id = record.container.id.clone();
        records.write(&record).unwrap();
        // Of a daemon that was killed while it wrote, and of a disk that lost what was written.
        for other in [format!("{id}.new"), "0123.new".into(), "0123.json".into()] {
            fs::write(dir.path().join("containers").join(other), "{").unwrap();
        }
        let read = records.read().unwrap();
        assert_eq!(read.iter().map(|record| &record.container.id).collect::<Vec<_>>(), [&id]);
        let left: Vec<_> = fs::read_dir(dir.path().join("containers")).unwrap().flatten().collect();
        assert_eq!(
            left.iter().map(fs::DirEntry::file_name).collect::<Vec<_>>(),
            [format!("{id}.json").as_str()]
        );
    }
}
