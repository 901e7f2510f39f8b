//! Containers whose shim does not answer any more: the runtime is asked to remove them.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use sandboxd_shim::proto::{Request, Verb};
use tokio::process::Command;

use super::Line;
use crate::runtime::RuntimeError;
use crate::runtime::native::link::Link;

/// For a removal.
const REMOVE: Duration = Duration::from_secs(20);

/// Where a pod's containers have their directories.
pub fn containers(pod: &Path) -> PathBuf {
    pod.join("oci")
}

/// Removes all containers of a pod. What cannot be is said.
pub async fn remove_all(line: &Line, pod: &Path) {
    let Ok(entries) = std::fs::read_dir(containers(pod)) else { return };
    for entry in entries.flatten() {
        let (dir, id) = (entry.path(), entry.file_name());
        let id = id.to_string_lossy();
        if let Ok((link, ..)) = Link::connect(&dir) {
            let remove = Request::Container { id: id.clone().into_owned(), verb: Verb::Remove };
            let _ = link.ask(&remove, &[], REMOVE).await;
        }
        if let Err(error) = remove(line, &dir, &id).await {
            tracing::warn!(container = %id, %error, "removing what is left of it failed");
        }
    }
    let _ = std::fs::remove_dir(containers(pod));
}

/// Removes what is left of a container: the runtime's state, with it its processes, and its directory. Idempotent.
pub async fn remove(line: &Line, dir: &Path, id: &str) -> Result<(), RuntimeError> {
    if line.root.join(id).exists() && line.binary.as_os_str().is_empty() {
        // Its processes are killed by their cgroup; what the runtime knew of them is of no use to anybody.
        tracing::warn!(
            container = id,
            handler = line.name,
            "removing the state of a runtime that is not known"
        );
        let dir = line.root.join(id);
        std::fs::remove_dir_all(&dir)
            .map_err(|source| RuntimeError::Io { action: format!("removing {}", dir.display()), source })?;
    } else if line.root.join(id).exists() {
        let run = Command::new(&line.binary)
            .arg("--root")
            .arg(&line.root)
            .args(["delete", "--force", id])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .current_dir("/")
            .kill_on_drop(true)
            .output();
        let said = match tokio::time::timeout(REMOVE, run).await {
            Err(_) => format!("`delete` does not end within {REMOVE:?}"),
            Ok(Err(error)) => format!("{} cannot be run: {error}", line.binary.display()),
            Ok(Ok(done)) => String::from_utf8_lossy(&done.stderr).trim().chars().take(1024).collect(),
        };
        if line.root.join(id).exists() {
            return Err(RuntimeError::Oci { runtime: line.name.clone(), message: said });
        }
    }
    match std::fs::remove_dir_all(dir) {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
            Err(RuntimeError::Io { action: format!("removing {}", dir.display()), source })
        }
        _ => Ok(()),
    }
}
