//! Every namespace of the node: who owns it, who is in it, and what else keeps it alive.
//!
//! ```text
//!  /proc/PID/ns, task/TID/ns ─┐  processes and threads inside
//!  /proc/PID/fd ──────────────┼▶ sightings ─▶ owners, parents ─▶ standing of ─▶ state and words
//!  mountinfo, one read for    │  by inode     (ioctl_nsfs(2))    each hold
//!  each mount namespace ──────┘  pins
//! ```
//!
//! The kernel has no list of namespaces before `listns` (6.19), so this finds them by what keeps them. Not found
//! is what only the kernel itself holds: a namespace kept by nothing but a socket made in it, or by a mounted
//! file system (sysfs, proc) of a mount namespace nobody is in.
//!
//! Nothing here waits on a file system somebody else serves: links under /proc are read, not followed, and a pin
//! is opened only if its whole path is in the kernel's cache ([`open`]).
//!
//! A leak is only called one if two reads in a row agree: pods are made and removed meanwhile.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

mod kin;
mod mounts;
mod open;
mod pins;
mod processes;
mod verdict;
mod wire;
mod words;

#[cfg(test)]
mod tests;

pub use pins::{ContainerRuntime, PinOf};
pub use wire::response;

use super::Attribution;
use crate::pod::model::{NsInode, NsKind, PodId};

/// What is named one by one of a namespace: members, pins, descriptors. All are counted.
const FEW: usize = 8;
/// Holds of one namespace that are judged. With more than that it is held.
const HOLDS: usize = 64;

/// How much is looked at. What lies beyond is a [`Missing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    pub processes: usize,
    pub threads: usize,
    pub descriptors: usize,
    pub mount_namespaces: usize,
    /// Of one mount table.
    pub mountinfo_bytes: u64,
    pub namespaces: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            processes: 65_536,
            threads: 262_144,
            descriptors: 1_048_576,
            mount_namespaces: 8_192,
            mountinfo_bytes: 32 << 20,
            namespaces: 131_072,
        }
    }
}

/// What is known of the node's pods.
#[derive(Debug, Clone, Copy, Default)]
pub struct Context<'a> {
    /// The daemon's own knowledge; `None` outside of it.
    pub pods: Option<&'a Attribution>,
    /// The state directory for which `pods` is the whole truth.
    pub state: Option<&'a Path>,
    pub limits: Limits,
}

/// Why a namespace is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// A process is in it.
    InUse,
    /// No process; a pin of somebody who is there keeps it.
    Pinned,
    /// No process; a descriptor, a process-to-be or a namespace it owns keeps it.
    Held,
    /// No process, and what keeps it belongs to nothing that is there.
    Leaked,
}

impl State {
    /// As tables show it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::InUse => "in use",
            Self::Pinned => "pinned",
            Self::Held => "held",
            Self::Leaked => "LEAKED",
        }
    }
}

/// A process in a namespace, or one that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    pub pid: i32,
    pub comm: String,
    /// "shim", "infra", a container's name; empty where it is no known process of a pod.
    pub role: String,
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.comm, self.pid)
    }
}

/// What keeps a namespace alive without being inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hold {
    Pin(Pin),
    Descriptor {
        holder: Process,
        fd: u32,
    },
    /// The process's children will be in it (pid, time): it has unshared, and not forked.
    ForChildren {
        holder: Process,
    },
    /// A namespace that it owns, or a pid namespace below it.
    Child {
        kind: NsKind,
        inode: NsInode,
    },
}

/// A bind mount of a namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// As its mount namespace names it.
    pub path: PathBuf,
    /// The file under it was unlinked: no path leads to it.
    pub deleted: bool,
    /// The mount namespace it is in, and a process of that.
    pub mntns: NsInode,
    pub witness: Process,
    /// In the mount namespace of the reader.
    pub here: bool,
    pub of: PinOf,
}

/// One namespace of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub kind: NsKind,
    pub inode: NsInode,
    /// The owning user namespace; of a user namespace its parent. `None`: not to be known from here.
    pub owner: Option<NsInode>,
    /// Of a user namespace: the uid that made it.
    pub owner_uid: Option<u32>,
    /// Of a user namespace: (inside, outside, length).
    pub uid_map: Vec<(u32, u32, u32)>,
    pub state: State,
    /// All of them, and the first few.
    pub process_count: usize,
    pub processes: Vec<Process>,
    /// All of them, and the first few.
    pub hold_count: usize,
    pub holds: Vec<Hold>,
    /// Whose it is, or was; the name where the pod is known.
    pub pod_id: Option<PodId>,
    pub pod_name: String,
    /// The netns of a pod with a user namespace, not owned by that.
    pub wrong_owner: bool,
    /// The initial namespace of its kind.
    pub host: bool,
    /// What is wrong and what would end it; empty when nothing is.
    pub message: String,
}

/// What could not be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    Proc { problem: String },
    Processes { count: usize },
    Descriptors { count: usize },
    MountTables { count: usize },
    Pins { count: usize, first: PathBuf },
    Owners { count: usize },
    TooMany { what: &'static str, limit: u64 },
}

impl Missing {
    /// Stable.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::Proc { .. } => "namespaces.no_proc".into(),
            Self::Processes { .. } => "namespaces.unread_processes".into(),
            Self::Descriptors { .. } => "namespaces.unread_descriptors".into(),
            Self::MountTables { .. } => "namespaces.unread_mount_tables".into(),
            Self::Pins { .. } => "namespaces.unopened_pins".into(),
            Self::Owners { .. } => "namespaces.unknown_owners".into(),
            Self::TooMany { what, .. } => format!("namespaces.too_many_{}", what.replace(' ', "_")),
        }
    }

    /// What is not known, and what it would take.
    #[must_use]
    pub fn message(&self) -> String {
        let some = |count: usize, one: &str, many: &str| {
            if count == 1 { format!("1 {one}") } else { format!("{count} {many}") }
        };
        const ROOT: &str = "as root with CAP_SYS_PTRACE and CAP_SYS_ADMIN more is seen";
        match self {
            Self::Proc { problem } => format!("/proc cannot be read ({problem}): mount it"),
            Self::Processes { count } => {
                format!("the namespaces of {} cannot be read: {ROOT}", some(*count, "process", "processes"))
            }
            Self::Descriptors { count } => {
                format!("the descriptors of {} cannot be read: {ROOT}", some(*count, "process", "processes"))
            }
            Self::MountTables { count } => format!(
                "the mounts of {} cannot be read, and pins in there are not seen: {ROOT}",
                some(*count, "mount namespace", "mount namespaces")
            ),
            Self::Pins { count, first } => format!(
                "{} could not be opened without waiting on a file system, so who owns what they keep is not \
                 known: the first is {}",
                some(*count, "pin", "pins"),
                first.display()
            ),
            Self::Owners { count } => format!(
                "who owns {} is not to be known from this user namespace",
                some(*count, "namespace", "namespaces")
            ),
            Self::TooMany { what, limit } => format!("only the first {limit} {what} were looked at"),
        }
    }
}

/// A read of the whole node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Owners before what they own.
    pub namespaces: Vec<Found>,
    pub missing: Vec<Missing>,
    /// Nanoseconds since the Unix epoch.
    pub read_at_ns: i64,
    pub took: Duration,
}

impl Inventory {
    /// Reads the node. Blocks for milliseconds to tens of them: not for an async task.
    #[must_use]
    pub fn read(context: &Context<'_>) -> Self {
        // A second reader in this process would see the descriptors of the first.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let started = Instant::now();
        let read_at_ns = crate::pod::now_ns();
        let (mut namespaces, mut missing) = once(context);
        let before: HashSet<_> =
            namespaces.iter().filter(|n| n.state == State::Leaked).map(|n| n.inode).collect();
        if !before.is_empty() {
            (namespaces, missing) = once(context);
            for found in namespaces.iter_mut().filter(|n| n.state == State::Leaked) {
                if !before.contains(&found.inode) {
                    verdict::not_yet(found);
                }
            }
        }
        Self { namespaces, missing, read_at_ns, took: started.elapsed() }
    }

    #[must_use]
    pub fn get(&self, inode: NsInode) -> Option<&Found> {
        self.namespaces.iter().find(|found| found.inode == inode)
    }

    pub fn leaked(&self) -> impl Iterator<Item = &Found> {
        self.namespaces.iter().filter(|found| found.state == State::Leaked)
    }
}

/// What was seen of one namespace.
#[derive(Debug)]
struct Sighting {
    kind: NsKind,
    members: Vec<Process>,
    member_count: usize,
    holds: Vec<Hold>,
    hold_count: usize,
    /// How to get at it.
    ways: Vec<Way>,
}

/// A way to a descriptor of a namespace.
#[derive(Debug)]
enum Way {
    /// A link under /proc that leads straight to it.
    Link(PathBuf),
    /// A pin, below the root of a process.
    Pin { root: PathBuf, path: PathBuf },
}

impl Sighting {
    const WAYS: usize = 3;

    fn new(kind: NsKind) -> Self {
        Self {
            kind,
            members: Vec::new(),
            member_count: 0,
            holds: Vec::new(),
            hold_count: 0,
            ways: Vec::new(),
        }
    }

    fn way(&mut self, way: impl FnOnce() -> Way) {
        if self.ways.len() < Self::WAYS {
            self.ways.push(way());
        }
    }

    fn hold(&mut self, hold: impl FnOnce() -> Hold) {
        self.hold_count += 1;
        if self.holds.len() < HOLDS {
            self.holds.push(hold());
        }
    }
}

type Sightings = HashMap<NsInode, Sighting>;

fn once(context: &Context<'_>) -> (Vec<Found>, Vec<Missing>) {
    let limits = &context.limits;
    let mut missing = Vec::new();
    let mut seen = processes::look(limits, &mut missing);
    mounts::look(&seen.tables, &mut seen.namespaces, limits, &mut missing);
    let kin = kin::ask(&mut seen.namespaces, &mut missing);
    let namespaces = verdict::judge(context, &seen, &kin);
    (namespaces, missing)
}
