//! The daemon's unix sockets: never open wider than configured, not for a moment, and never taken from a
//! daemon that still listens.

use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;

use super::{DaemonError, dirs};

/// A bound socket. Its file goes with it.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
}

/// Removes the file it names, if that is still the same one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|m| (m.dev(), m.ino()) == self.inode);
        if ours {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Socket {
    /// Binds `path` with mode 0600, or root:`group` and 0660.
    ///
    /// Changes the process's umask for the moment of bind(2): call it before other tasks make files.
    ///
    /// # Errors
    /// [`DaemonError::SocketInUse`] when somebody listens there; [`DaemonError::NotASocket`] when the file
    /// is something else.
    pub fn bind(path: &Path, group: &str) -> Result<Self, DaemonError> {
        if let Some(dir) = path.parent()
            && !dir.exists()
        {
            dirs::make(dir)?;
        }
        make_way(path)?;
        let before = rustix::process::umask(Mode::from_raw_mode(0o177));
        let bound = UnixListener::bind(path);
        rustix::process::umask(before);
        let listener = bound.map_err(DaemonError::io("binding socket", path))?;
        let meta = std::fs::symlink_metadata(path).map_err(DaemonError::io("looking at socket", path))?;
        let file = SocketFile { path: path.to_owned(), inode: (meta.dev(), meta.ino()) };
        if !group.is_empty() {
            open_to(path, group)?;
        }
        listener.set_nonblocking(true).map_err(DaemonError::io("setting up socket", path))?;
        Ok(Self { listener, file })
    }

    /// The listener for the async runtime; the file is removed when the second value goes.
    ///
    /// # Errors
    /// When the runtime cannot take it.
    pub fn listen(self) -> Result<(tokio::net::UnixListener, SocketFile), DaemonError> {
        let listener = tokio::net::UnixListener::from_std(self.listener)
            .map_err(DaemonError::io("listening on socket", &self.file.path))?;
        Ok((listener, self.file))
    }
}

/// The group first, then the mode: nobody else's group ever has it.
fn open_to(path: &Path, group: &str) -> Result<(), DaemonError> {
    let gid = match nix::unistd::Group::from_name(group) {
        Ok(Some(found)) => found.gid.as_raw(),
        _ => return Err(DaemonError::NoGroup { group: group.to_owned() }),
    };
    std::os::unix::fs::lchown(path, None, Some(gid)).map_err(DaemonError::io("giving to its group", path))?;
    let mode = std::fs::Permissions::from_mode(0o660);
    std::fs::set_permissions(path, mode).map_err(DaemonError::io("setting the mode of", path))
}

/// Removes a socket that a daemon left behind.
fn make_way(path: &Path) -> Result<(), DaemonError> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(DaemonError::io("looking at", path)(e)),
    };
    if !meta.file_type().is_socket() {
        return Err(DaemonError::NotASocket { path: path.to_owned() });
    }
    match UnixStream::connect(path) {
        Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(DaemonError::io("removing stale socket", path))
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(_) => Err(DaemonError::SocketInUse { path: path.to_owned() }),
        Err(e) => Err(DaemonError::io("asking who listens on", path)(e)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_staleness_and_removal() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("x.sock");
        let socket = Socket::bind(&path, "").expect("bound");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let error = Socket::bind(&path, "").expect_err("in use");
        assert!(matches!(error, DaemonError::SocketInUse { .. }), "{error}");
        // A killed daemon: the listener is gone, the file is not.
        let Socket { listener, file } = socket;
        drop(listener);
        std::mem::forget(file);
        let socket = Socket::bind(&path, "root").expect("stale ones are replaced");
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        drop(socket);
        assert!(!path.exists());
        std::fs::write(&path, "mine").unwrap();
        let error = Socket::bind(&path, "").expect_err("a file");
        assert!(matches!(error, DaemonError::NotASocket { .. }), "{error}");
        assert!(path.exists());
    }
}
