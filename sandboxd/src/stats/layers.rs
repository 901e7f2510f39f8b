//! How much containers have written: the size of their upper directories, counted in the background.
//!
//! Counting walks a tree that its container changes meanwhile: by descriptors, never by paths, and never
//! through a symbolic link or onto another file system.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, openat, statat};

use crate::container::model::{Container, ContainerId, ContainerState};
use crate::pod::now_ns;

/// How old a figure may be before it is counted anew (containerd's period).
const FRESH: Duration = Duration::from_secs(10);
/// How long a request waits for the counting; it answers with the figures before, otherwise.
const PATIENCE: Duration = Duration::from_millis(300);
/// A descriptor is held for each level; deeper ones are not counted.
const MAX_DEPTH: usize = 256;
/// A figure that nobody asked about for so long is of a container that is gone.
const FORGOTTEN: Duration = Duration::from_secs(600);

/// What a container has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    pub bytes: u64,
    pub inodes: u64,
}

/// The file system of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Space {
    /// "/dev/vda1"; empty where it is no block device's.
    pub device: String,
    pub bytes: u64,
    pub inodes: u64,
    pub inodes_free: u64,
}

impl Space {
    /// The one that a directory is on.
    ///
    /// # Errors
    /// When it cannot be asked for.
    pub fn of(dir: &Path) -> io::Result<Self> {
        let stat = rustix::fs::stat(dir)?;
        let space = rustix::fs::statvfs(dir)?;
        let (major, minor) = (rustix::fs::major(stat.st_dev), rustix::fs::minor(stat.st_dev));
        let name = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
        let name = name.as_deref().and_then(Path::file_name).map(|n| n.to_string_lossy().into_owned());
        Ok(Self {
            device: name.map(|n| format!("/dev/{}", n.replace('!', "/"))).unwrap_or_default(),
            bytes: space.f_blocks.saturating_mul(space.f_frsize),
            inodes: space.f_files,
            inodes_free: space.f_ffree,
        })
    }
}

#[derive(Debug, Default)]
struct Known {
    layer: Option<Layer>,
    counted: Option<Instant>,
    asked: Option<Instant>,
    /// Somebody is at it.
    counting: bool,
}

/// The figures of all containers that were asked about.
#[derive(Debug, Default)]
pub(super) struct Layers {
    known: Mutex<HashMap<ContainerId, Known>>,
}

impl Layers {
    /// Counts what is not fresh. One count at a time for each container, however many ask.
    pub(super) async fn refresh(self: &Arc<Self>, wanted: Vec<(Arc<Container>, PathBuf)>) {
        let due = self.due(wanted, Instant::now());
        if due.is_empty() {
            return;
        }
        let this = Arc::clone(self);
        let counting = tokio::task::spawn_blocking(move || {
            for (id, upper) in due {
                let counted = count(&upper);
                this.put(&id, counted, &upper);
            }
        });
        // Dropping the handle lets it go on.
        let _ = tokio::time::timeout(PATIENCE, counting).await;
    }

    fn due(&self, wanted: Vec<(Arc<Container>, PathBuf)>, now: Instant) -> Vec<(ContainerId, PathBuf)> {
        let mut known = self.known();
        let recent = |at: Option<Instant>, within| at.is_some_and(|at| now.duration_since(at) < within);
        known.retain(|_, known| known.counting || recent(known.asked, FORGOTTEN));
        let mut due = Vec::new();
        for (container, upper) in wanted {
            let known = known.entry(container.id.clone()).or_default();
            known.asked = Some(now);
            // Nothing writes to the layer of one that has ended.
            let still = container.state == ContainerState::Exited
                && known.layer.as_ref().is_some_and(|layer| {
                    container.ended.as_ref().is_some_and(|ended| layer.at_ns > ended.at_ns)
                });
            if !known.counting && !still && !recent(known.counted, FRESH) {
                known.counting = true;
                due.push((container.id.clone(), upper));
            }
        }
        due
    }

    fn put(&self, id: &ContainerId, counted: io::Result<(u64, u64)>, dir: &Path) {
        let mut all = self.known();
        let known = all.entry(id.clone()).or_default();
        known.counting = false;
        known.counted = Some(Instant::now());
        known.layer = match counted {
            Ok((bytes, inodes)) => Some(Layer { at_ns: now_ns(), bytes, inodes }),
            Err(error) => {
                // A container that was removed meanwhile, mostly.
                tracing::debug!(container = %id, dir = %dir.display(), %error, "layer not counted");
                None
            }
        };
    }

    pub(super) fn get(&self, id: &ContainerId) -> Option<Layer> {
        self.known().get(id).and_then(|known| known.layer.clone())
    }

    // Only whole values are put in under the lock.
    fn known(&self) -> MutexGuard<'_, HashMap<ContainerId, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Bytes on disk and inodes of a tree. A file with several names counts once.
fn count(top: &Path) -> io::Result<(u64, u64)> {
    let top: OwnedFd = rustix::fs::open(top, DIRECTORY, Mode::empty())?;
    let stat = rustix::fs::fstat(&top)?;
    let device = stat.st_dev;
    let mut total = (size(stat.st_blocks), 1);
    let mut linked = HashSet::new();
    let mut levels = vec![Dir::new(top)?];
    while let Some(level) = levels.last_mut() {
        let Some(entry) = level.next() else {
            levels.pop();
            continue;
        };
        let entry = entry?;
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        let Ok(stat) = statat(level.fd()?, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if stat.st_dev != device || (!directory && stat.st_nlink > 1 && !linked.insert(stat.st_ino)) {
            continue;
        }
        total.0 += size(stat.st_blocks);
        total.1 += 1;
        if directory && levels.len() < MAX_DEPTH {
            let Some(level) = levels.last_mut() else { break };
            // Gone, or another thing by now: it counts as the empty directory it was.
            if let Ok(inside) = openat(level.fd()?, entry.file_name(), DIRECTORY, Mode::empty()) {
                levels.push(Dir::new(inside)?);
            }
        }
    }
    Ok(total)
}

/// stat(2) counts in units of 512 bytes, whatever the file system's blocks are.
fn size(blocks: i64) -> u64 {
    u64::try_from(blocks).unwrap_or(0).saturating_mul(512)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_tree_is_counted_once_and_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("upper");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), vec![1u8; 100_000]).unwrap();
        fs::hard_link(top.join("a/b/file"), top.join("again")).unwrap();
        fs::write(dir.path().join("outside"), vec![1u8; 1_000_000]).unwrap();
        std::os::unix::fs::symlink(dir.path(), top.join("out")).unwrap();
        let (bytes, inodes) = count(&top).unwrap();
        // upper, a, b, file, out.
        assert_eq!(inodes, 5);
        assert!((100_000..200_000).contains(&bytes), "{bytes}");
        assert!(count(&dir.path().join("nowhere")).is_err());
    }

    #[test]
    fn a_deep_tree_takes_no_more_descriptors_than_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let mut path = dir.path().to_owned();
        for _ in 0..300 {
            path.push("d");
        }
        fs::create_dir_all(&path).unwrap();
        let (_, inodes) = count(dir.path()).unwrap();
        assert_eq!(inodes, MAX_DEPTH as u64 + 1);
    }

    #[test]
    fn space_of_a_directory() {
        let space = Space::of(Path::new("/")).unwrap();
        assert!(space.bytes > 0, "{space:?}");
        assert!(Space::of(Path::new("/nowhere")).is_err());
    }
}
