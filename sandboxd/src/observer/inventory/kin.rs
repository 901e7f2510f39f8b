//! Who owns a namespace, and whose child it is: what the kernel says of a descriptor (ioctl_nsfs(2)).

use std::collections::HashMap;
use std::os::fd::{AsFd as _, OwnedFd};

use super::{Hold, Missing, Sighting, Sightings, Way, open};
use crate::pod::model::{NsInode, NsKind};
use crate::runtime::namespaces;

/// What is known of one.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Kin {
    /// The owning user namespace; of a user namespace its parent.
    pub owner: Option<NsInode>,
    /// Of a pid namespace.
    pub parent: Option<NsInode>,
    pub owner_uid: Option<u32>,
}

/// Asks for all that were seen. Owners and parents that nothing was seen of before are added: nobody is in them,
/// and what they own keeps them.
pub(super) fn ask(seen: &mut Sightings, missing: &mut Vec<Missing>) -> HashMap<NsInode, Kin> {
    let mut asker = Asker { kin: HashMap::new(), found: Vec::new() };
    let (mut pins, mut first_pin, mut unknown) = (0, None, 0);
    for (inode, sighting) in &*seen {
        if asker.kin.contains_key(inode) {
            continue;
        }
        let opened = sighting.ways.iter().find_map(|way| open::open(way, *inode).ok());
        let Some(namespace) = opened else {
            // Whoever was seen in it has gone meanwhile; a pin that is still there says something else.
            if let Some(Way::Pin { path, .. }) = sighting.ways.first() {
                pins += 1;
                first_pin.get_or_insert_with(|| path.clone());
            }
            continue;
        };
        asker.learn(*inode, sighting.kind, &namespace);
        let known = &asker.kin[inode];
        // Above the initial one there is none.
        let top = Initial::default().is(sighting.kind, *inode);
        unknown += usize::from(known.owner.is_none() && !top);
    }
    for (inode, kind) in asker.found {
        seen.entry(inode).or_insert_with(|| Sighting::new(kind));
    }
    let mut children: Vec<_> = asker.kin.iter().map(|(inode, kin)| (*inode, *kin)).collect();
    children.sort_by_key(|(inode, _)| *inode);
    for (child, kin) in children {
        let Some(kind) = seen.get(&child).map(|sighting| sighting.kind) else { continue };
        for above in [kin.owner, kin.parent].into_iter().flatten() {
            // Of one that somebody is in, the tree shows what it owns.
            if let Some(sighting) = seen.get_mut(&above).filter(|sighting| sighting.member_count == 0) {
                sighting.hold(|| Hold::Child { kind, inode: child });
            }
        }
    }
    if let Some(first) = first_pin {
        missing.push(Missing::Pins { count: pins, first });
    }
    if unknown > 0 {
        missing.push(Missing::Owners { count: unknown });
    }
    asker.kin
}

struct Asker {
    kin: HashMap<NsInode, Kin>,
    found: Vec<(NsInode, NsKind)>,
}

impl Asker {
    /// Learns of a namespace and of all above it. The kernel allows 32 levels of each.
    fn learn(&mut self, inode: NsInode, kind: NsKind, namespace: &OwnedFd) {
        if self.kin.contains_key(&inode) {
            return;
        }
        let fd = namespace.as_fd();
        // Known first: nothing can go round in circles.
        self.kin.insert(inode, Kin::default());
        let above = if kind == NsKind::User { namespaces::parent(fd) } else { namespaces::owner(fd) };
        let owner = above.ok().flatten().and_then(|owner| self.above(NsKind::User, &owner));
        let parent = match kind {
            NsKind::Pid => namespaces::parent(fd).ok().flatten().and_then(|up| self.above(NsKind::Pid, &up)),
            _ => None,
        };
        let owner_uid = (kind == NsKind::User).then(|| namespaces::owner_uid(fd).ok()).flatten();
        self.kin.insert(inode, Kin { owner, parent, owner_uid });
    }

    fn above(&mut self, kind: NsKind, namespace: &OwnedFd) -> Option<NsInode> {
        let inode = namespaces::inode(namespace.as_fd()).ok()?;
        if !self.kin.contains_key(&inode) {
            self.found.push((inode, kind));
            self.learn(inode, kind, namespace);
        }
        Some(inode)
    }
}

/// The initial namespaces of the kernel. Most have fixed numbers (include/linux/proc_ns.h); the network's and the
/// mounts' are where kthreadd is, which never leaves them.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Initial {
    net: Option<NsInode>,
    mnt: Option<NsInode>,
}

impl Initial {
    pub fn read() -> Self {
        let link = |pid: u32, kind: NsKind| {
            let path = format!("/proc/{pid}/ns/{}", kind.name());
            let target = rustix::fs::readlinkat(rustix::fs::CWD, path, Vec::new()).ok()?;
            super::processes::namespace(target.to_bytes()).map(|(_, inode)| inode)
        };
        // In a pid namespace of its own pid 2 is anybody, and in a container nobody can tell.
        let kthreadd = super::processes::comm(std::path::Path::new("/proc/2")) == "kthreadd"
            && link(2, NsKind::Pid).is_some_and(|inode| Self::default().is(NsKind::Pid, inode));
        if !kthreadd {
            return Self::default();
        }
        Self { net: link(2, NsKind::Net), mnt: link(2, NsKind::Mnt) }
    }

    pub fn is(self, kind: NsKind, inode: NsInode) -> bool {
        let fixed = match kind {
            NsKind::Ipc => 0xEFFF_FFFF,
            NsKind::Uts => 0xEFFF_FFFE,
            NsKind::User => 0xEFFF_FFFD,
            NsKind::Pid => 0xEFFF_FFFC,
            NsKind::Cgroup => 0xEFFF_FFFB,
            NsKind::Time => 0xEFFF_FFFA,
            NsKind::Net => return self.net == Some(inode),
            NsKind::Mnt => return self.mnt == Some(inode),
        };
        inode.0 == fixed
    }
}
