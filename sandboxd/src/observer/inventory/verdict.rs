//! From what was seen to what it means: is anybody in it, and if not, does what keeps it belong to anybody?

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::io::Errno;

use super::kin::{Initial, Kin};
use super::open::cached;
use super::processes::{self, Seen};
use super::{ContainerRuntime, Context, FEW, Found, HOLDS, Hold, PinOf, Process, Sighting, State, words};
use crate::pod::model::{NsInode, NsKind, PodId};

/// The lock file of a daemon in its state directory.
const LOCK: &str = "sandboxd.lock";

/// Programs that keep namespaces for others by descriptors: theirs are no leaks.
const MANAGERS: [&str; 20] = [
    "sandboxd",
    "sandboxd-shim",
    "systemd",
    "init",
    "containerd",
    "containerd-shim",
    "dockerd",
    "crio",
    "conmon",
    "podman",
    "runc",
    "crun",
    "lxc-start",
    "lxd",
    "incusd",
    "slirp4netns",
    "pasta",
    "passt.avx2",
    "cilium-agent",
    "ovs-vswitchd",
];

/// What a hold is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// Somebody who is there wants it.
    Wanted,
    Stale(Stale),
}

/// Why nobody wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stale {
    /// A pod that this daemon does not have.
    UnknownPod,
    /// A pod of a sandboxd that does not run.
    DaemonGone,
    RuntimeGone(ContainerRuntime),
    /// No path leads to the mount.
    PathGone,
    /// A descriptor of a process that manages no namespaces.
    Stranger,
    /// What it owns is leaked itself.
    LeakedChild,
}

/// Judges all that was seen; owners come before what they own.
pub(super) fn judge(context: &Context<'_>, seen: &Seen, kin: &HashMap<NsInode, Kin>) -> Vec<Found> {
    let judge = Judge {
        context,
        seen,
        running: std::cell::RefCell::default(),
        locks: OnceCell::new(),
        daemons: std::cell::RefCell::default(),
    };
    let mut states = HashMap::new();
    for inode in seen.namespaces.keys() {
        judge.state(*inode, &mut states, 0);
    }
    let initial = Initial::read();
    let mut found: HashMap<NsInode, Found> = HashMap::new();
    for (inode, sighting) in &seen.namespaces {
        let kin = kin.get(inode).copied().unwrap_or_default();
        found.insert(*inode, judge.found(*inode, sighting, kin, initial, &states));
    }
    let mut ordered = in_order(found);
    whose(context, &mut ordered);
    for found in &mut ordered {
        found.holds.truncate(FEW);
    }
    ordered
}

/// For a leak that only the second of two reads calls one: somebody may have just left it.
pub(super) fn not_yet(found: &mut Found) {
    let pinned = found.holds.iter().any(|hold| matches!(hold, Hold::Pin(_)));
    found.state = if pinned { State::Pinned } else { State::Held };
    found.message.clear();
}

struct Judge<'a> {
    context: &'a Context<'a>,
    seen: &'a Seen,
    running: std::cell::RefCell<HashMap<&'static str, bool>>,
    locks: OnceCell<Vec<FileLock>>,
    daemons: std::cell::RefCell<HashMap<PathBuf, bool>>,
}

type States = HashMap<NsInode, (State, Vec<Standing>)>;

impl Judge<'_> {
    /// Its state, after that of what it owns. User and pid namespaces are 32 levels deep at most.
    fn state(&self, inode: NsInode, states: &mut States, depth: usize) -> State {
        if let Some((state, _)) = states.get(&inode) {
            return *state;
        }
        let Some(sighting) = self.seen.namespaces.get(&inode) else { return State::Held };
        let mut standings = Vec::new();
        for hold in &sighting.holds {
            standings.push(match hold {
                Hold::Child { inode, .. } if depth < 80 => match self.state(*inode, states, depth + 1) {
                    State::Leaked => Standing::Stale(Stale::LeakedChild),
                    State::InUse | State::Pinned | State::Held => Standing::Wanted,
                },
                Hold::Child { .. } | Hold::ForChildren { .. } => Standing::Wanted,
                Hold::Descriptor { holder, .. } => self.descriptor(holder),
                Hold::Pin(pin) => self.pin(pin),
            });
        }
        let wanted = |pins: bool| {
            let both = sighting.holds.iter().zip(&standings);
            both.filter(|(hold, _)| matches!(hold, Hold::Pin(_)) == pins).any(|(_, s)| *s == Standing::Wanted)
        };
        let pinned = sighting.holds.iter().any(|hold| matches!(hold, Hold::Pin(_)));
        let state = if sighting.member_count > 0 {
            State::InUse
        } else if wanted(true) {
            State::Pinned
        } else if wanted(false) || sighting.hold_count > HOLDS || sighting.holds.is_empty() {
            State::Held
        } else if self.seen.hidden > 0 {
            // One of those that could not be looked into may be in it.
            if pinned { State::Pinned } else { State::Held }
        } else {
            State::Leaked
        };
        states.insert(inode, (state, standings));
        state
    }

    fn descriptor(&self, holder: &Process) -> Standing {
        let ours = holder.pid.unsigned_abs() == std::process::id();
        // "containerd-shim-runc-v2" is cut to 15 letters.
        let manager =
            MANAGERS.iter().any(|name| holder.comm == *name || holder.comm.starts_with(&format!("{name}-")));
        let of_pod = self.context.pods.is_some_and(|pods| pods.pod_of_process(holder.pid).is_some());
        if ours || manager || of_pod { Standing::Wanted } else { Standing::Stale(Stale::Stranger) }
    }

    fn pin(&self, pin: &super::Pin) -> Standing {
        if pin.deleted {
            return Standing::Stale(Stale::PathGone);
        }
        match &pin.of {
            PinOf::IpNetns | PinOf::Other => Standing::Wanted,
            PinOf::Sandboxd { state, pod } => self.sandboxd(pin, state, pod),
            PinOf::Runtime(runtime) if self.runs(*runtime) => Standing::Wanted,
            PinOf::Runtime(runtime) => Standing::Stale(Stale::RuntimeGone(*runtime)),
        }
    }

    fn sandboxd(&self, pin: &super::Pin, state: &Path, pod: &PodId) -> Standing {
        if self.context.pods.is_some_and(|pods| pods.knows(pod)) {
            return Standing::Wanted;
        }
        if self.context.pods.is_some() && self.context.state == Some(state) {
            return Standing::Stale(Stale::UnknownPod);
        }
        let mut daemons = self.daemons.borrow_mut();
        let there = *daemons.entry(state.to_owned()).or_insert_with(|| {
            let root = PathBuf::from(format!("/proc/{}/root", pin.witness.pid));
            self.locked(&root, &state.join(LOCK))
        });
        if there { Standing::Wanted } else { Standing::Stale(Stale::DaemonGone) }
    }

    fn runs(&self, runtime: ContainerRuntime) -> bool {
        let mut running = self.running.borrow_mut();
        *running.entry(runtime.name()).or_insert_with(|| processes::runs(runtime.programs()))
    }

    /// Whether somebody holds a lock on the file. Taking it to find out would keep a daemon from starting.
    fn locked(&self, root: &Path, path: &Path) -> bool {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let file = openat(CWD, root, flags, Mode::empty()).and_then(|root| cached(root, path));
        let file = match file {
            Ok(file) => file,
            // What somebody has open is in the cache; only what may not be looked at is not known.
            Err(errno) => return matches!(errno, Errno::ACCESS | Errno::PERM),
        };
        let Ok(stat) = statx(&file, c"", AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC, StatxFlags::INO)
        else {
            return true;
        };
        let locks =
            self.locks.get_or_init(|| FileLock::all(&fs::read_to_string("/proc/locks").unwrap_or_default()));
        locks.iter().filter(|lock| lock.inode == stat.stx_ino).any(|lock| {
            // Some file systems (btrfs, overlay) show another device to stat(2) than here.
            lock.device == (stat.stx_dev_major, stat.stx_dev_minor)
                || processes::comm(&PathBuf::from(format!("/proc/{}", lock.pid))) == "sandboxd"
        })
    }

    fn found(
        &self,
        inode: NsInode,
        sighting: &Sighting,
        kin: Kin,
        initial: Initial,
        states: &States,
    ) -> Found {
        let none = (State::Held, Vec::new());
        let (state, standings) = states.get(&inode).unwrap_or(&none);
        let mut found = Found {
            kind: sighting.kind,
            inode,
            owner: kin.owner,
            owner_uid: kin.owner_uid,
            uid_map: Vec::new(),
            state: *state,
            process_count: sighting.member_count,
            processes: sighting.members.clone(),
            hold_count: sighting.hold_count,
            holds: sighting.holds.clone(),
            pod_id: None,
            pod_name: String::new(),
            wrong_owner: false,
            host: initial.is(sighting.kind, inode),
            message: String::new(),
        };
        if sighting.kind == NsKind::User {
            found.uid_map =
                sighting.members.iter().find_map(|member| uid_map(member.pid)).unwrap_or_default();
        }
        let stale = standings.iter().any(|standing| *standing != Standing::Wanted);
        match state {
            State::Leaked => found.message = words::leaked(&found.holds, standings),
            State::Pinned | State::Held if stale && self.seen.hidden > 0 => {
                found.message = words::unsure(self.seen.hidden);
            }
            State::InUse | State::Pinned | State::Held => {}
        }
        found
    }
}

/// A line of /proc/locks: `1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF`.
#[derive(Debug, PartialEq, Eq)]
struct FileLock {
    pid: i32,
    device: (u32, u32),
    inode: u64,
}

impl FileLock {
    fn all(text: &str) -> Vec<Self> {
        let line = |line: &str| {
            let mut fields = line.split_whitespace().filter(|field| *field != "->").skip(4);
            let pid = fields.next()?.parse().ok()?;
            let mut file = fields.next()?.split(':');
            let mut number = || u32::from_str_radix(file.next()?, 16).ok();
            let device = (number()?, number()?);
            Some(Self { pid, device, inode: file.next()?.parse().ok()? })
        };
        text.lines().filter_map(line).collect()
    }
}

/// (inside, outside, length) of the user namespace a process is in, as seen from the reader's.
fn uid_map(pid: i32) -> Option<Vec<(u32, u32, u32)>> {
    let text = fs::read_to_string(format!("/proc/{pid}/uid_map")).ok()?;
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?))
    };
    text.lines().map(line).collect()
}

/// Says whose they are: by the daemon's knowledge, by the pins, and by the user namespace that owns them.
fn whose(context: &Context<'_>, ordered: &mut [Found]) {
    let mut pods: HashMap<NsInode, (PodId, String)> = HashMap::new();
    let mut userns: HashMap<PodId, NsInode> = HashMap::new();
    for found in &mut *ordered {
        let known = context.pods.and_then(|pods| pods.pod_of_namespace(found.inode));
        let by_pin = || {
            found.holds.iter().find_map(|hold| match hold {
                Hold::Pin(super::Pin { of: PinOf::Sandboxd { pod, .. }, .. }) => {
                    Some((pod.clone(), String::new()))
                }
                _ => None,
            })
        };
        let by_owner = || found.owner.and_then(|owner| pods.get(&owner).cloned()).filter(|_| !found.host);
        let pod =
            known.as_ref().map(|keys| (keys.id.clone(), keys.name.clone())).or_else(by_pin).or_else(by_owner);
        let Some((id, name)) = pod else { continue };
        if let Some(keys) = &known {
            for process in &mut found.processes {
                let role = keys.processes.iter().find(|known| known.pid == process.pid);
                process.role = role.map(|known| known.role.clone()).unwrap_or_default();
            }
            if let Some(own) = keys.own(NsKind::User) {
                userns.insert(id.clone(), own);
            }
        }
        if found.kind == NsKind::User {
            pods.insert(found.inode, (id.clone(), name.clone()));
            userns.entry(id.clone()).or_insert(found.inode);
        }
        (found.pod_id, found.pod_name) = (Some(id), name);
    }
    // A netns of the host's stands before the pod's user namespace.
    for found in ordered.iter_mut().filter(|found| found.kind == NsKind::Net && !found.host) {
        let Some(own) = found.pod_id.as_ref().and_then(|id| userns.get(id)).copied() else { continue };
        let Some(owner) = found.owner.filter(|owner| *owner != own) else { continue };
        let below = pods.get(&owner).map(|(id, _)| id) == found.pod_id.as_ref();
        if !below {
            found.wrong_owner = true;
            let told = words::wrong_owner(owner, own, Initial::default().is(NsKind::User, owner));
            found.message = [std::mem::take(&mut found.message), told].join(" ").trim().to_owned();
        }
    }
}

/// The tree in depth-first order: a user namespace, what it owns, the user namespaces below it.
fn in_order(mut found: HashMap<NsInode, Found>) -> Vec<Found> {
    let mut below: BTreeMap<Option<NsInode>, Vec<NsInode>> = BTreeMap::new();
    for namespace in found.values() {
        let owner = namespace.owner.filter(|owner| found.contains_key(owner));
        below.entry(owner).or_default().push(namespace.inode);
    }
    for inodes in below.values_mut() {
        let key = |inode: &NsInode| {
            let one = found.get(inode);
            (one.map(|f| f.kind == NsKind::User && !f.host), one.map(|f| (!f.host, f.kind)), *inode)
        };
        // The last comes first from a stack.
        inodes.sort_by_key(|inode| std::cmp::Reverse(key(inode)));
    }
    let mut ordered = Vec::with_capacity(found.len());
    let mut stack = below.remove(&None).unwrap_or_default();
    let mut done = HashSet::new();
    while let Some(inode) = stack.pop() {
        if done.insert(inode) {
            ordered.extend(found.remove(&inode));
            stack.extend(below.remove(&Some(inode)).unwrap_or_default());
        }
    }
    // Nothing is left, unless the kernel's answers changed under way.
    let mut rest: Vec<_> = found.into_values().collect();
    rest.sort_by_key(|found| found.inode);
    ordered.extend(rest);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_are_read_with_their_files() {
        let text = "1: FLOCK  ADVISORY  WRITE 708 fe:00:1234 0 EOF\n1: -> FLOCK ADVISORY WRITE 709 00:1b:77 0 EOF\n2: x\n";
        let all = FileLock::all(text);
        assert_eq!(all[0], FileLock { pid: 708, device: (0xfe, 0), inode: 1234 });
        assert_eq!(all[1], FileLock { pid: 709, device: (0, 0x1b), inode: 77 });
        assert_eq!(all.len(), 2);
    }
}
