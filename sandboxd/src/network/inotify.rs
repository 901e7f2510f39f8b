//! Wakes when files of a few directories come, go or change, also when a directory itself appears, is
//! removed or is replaced by another of the same name (inotify(7)).

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A set of watched directories.
#[derive(Debug)]
pub(super) struct DirWatch {
    fd: AsyncFd<OwnedFd>,
    dirs: Vec<PathBuf>,
    /// Watch descriptor to the names that matter in it; `None`: all.
    watches: HashMap<i32, Option<Vec<OsString>>>,
}

impl DirWatch {
    /// An inotify instance for the directories, none watched yet. Needs a tokio runtime.
    pub(super) fn new(dirs: Vec<PathBuf>) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // SAFETY: the descriptor is open and owned by the AsyncFd from here on, whose `get_ref` is only
        // ever borrowed for reads and watch calls: nothing closes it before the registration ends.
        let fd = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self { fd, dirs, watches: HashMap::new() })
    }

    /// (Re)watches the directories as the paths lead to them now, and their ancestors for the names that
    /// lead there. Call before looking at the files: what changes after that wakes [`Self::changed`].
    pub(super) fn arm(&mut self) {
        let within = WatchFlags::CREATE
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB;
        let along = WatchFlags::CREATE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
        let own = WatchFlags::DELETE_SELF | WatchFlags::MOVE_SELF | WatchFlags::ONLYDIR;
        let mut fresh: HashMap<i32, Option<Vec<OsString>>> = HashMap::new();
        for dir in &self.dirs {
            for ancestor in dir.ancestors() {
                let name = dir.strip_prefix(ancestor).ok().and_then(|rest| rest.iter().next());
                // MASK_ADD: one directory may be watched for itself and on the way to another.
                let flags = own | WatchFlags::MASK_ADD | if name.is_none() { within } else { along };
                // Missing ones are found through the nearest ancestor that exists.
                let Ok(wd) = inotify::add_watch(self.fd.get_ref(), path_or_dot(ancestor), flags) else {
                    continue;
                };
                match (fresh.entry(wd).or_insert_with(|| Some(Vec::new())), name) {
                    (Some(names), Some(name)) => names.push(name.to_owned()),
                    (entry, None) => *entry = None,
                    (None, Some(_)) => {}
                }
            }
        }
        for wd in self.watches.keys().filter(|wd| !fresh.contains_key(wd)) {
            // Gone with its directory, or a replaced directory that nobody asks for any more.
            let _ = inotify::remove_watch(self.fd.get_ref(), *wd);
        }
        self.watches = fresh;
    }

    /// Waits for a change that matters. Cancel safe.
    pub(super) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|fd| drain(fd.get_ref(), &self.watches)) {
                Ok(Ok(true)) => return Ok(()),
                Ok(Ok(false)) | Err(_) => {}
                Ok(Err(error)) => return Err(error),
            }
        }
    }

    /// Forgets the changes so far.
    pub(super) fn clear(&self) {
        while drain(self.fd.get_ref(), &self.watches).is_ok() {}
    }
}

fn path_or_dot(path: &Path) -> &Path {
    if path.as_os_str().is_empty() { Path::new(".") } else { path }
}

/// Reads one buffer of events; whether one of them matters. An overflow does: something was lost.
fn drain(fd: &OwnedFd, watches: &HashMap<i32, Option<Vec<OsString>>>) -> io::Result<bool> {
    let mut buffer = [MaybeUninit::<u8>::uninit(); 4096];
    let mut reader = inotify::Reader::new(fd, &mut buffer);
    let mut matters = false;
    loop {
        let event = reader.next()?;
        let flags = event.events();
        let whole = ReadFlags::DELETE_SELF | ReadFlags::MOVE_SELF | ReadFlags::QUEUE_OVERFLOW;
        matters |= flags.intersects(whole)
            || match (watches.get(&event.wd()), event.file_name()) {
                (Some(None), _) => true,
                (Some(Some(names)), Some(name)) => {
                    names.iter().any(|n| n.as_encoded_bytes() == name.to_bytes())
                }
                _ => false,
            };
        if reader.is_buffer_empty() {
            return Ok(matters);
        }
    }
}
