//! A kernel that does nothing and remembers everything.

use std::cell::RefCell;
use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{Errno, Result};
use sandboxd_shim::plan::container::NodeKind;
use sandboxd_shim::plan::{Attrs, Capabilities};

use super::{Change, Forked, Guest, Kernel, Kind, Last};

/// Records each call as a line; one call may be told to fail.
#[derive(Debug, Default)]
pub struct Fake {
    pub calls: RefCell<Vec<String>>,
    pub fail: Option<(&'static str, Errno)>,
    /// Paths that do not exist.
    pub missing: Vec<&'static str>,
    pub hard_limit: u64,
    /// Capabilities the process has.
    pub held: u64,
}

impl Fake {
    /// A kernel whose call with this prefix fails.
    pub fn failing(call: &'static str, errno: Errno) -> Self {
        Self { fail: Some((call, errno)), ..Self::default() }
    }

    pub fn calls(&self) -> Vec<String> {
        self.calls.borrow().clone()
    }

    /// The position of the only call with this prefix.
    pub fn position(&self, prefix: &str) -> usize {
        let calls = self.calls();
        let mut found = calls.iter().enumerate().filter(|(_, call)| call.starts_with(prefix));
        let first = found.next().unwrap_or_else(|| panic!("no call {prefix:?} in {calls:#?}")).0;
        assert!(found.next().is_none(), "several calls {prefix:?} in {calls:#?}");
        first
    }

    fn call(&self, line: String) -> Result<()> {
        let failed = self.fail.filter(|(prefix, _)| line.starts_with(prefix));
        self.calls.borrow_mut().push(line);
        failed.map_or(Ok(()), |(_, errno)| Err(errno))
    }

    fn fd(&self, line: String) -> Result<OwnedFd> {
        self.call(line)?;
        rustix::fs::memfd_create("fake", rustix::fs::MemfdFlags::CLOEXEC)
    }
}

fn words(attrs: Attrs) -> String {
    let mut words = String::new();
    for (set, word) in [
        (attrs.read_only, " ro"),
        (attrs.nosuid, " nosuid"),
        (attrs.nodev, " nodev"),
        (attrs.noexec, " noexec"),
        (attrs.recursive, " recursive"),
    ] {
        if set {
            words.push_str(word);
        }
    }
    words
}

impl Kernel for Fake {
    fn unshare(&self, flags: i32) -> Result<()> {
        self.call(format!("unshare {flags:#x}"))
    }
    fn join(&self, _: BorrowedFd<'_>, flag: i32) -> Result<()> {
        self.call(format!("join {flag:#x}"))
    }
    fn clone3(&self, flags: u64) -> Result<Forked> {
        let pidfd = self.fd(format!("clone3 {flags:#x}"))?;
        Ok(Forked::Parent { pid: 4711, pidfd })
    }
    fn hostname(&self, name: &str) -> Result<()> {
        self.call(format!("hostname {name}"))
    }
    fn new_mount(&self, fs: &str, _: &[(String, Option<String>)], attrs: Attrs) -> Result<OwnedFd> {
        self.fd(format!("mount {fs}{}", words(attrs)))
    }
    fn copy_mount(&self, _: BorrowedFd<'_>, path: &str, recursive: bool) -> Result<OwnedFd> {
        self.fd(format!("copy {path}{}", if recursive { " recursive" } else { "" }))
    }
    fn attach(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>, path: &str) -> Result<()> {
        self.call(format!("attach {path}"))
    }
    fn restrict(&self, _: BorrowedFd<'_>, path: &str, attrs: Attrs) -> Result<()> {
        self.call(format!("restrict {path}{}", words(attrs)))
    }
    fn make_private(&self) -> Result<()> {
        self.call("private".into())
    }
    fn pivot(&self, _: BorrowedFd<'_>) -> Result<()> {
        self.call("pivot".into())
    }
    fn detach(&self, path: &str) -> Result<()> {
        self.call(format!("detach {path}"))
    }
    fn change_dir(&self, path: &str) -> Result<()> {
        self.call(format!("chdir {path}"))
    }
    fn kind(&self, _: BorrowedFd<'_>, path: &str) -> Result<Kind> {
        if self.missing.contains(&path) {
            return Err(Errno::NOENT);
        }
        Ok(if path.ends_with("kcore") { Kind::Other } else { Kind::Directory })
    }
    fn make_dir(&self, _: BorrowedFd<'_>, path: &str) -> Result<()> {
        self.call(format!("mkdir {path}"))
    }
    fn make_device(&self, _: BorrowedFd<'_>, path: &str, major: u32, minor: u32) -> Result<()> {
        self.call(format!("mknod {path} {major}:{minor}"))
    }
    fn make_link(&self, _: BorrowedFd<'_>, path: &str, target: &str) -> Result<()> {
        self.call(format!("symlink {path} {target}"))
    }
    fn make_file(&self, _: BorrowedFd<'_>, path: &str, mode: u32, data: &[u8]) -> Result<()> {
        self.call(format!("file {path} {mode:o} {}", data.len()))
    }
    fn write(&self, _: BorrowedFd<'_>, path: &str, data: &[u8]) -> Result<()> {
        self.call(format!("write {path} {}", String::from_utf8_lossy(data).trim_end()))
    }
    fn open(&self, _: BorrowedFd<'_>, path: &str, _: bool) -> Result<OwnedFd> {
        self.fd(format!("open {path}"))
    }
    fn umask(&self, mask: u32) {
        self.calls.borrow_mut().push(format!("umask {mask:o}"));
    }
    fn new_session(&self) -> Result<()> {
        self.call("setsid".into())
    }
    fn pause_signals(&self) -> Result<()> {
        self.call("signals".into())
    }
    fn die_with_parent(&self) -> Result<()> {
        self.call("pdeathsig".into())
    }
    fn keep_capabilities(&self, keep: bool) -> Result<()> {
        self.call(format!("keep_capabilities {keep}"))
    }
    fn effective_ids(&self, uid: u32, gid: u32) -> Result<()> {
        self.call(format!("effective {uid}:{gid}"))
    }
    fn groups(&self, groups: &[u32]) -> Result<()> {
        self.call(format!("groups {groups:?}"))
    }
    fn gids(&self, gid: u32) -> Result<()> {
        self.call(format!("gid {gid}"))
    }
    fn uids(&self, uid: u32) -> Result<()> {
        self.call(format!("uid {uid}"))
    }
    fn bounding(&self, keep: u64) -> Result<()> {
        self.call(format!("bounding {keep:#x}"))
    }
    fn capabilities(&self, sets: Capabilities) -> Result<()> {
        self.call(format!("capabilities {:#x} {:#x} {:#x}", sets.permitted, sets.effective, sets.inheritable))
    }
    fn hard_limit(&self, _: u32) -> Result<u64> {
        Ok(self.hard_limit)
    }
    fn limit(&self, resource: u32, soft: u64, hard: u64) -> Result<()> {
        self.call(format!("limit {resource} {soft} {hard}"))
    }
    fn no_new_privs(&self) -> Result<()> {
        self.call("no_new_privs".into())
    }
    fn seccomp(&self, program: &[u8]) -> Result<()> {
        self.call(format!("seccomp {}", program.len()))
    }
    fn only_fds(&self, _: [BorrowedFd<'_>; 3], keep: &[BorrowedFd<'_>]) -> Result<()> {
        self.call(format!("only_fds {}", keep.len()))
    }
    fn exec(&self, _: BorrowedFd<'_>, name: &str) -> Result<Infallible> {
        self.call(format!("exec {name}"))?;
        Err(Errno::NOEXEC)
    }
}

impl Guest for Fake {
    fn resolve(&self, _: BorrowedFd<'_>, path: &str, last: Last) -> Result<OwnedFd> {
        if last == Last::Follow && self.missing.contains(&path) {
            return Err(Errno::NOENT);
        }
        self.fd(format!("resolve {path}"))
    }
    fn target(&self, _: BorrowedFd<'_>) -> Result<String> {
        Err(Errno::INVAL)
    }
    fn change(&self, _: BorrowedFd<'_>, path: &str, change: Change) -> Result<()> {
        let recursive = if change.recursive { " recursive" } else { "" };
        self.call(format!(
            "change {path} +{:#x} -{:#x} {:#x}{recursive}",
            change.set, change.clear, change.propagation
        ))
    }
    fn make_node(
        &self,
        _: BorrowedFd<'_>,
        path: &str,
        kind: NodeKind,
        mode: u32,
        (major, minor): (u32, u32),
    ) -> Result<()> {
        self.call(format!("node {path} {kind:?} {mode:o} {major}:{minor}"))
    }
    fn put(&self, _: BorrowedFd<'_>, data: &[u8]) -> Result<()> {
        self.call(format!("put {}", String::from_utf8_lossy(data)))
    }
    fn unlink(&self, _: BorrowedFd<'_>, path: &str) -> Result<()> {
        self.call(format!("unlink {path}"))
    }
    fn own(&self, _: BorrowedFd<'_>, path: &str, uid: u32, gid: Option<u32>) -> Result<()> {
        self.call(format!("own {path} {uid}:{gid:?}"))
    }
    fn enter_dir(&self, _: BorrowedFd<'_>) -> Result<()> {
        self.call("fchdir".into())
    }
    fn terminal(&self, _: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
        Ok((self.fd(format!("terminal {size:?}"))?, self.fd("slave".into())?))
    }
    fn control(&self, _: BorrowedFd<'_>) -> Result<()> {
        self.call("control".into())
    }
    fn default_signals(&self) -> Result<()> {
        self.call("default signals".into())
    }
    fn keep_once(&self) -> Result<()> {
        self.call("keep_once".into())
    }
    fn raise_ambient(&self, set: u64) -> Result<()> {
        self.call(format!("ambient {set:#x}"))
    }
    fn drop_to(&self, sets: Capabilities) -> Result<()> {
        self.call(format!("drop_to {:#x}", sets.permitted))
    }
    fn held(&self) -> Result<u64> {
        Ok(self.held)
    }
    fn executable(&self, path: &CStr) -> Result<()> {
        self.call(format!("executable {}", path.to_string_lossy()))
    }
    fn run(&self, path: &CStr, _: &[CString], _: &[CString]) -> Result<Infallible> {
        self.call(format!("run {}", path.to_string_lossy()))?;
        Err(Errno::NOEXEC)
    }
}
