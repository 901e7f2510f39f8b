//! Processes and threads: which namespaces they are in, which they hold open, whose mount tables are to be read.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Dir, Mode, OFlags, openat, readlinkat};
use rustix::io::Errno;

use super::open::Nsfs;
use super::{FEW, Hold, Limits, Missing, Process, Sighting, Sightings, Way, open};
use crate::pod::model::{NsInode, NsKind};
use crate::runtime::namespaces;

/// Links under /proc/PID/ns to what a process is in.
const INSIDE: [(&str, NsKind); 8] = [
    ("ns/user", NsKind::User),
    ("ns/mnt", NsKind::Mnt),
    ("ns/net", NsKind::Net),
    ("ns/pid", NsKind::Pid),
    ("ns/ipc", NsKind::Ipc),
    ("ns/uts", NsKind::Uts),
    ("ns/cgroup", NsKind::Cgroup),
    ("ns/time", NsKind::Time),
];
/// And to what its next children will be in.
const FOR_CHILDREN: [&str; 2] = ["ns/pid_for_children", "ns/time_for_children"];
/// The init of this pid namespace: it is seen to have more capabilities than a daemon that lacks one of them,
/// and is not where a lost namespace hides.
const INIT_PID: i32 = 1;

/// What the processes told.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub namespaces: Sightings,
    /// The reader's own mount namespace first.
    pub tables: Vec<Table>,
    /// Processes, other than init, of which it is not known where they are.
    pub hidden: usize,
}

/// A mount namespace as seen from one root directory in it.
#[derive(Debug)]
pub(super) struct Table {
    pub mntns: NsInode,
    pub own: bool,
    pub places: Vec<Place>,
}

/// Where a process or thread is under /proc.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub pid: i32,
    pub dir: PathBuf,
}

/// Processes that may show a table, should the first be gone by then.
const WITNESSES: usize = 3;

struct Look<'a> {
    limits: &'a Limits,
    nsfs: Option<Nsfs>,
    namespaces: Sightings,
    tables: HashMap<(NsInode, Vec<u8>), Vec<Place>>,
    unread: usize,
    hidden: usize,
    unread_fds: usize,
    threads: usize,
    descriptors: usize,
}

/// Looks at all of /proc.
pub(super) fn look(limits: &Limits, missing: &mut Vec<Missing>) -> Seen {
    let mut look = Look {
        limits,
        nsfs: Nsfs::find(),
        namespaces: Sightings::new(),
        tables: HashMap::new(),
        unread: 0,
        hidden: 0,
        unread_fds: 0,
        threads: 0,
        descriptors: 0,
    };
    match directory(CWD, Path::new("/proc")) {
        Err(errno) => missing.push(Missing::Proc { problem: errno.to_string() }),
        Ok(proc) => {
            let pids = numbers(&proc);
            if pids.len() > limits.processes {
                missing.push(Missing::TooMany { what: "processes", limit: limits.processes as u64 });
            }
            for pid in pids.into_iter().take(limits.processes) {
                look.process(&proc, pid);
            }
        }
    }
    look.missing(missing);
    let own = own_mntns();
    let mut tables: Vec<_> = look.tables.into_iter().collect();
    // The whole table before what somebody in a changed root sees of it.
    tables.sort_by_key(|((mntns, root), _)| (Some(*mntns) != own, *mntns, root.len(), root.clone()));
    if tables.len() > limits.mount_namespaces {
        missing.push(Missing::TooMany { what: "mount tables", limit: limits.mount_namespaces as u64 });
        tables.truncate(limits.mount_namespaces);
    }
    let tables = tables
        .into_iter()
        .map(|((mntns, _), places)| Table { mntns, own: Some(mntns) == own, places })
        .collect();
    Seen { namespaces: look.namespaces, tables, hidden: look.hidden }
}

fn own_mntns() -> Option<NsInode> {
    let link = readlinkat(CWD, "/proc/self/ns/mnt", Vec::new()).ok()?;
    namespace(link.to_bytes()).map(|(_, inode)| inode)
}

impl Look<'_> {
    fn missing(&self, missing: &mut Vec<Missing>) {
        let limits = self.limits;
        let lacks = [
            (self.unread > 0).then_some(Missing::Processes { count: self.unread }),
            (self.unread_fds > 0).then_some(Missing::Descriptors { count: self.unread_fds }),
            (self.threads > limits.threads)
                .then_some(Missing::TooMany { what: "threads", limit: limits.threads as u64 }),
            (self.descriptors > limits.descriptors)
                .then_some(Missing::TooMany { what: "descriptors", limit: limits.descriptors as u64 }),
            (self.namespaces.len() >= limits.namespaces)
                .then_some(Missing::TooMany { what: "namespaces", limit: limits.namespaces as u64 }),
        ];
        missing.extend(lacks.into_iter().flatten());
    }

    /// The directory's descriptor stays with this process, whoever has its pid later.
    fn process(&mut self, proc: &OwnedFd, pid: i32) {
        let place = Place { pid, dir: PathBuf::from(format!("/proc/{pid}")) };
        let Ok(dir) = directory(proc, Path::new(&pid.to_string())) else { return };
        let leader = self.inside(&dir, &place, None);
        self.threads(&dir, &place, leader.as_ref());
        if leader.is_none() {
            return;
        }
        for link in FOR_CHILDREN {
            let Some((kind, inode)) = link_to(&dir, link) else { continue };
            if leader.as_ref().is_some_and(|inodes| inodes.contains(&Some(inode))) {
                continue;
            }
            let Some(sighting) = self.sighting(kind, inode) else { continue };
            sighting.way(|| Way::Link(place.dir.join(link)));
            sighting.hold(|| Hold::ForChildren { holder: place.process() });
        }
        self.descriptors(&dir, &place);
    }

    /// Notes where a process is, or a thread, as far as it is not where its leader is.
    fn inside(
        &mut self,
        dir: &OwnedFd,
        place: &Place,
        leader: Option<&[Option<NsInode>; 8]>,
    ) -> Option<[Option<NsInode>; 8]> {
        let mut inodes = [None; 8];
        for (at, (link, kind)) in INSIDE.into_iter().enumerate() {
            let inode = match readlinkat(dir, link, Vec::new()) {
                Ok(target) => {
                    namespace(target.to_bytes()).filter(|(k, _)| *k == kind).map(|(_, inode)| inode)
                }
                Err(Errno::ACCESS | Errno::PERM) => {
                    self.unread += 1;
                    self.hidden += usize::from(place.pid != INIT_PID);
                    return None;
                }
                // Gone, or (a zombie) in no namespace but its user's; or a kernel without that kind.
                Err(_) => None,
            };
            let Some(inode) = inode else { continue };
            inodes[at] = Some(inode);
            if leader.is_some_and(|leader| leader[at] == Some(inode)) {
                continue;
            }
            let Some(sighting) = self.sighting(kind, inode) else { continue };
            sighting.way(|| Way::Link(place.dir.join(link)));
            // Threads of one process come one after the other.
            if leader.is_some() && sighting.members.last().is_some_and(|member| member.pid == place.pid) {
                continue;
            }
            sighting.member_count += 1;
            if sighting.members.len() < FEW {
                sighting.members.push(place.process());
            }
            if kind == NsKind::Mnt {
                self.table(dir, inode, place);
            }
        }
        Some(inodes)
    }

    fn table(&mut self, dir: &OwnedFd, mntns: NsInode, place: &Place) {
        let Ok(root) = readlinkat(dir, "root", Vec::new()) else { return };
        let places = self.tables.entry((mntns, root.into_bytes())).or_default();
        if places.len() < WITNESSES {
            places.push(place.clone());
        }
    }

    fn threads(&mut self, dir: &OwnedFd, place: &Place, leader: Option<&[Option<NsInode>; 8]>) {
        // Of a process that cannot be looked into its threads cannot, either; a leader that ended is only seen
        // through them.
        let Ok(tasks) = directory(dir, Path::new("task")) else { return };
        let tids = numbers(&tasks);
        if tids.len() < 2 || leader.is_none() {
            return;
        }
        for tid in tids.into_iter().filter(|tid| *tid != place.pid) {
            self.threads += 1;
            if self.threads > self.limits.threads {
                return;
            }
            let Ok(task) = directory(&tasks, Path::new(&tid.to_string())) else { continue };
            let place = Place { pid: place.pid, dir: place.dir.join(format!("task/{tid}")) };
            self.inside(&task, &place, leader);
        }
    }

    fn descriptors(&mut self, dir: &OwnedFd, place: &Place) {
        let fds = match directory(dir, Path::new("fd")) {
            Ok(fds) => fds,
            Err(Errno::ACCESS | Errno::PERM) => {
                self.unread_fds += 1;
                return;
            }
            Err(_) => return,
        };
        for fd in numbers(&fds) {
            self.descriptors += 1;
            if self.descriptors > self.limits.descriptors {
                return;
            }
            let Ok(target) = readlinkat(&fds, fd.to_string(), Vec::new()) else { continue };
            let link = || Way::Link(place.dir.join(format!("fd/{fd}")));
            let of = namespace(target.to_bytes()).or_else(|| {
                // Opened through a pin, its link has the path of that.
                let path = target.to_bytes().starts_with(b"/") || target.to_bytes().starts_with(b"(");
                let inode = self.nsfs.filter(|_| path)?.inode(&fds, fd)?;
                let opened = open::open(&link(), inode).ok()?;
                Some((namespaces::kind(opened.as_fd()).ok()?, inode))
            });
            let Some((kind, inode)) = of else { continue };
            let Some(sighting) = self.sighting(kind, inode) else { continue };
            sighting.way(link);
            sighting.hold(|| Hold::Descriptor { holder: place.process(), fd: fd.unsigned_abs() });
        }
    }

    fn sighting(&mut self, kind: NsKind, inode: NsInode) -> Option<&mut Sighting> {
        if self.namespaces.len() >= self.limits.namespaces && !self.namespaces.contains_key(&inode) {
            return None;
        }
        Some(self.namespaces.entry(inode).or_insert_with(|| Sighting::new(kind)))
    }
}

impl Place {
    fn process(&self) -> Process {
        Process { pid: self.pid, comm: comm(&self.dir), role: String::new() }
    }
}

/// The name of a process or thread, fit for one line.
pub(super) fn comm(dir: &Path) -> String {
    let mut bytes = Vec::with_capacity(16);
    let read = File::open(dir.join("comm")).and_then(|file| file.take(64).read_to_end(&mut bytes));
    if read.is_err() || bytes.is_empty() {
        return "?".to_owned();
    }
    let text = String::from_utf8_lossy(bytes.strip_suffix(b"\n").unwrap_or(&bytes)).into_owned();
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// Whether a process with one of these names runs.
pub(super) fn runs(names: &[&str]) -> bool {
    let Ok(proc) = directory(CWD, Path::new("/proc")) else { return false };
    numbers(&proc).into_iter().any(|pid| {
        let comm = comm(&PathBuf::from(format!("/proc/{pid}")));
        names.iter().any(|name| comm == *name)
    })
}

/// "net:[4026531840]" as the links and mount tables of nsfs have it; no path looks like that.
pub(super) fn namespace(text: &[u8]) -> Option<(NsKind, NsInode)> {
    let text = std::str::from_utf8(text).ok()?;
    let (kind, inode) = text.strip_suffix(']')?.split_once(":[")?;
    let kind = INSIDE.iter().map(|(_, kind)| *kind).find(|known| known.name() == kind)?;
    Some((kind, NsInode(inode.parse().ok()?)))
}

fn link_to(dir: &OwnedFd, link: &str) -> Option<(NsKind, NsInode)> {
    namespace(readlinkat(dir, link, Vec::new()).ok()?.to_bytes())
}

fn directory(at: impl AsFd, path: &Path) -> Result<OwnedFd, Errno> {
    openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// The entries of a directory that are numbers, in their order.
fn numbers(dir: &OwnedFd) -> Vec<i32> {
    let Ok(entries) = Dir::read_from(dir) else { return Vec::new() };
    let number = |entry: rustix::fs::DirEntry| entry.file_name().to_str().ok()?.parse().ok();
    let mut found: Vec<i32> = entries.filter_map(|entry| number(entry.ok()?)).collect();
    found.sort_unstable();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_of_nsfs_are_namespaces() {
        assert_eq!(namespace(b"net:[4026531840]"), Some((NsKind::Net, NsInode(4_026_531_840))));
        for other in ["socket:[4026531840]", "/tmp/net:[1]", "net:[]", "net:[x]", "net:[1", "pipe:[1]", ""] {
            assert_eq!(namespace(other.as_bytes()), None, "{other}");
        }
    }

    #[test]
    fn this_process_is_in_its_own_namespaces() {
        let mut missing = Vec::new();
        let seen = look(&Limits::default(), &mut missing);
        let own = own_mntns().unwrap();
        assert!(seen.namespaces[&own].member_count > 0);
        assert!(seen.tables[0].own && seen.tables[0].mntns == own);
    }

    #[test]
    fn what_lies_beyond_a_limit_is_named() {
        let mut missing = Vec::new();
        let seen = look(&Limits { processes: 1, ..Limits::default() }, &mut missing);
        assert!(missing.contains(&Missing::TooMany { what: "processes", limit: 1 }), "{missing:?}");
        assert!(seen.tables.len() <= 1);
        let mut missing = Vec::new();
        look(&Limits { descriptors: 1, ..Limits::default() }, &mut missing);
        assert!(missing.contains(&Missing::TooMany { what: "descriptors", limit: 1 }), "{missing:?}");
    }
}
