//! The kernel as the shim uses it: a trait, so that the order of its side effects can be tested without root.
//!
//! [`Linux`] is the real one, the tests' fake records each call as a line.

#[cfg(test)]
pub mod fake;
mod guest;
mod linux;

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::Result;
use sandboxd_shim::plan::{Attrs, Capabilities};

pub use guest::{Change, Guest, Last, PRIVATE};
pub use linux::{Linux, here, last_errno};

/// What clone3(2) made of this process.
#[derive(Debug)]
pub enum Forked {
    Parent { pid: i32, pidfd: OwnedFd },
    Child,
}

/// What lies at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Other,
}

/// Side effects, each one system call or a fixed handful. Paths are relative to `dir`.
pub trait Kernel {
    // Namespaces.
    fn unshare(&self, flags: i32) -> Result<()>;
    fn join(&self, namespace: BorrowedFd<'_>, flag: i32) -> Result<()>;
    /// clone3 with a pidfd and no shared memory: fork(2) with namespaces, or with CLONE_PARENT.
    fn clone3(&self, flags: u64) -> Result<Forked>;
    fn hostname(&self, name: &str) -> Result<()>;

    // Mounts.
    /// fsopen, fsconfig for each option, fsmount.
    fn new_mount(&self, fs: &str, options: &[(String, Option<String>)], attrs: Attrs) -> Result<OwnedFd>;
    /// A detached copy of what is mounted at a path (open_tree with OPEN_TREE_CLONE).
    fn copy_mount(&self, dir: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd>;
    fn attach(&self, mount: BorrowedFd<'_>, dir: BorrowedFd<'_>, path: &str) -> Result<()>;
    /// Adds attributes (mount_setattr); an empty path is `dir` itself.
    fn restrict(&self, dir: BorrowedFd<'_>, path: &str, attrs: Attrs) -> Result<()>;
    /// All of the mount namespace becomes private.
    fn make_private(&self) -> Result<()>;
    /// pivot_root onto `root` and detaches what was the root before, with no effect on anybody's copy of it.
    fn pivot(&self, root: BorrowedFd<'_>) -> Result<()>;
    fn detach(&self, path: &str) -> Result<()>;

    // Files.
    fn change_dir(&self, path: &str) -> Result<()>;
    fn kind(&self, dir: BorrowedFd<'_>, path: &str) -> Result<Kind>;
    fn make_dir(&self, dir: BorrowedFd<'_>, path: &str) -> Result<()>;
    fn make_device(&self, dir: BorrowedFd<'_>, path: &str, major: u32, minor: u32) -> Result<()>;
    fn make_link(&self, dir: BorrowedFd<'_>, path: &str, target: &str) -> Result<()>;
    /// A new regular file.
    fn make_file(&self, dir: BorrowedFd<'_>, path: &str, mode: u32, data: &[u8]) -> Result<()>;
    /// Writes to what exists, in one write(2).
    fn write(&self, dir: BorrowedFd<'_>, path: &str, data: &[u8]) -> Result<()>;
    fn open(&self, dir: BorrowedFd<'_>, path: &str, write: bool) -> Result<OwnedFd>;

    // The process.
    fn umask(&self, mask: u32);
    fn new_session(&self) -> Result<()>;
    /// What the shim ignores (SIGHUP, SIGPIPE, SIGXFSZ) would stay ignored over exec. What the pause waits for (SIGINT,
    /// SIGTERM, SIGCHLD) is blocked for it: the kernel drops what reaches PID 1 with neither a handler nor a
    /// block, so a SIGTERM between exec and the pause's first call would be lost.
    fn pause_signals(&self) -> Result<()>;
    /// SIGKILL when the parent dies; a change of ids forgets it.
    fn die_with_parent(&self) -> Result<()>;
    /// Secure bits: whether a change of user ids leaves the capabilities alone.
    fn keep_capabilities(&self, keep: bool) -> Result<()>;
    fn effective_ids(&self, uid: u32, gid: u32) -> Result<()>;
    fn groups(&self, groups: &[u32]) -> Result<()>;
    fn gids(&self, gid: u32) -> Result<()>;
    fn uids(&self, uid: u32) -> Result<()>;
    /// Drops what is not in `keep`.
    fn bounding(&self, keep: u64) -> Result<()>;
    /// Permitted, effective and inheritable sets; the ambient set becomes empty.
    fn capabilities(&self, sets: Capabilities) -> Result<()>;
    fn hard_limit(&self, resource: u32) -> Result<u64>;
    fn limit(&self, resource: u32, soft: u64, hard: u64) -> Result<()>;
    fn no_new_privs(&self) -> Result<()>;
    fn seccomp(&self, program: &[u8]) -> Result<()>;
    /// Puts `streams` on 0, 1 and 2 and the others on 3 upwards; everything else is closed. All from 3 on are
    /// close-on-exec.
    fn only_fds(&self, streams: [BorrowedFd<'_>; 3], keep: &[BorrowedFd<'_>]) -> Result<()>;
    /// execveat of a descriptor, without environment. Returns only on an error.
    fn exec(&self, file: BorrowedFd<'_>, name: &str) -> Result<std::convert::Infallible>;
}
