//! The daemon's directories, and the locks that keep a second daemon out of them.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::DaemonError;

/// Entered by the pods' mapped roots on their way to what is theirs, listed by root alone.
const MODE: u32 = 0o711;
const LOCK: &str = "sandboxd.lock";

/// Makes a directory with its parents. One that is there must be root's alone to change.
///
/// # Errors
/// When it cannot be made, or others than root may write to it.
pub fn make(path: &Path) -> Result<(), DaemonError> {
    if !path.exists() {
        DirBuilder::new()
            .recursive(true)
            .mode(MODE)
            .create(path)
            .map_err(DaemonError::io("making directory", path))?;
        // The mode above is subject to the umask.
        let mode = std::fs::Permissions::from_mode(MODE);
        std::fs::set_permissions(path, mode).map_err(DaemonError::io("setting the mode of", path))?;
    }
    let meta = std::fs::metadata(path).map_err(DaemonError::io("looking at directory", path))?;
    let (uid, mode) = (meta.uid(), meta.mode() & 0o7777);
    if uid != rustix::process::geteuid().as_raw() || mode & 0o022 != 0 {
        return Err(DaemonError::LooseDirectory { path: path.to_owned(), uid, mode });
    }
    Ok(())
}

/// A lock on a directory for as long as this lives, also against a daemon that is just being killed: the
/// kernel drops it with the last descriptor.
#[derive(Debug)]
pub struct Lock {
    file: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Not by closing alone: a child that has not yet executed its program has the description, too, and the
        // next daemon may be starting.
        let _ = self.file.unlock();
    }
}

impl Lock {
    /// # Errors
    /// [`DaemonError::Locked`] when another daemon has it, with its pid.
    pub fn take(dir: &Path) -> Result<Self, DaemonError> {
        let path = dir.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(DaemonError::io("opening lock file", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.read_to_string(&mut pid);
                return Err(DaemonError::Locked { path, pid: pid.trim().to_owned() });
            }
            Err(TryLockError::Error(e)) => return Err(DaemonError::io("locking", path)(e)),
        }
        // The pid is for people only.
        let written = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        written.map_err(DaemonError::io("writing lock file", path))?;
        Ok(Self { file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_per_directory() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = Lock::take(dir.path()).expect("free");
        let error = Lock::take(dir.path()).expect_err("taken");
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        // As in a child between fork(2) and execve(2).
        let _inherited = first.file.try_clone().expect("a duplicate");
        drop(first);
        assert!(Lock::take(dir.path()).is_ok());
    }

    #[test]
    fn a_directory_others_may_change_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let state = dir.path().join("a/b");
        make(&state).expect("made");
        assert_eq!(std::fs::metadata(&state).unwrap().mode() & 0o7777, MODE);
        std::fs::set_permissions(&state, std::fs::Permissions::from_mode(0o777)).unwrap();
        let error = make(&state).expect_err("refused");
        assert!(matches!(error, DaemonError::LooseDirectory { mode: 0o777, .. }), "{error}");
    }
}
