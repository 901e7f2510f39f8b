//! Why a check was denied: a value, made from what the record itself holds.
//!
//! The rules follow the order in which the kernel asks. A mount of sysfs asks `may_mount` (the owner of the
//! mount namespace), then `kobj_ns_current_may_mount` (the owner of the network namespace), then
//! `mount_capable`; the first denial ends the syscall. So a denial in the mount namespace's owner is
//! `may_mount`'s even where the network namespace has the same owner.

use sandboxd_ebpf::Syscall;

use super::check::{Check, INIT, Verdict};
use super::covering::Covering;
use super::failure::{self, Failure};
use super::names::{self, CAP_SYS_PTRACE};
use crate::pod::model::{NsInode, NsKind};

/// Why. Inodes are of user namespaces unless named otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// sysfs belongs to a network namespace, and the caller's is owned by a user namespace in which the
    /// caller has no privilege: the network namespace was made before the caller's user namespace.
    NetnsOwnedByOtherUserns { netns: NsInode, owner: NsInode, caller: NsInode },
    /// proc belongs to a pid namespace, and the caller's is owned by another user namespace.
    ProcWithoutOwnPidns { pidns: NsInode, owner: NsInode, caller: NsInode },
    /// Any mount: the caller's mount namespace is owned by another user namespace.
    MayMountDenied { mntns: NsInode, owner: NsInode, caller: NsInode },
    /// The namespace to join is owned by a user namespace in which the caller has no privilege.
    SetnsForeignNamespace { owner: NsInode, caller: NsInode },
    /// The user namespace to join is neither the caller's own nor one below it.
    SetnsForeignUserns { target: NsInode, caller: NsInode },
    /// The process whose namespaces are to be joined may not be looked into (ptrace(2)).
    SetnsProcessClosed { owner: NsInode, caller: NsInode },
    /// mqueue belongs to an ipc namespace, and the caller's is owned by another user namespace.
    MqueueWithoutOwnIpcns { owner: NsInode, caller: NsInode },
    /// cgroup and cgroup2 belong to a cgroup namespace, and the caller's is owned by another user namespace.
    CgroupWithoutOwnCgroupns { fs_type: Box<str>, owner: NsInode, caller: NsInode },
    /// The file system to reconfigure was mounted from another user namespace.
    RemountOfOthers { owner: NsInode, caller: NsInode },
    /// The file system may be mounted in a user namespace, but not with this option.
    OptionNotForUserns { fs_type: Box<str>, caller: NsInode },
    /// The file system may be mounted from the initial user namespace only.
    FilesystemNotForUserns { fs_type: Box<str>, caller: NsInode },
    /// The caller is in the right user namespace, or in one above it, and has dropped the capability.
    CapabilityDropped { capability: u32, userns: NsInode },
    /// sysfs or proc would show what a mount over the existing one hides. No check is denied.
    TooRevealing { fs_type: Box<str>, covering: Covering },
    /// The call failed without a denied check.
    Failed(Failure),
    /// Denied in a user namespace that is neither the caller's nor the owner of what it asked for.
    OtherUserns { target: NsInode, caller: NsInode },
    /// A check that the syscall makes on the way and that does not decide it: the kernel asks, is told no,
    /// and goes on with less.
    Incidental { capability: u32 },
    /// The record lacks what it takes to tell: see the observer's degradations.
    Unknown,
    /// The caller belongs to no pod of this node; the reason the kernel had.
    NotAPodProcess(Box<Reason>),
}

/// File systems with FS_USERNS_MOUNT: a user namespace may mount them (Linux 6.18).
const FOR_USERNS: [&str; 13] = [
    "sysfs", "proc", "tmpfs", "ramfs", "devpts", "mqueue", "cgroup", "cgroup2", "overlay", "fuse", "fuseblk",
    "binder", "bpf",
];

impl Reason {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NetnsOwnedByOtherUserns { .. } => "netns-owned-by-other-userns",
            Self::ProcWithoutOwnPidns { .. } => "proc-without-own-pidns",
            Self::MayMountDenied { .. } => "mntns-owned-by-other-userns",
            Self::SetnsForeignNamespace { .. } => "setns-foreign-namespace",
            Self::SetnsForeignUserns { .. } => "setns-foreign-userns",
            Self::SetnsProcessClosed { .. } => "setns-process-closed",
            Self::MqueueWithoutOwnIpcns { .. } => "mqueue-without-own-ipcns",
            Self::CgroupWithoutOwnCgroupns { .. } => "cgroup-without-own-cgroupns",
            Self::RemountOfOthers { .. } => "remount-of-others",
            Self::OptionNotForUserns { .. } => "option-not-for-userns",
            Self::FilesystemNotForUserns { .. } => "filesystem-not-for-userns",
            Self::CapabilityDropped { .. } => "capability-dropped",
            Self::TooRevealing { .. } => "too-revealing",
            Self::Failed(failure) => failure.code(),
            Self::OtherUserns { .. } => "other-userns",
            Self::Incidental { .. } => "incidental",
            Self::Unknown => "unknown",
            Self::NotAPodProcess(_) => "not-a-pod-process",
        }
    }

    /// What the kernel had against it, whoever the caller is.
    #[must_use]
    pub fn kernels(&self) -> &Self {
        match self {
            Self::NotAPodProcess(inner) => inner.kernels(),
            other => other,
        }
    }

    /// Memory it takes beside itself, about.
    #[must_use]
    pub fn heap(&self) -> usize {
        match self {
            Self::NotAPodProcess(inner) => size_of::<Self>() + inner.heap(),
            Self::TooRevealing { fs_type, covering: Covering::Mounts(mounts) } => {
                let strings = mounts.iter().map(|(path, kind)| path.as_os_str().len() + kind.len());
                fs_type.len()
                    + mounts.capacity() * size_of::<(std::path::PathBuf, String)>()
                    + strings.sum::<usize>()
            }
            _ => 16,
        }
    }

    /// Whether this is what made the syscall fail.
    #[must_use]
    pub fn is_decisive(&self) -> bool {
        !matches!(self.kernels(), Self::Incidental { .. })
    }

    /// The reason of a denied check; `None` for an allowed one.
    #[must_use]
    pub fn of(check: &Check) -> Option<Self> {
        if check.verdict != Verdict::Denied {
            return None;
        }
        let (Some(caller), Some(target)) = (check.caller_userns, check.target_userns) else {
            return Some(Self::Unknown);
        };
        let Some(capability) = check.capability else { return Some(Self::Unknown) };
        if !check.syscall.is_decided_by(capability) {
            return Some(Self::Incidental { capability });
        }
        let dropped = elsewhere(check, capability, caller, target);
        Some(match check.syscall {
            Syscall::Mount | Syscall::Fsopen | Syscall::Fsconfig | Syscall::Fsmount | Syscall::MoveMount => {
                dropped.unwrap_or_else(|| mounting(check, capability, caller, target))
            }
            Syscall::Setns => dropped.unwrap_or_else(|| joining(check, capability, caller, target)),
            // Copying the caller's memory asks CAP_SYS_ADMIN of the initial user namespace and takes no for
            // an answer; new namespaces are asked for in the caller's own, or in the new one.
            Syscall::Unshare | Syscall::Clone | Syscall::Clone3 => {
                dropped.unwrap_or(Self::Incidental { capability })
            }
        })
    }

    /// Without the "no pod of this node" around it, or with it.
    #[must_use]
    pub fn for_pod(self, is_pods: bool) -> Self {
        match (self, is_pods) {
            (Self::NotAPodProcess(inner), true) => *inner,
            (known @ Self::NotAPodProcess(_), false) => known,
            (kernels, false) => Self::NotAPodProcess(Box::new(kernels)),
            (kernels, true) => kernels,
        }
    }
}

/// Denied where the caller would be privileged if it had not dropped the capability: its own user namespace
/// or, for a caller of the initial one, any.
fn elsewhere(check: &Check, capability: u32, caller: NsInode, target: NsInode) -> Option<Reason> {
    let above = caller == target || caller == INIT || check.target_parent == Some(caller);
    above.then_some(Reason::CapabilityDropped { capability, userns: caller })
}

/// Of several namespaces (a pidfd) the user namespace is joined first.
fn joining(check: &Check, capability: u32, caller: NsInode, target: NsInode) -> Reason {
    if capability == CAP_SYS_PTRACE {
        // A pidfd's process is looked at before its namespaces are.
        Reason::SetnsProcessClosed { owner: target, caller }
    } else if names::namespace_kinds(check.flags.unwrap_or(0)).contains(&NsKind::User) {
        Reason::SetnsForeignUserns { target, caller }
    } else {
        Reason::SetnsForeignNamespace { owner: target, caller }
    }
}

fn mounting(check: &Check, capability: u32, caller: NsInode, target: NsInode) -> Reason {
    let owned = |ns: super::check::Ns| ns.inode.filter(|_| ns.owner == Some(target));
    if let Some(mntns) = owned(check.mnt) {
        return Reason::MayMountDenied { mntns, owner: target, caller };
    }
    if reconfigures(check) {
        return Reason::RemountOfOthers { owner: target, caller };
    }
    let fs_type = check.new_fs_type();
    match fs_type {
        Some("sysfs") => {
            if let Some(netns) = owned(check.net) {
                return Reason::NetnsOwnedByOtherUserns { netns, owner: target, caller };
            }
        }
        Some("proc") => {
            if let Some(pidns) = owned(check.pidns) {
                return Reason::ProcWithoutOwnPidns { pidns, owner: target, caller };
            }
        }
        Some("mqueue") => return Reason::MqueueWithoutOwnIpcns { owner: target, caller },
        Some(name @ ("cgroup" | "cgroup2")) => {
            return Reason::CgroupWithoutOwnCgroupns { fs_type: name.into(), owner: target, caller };
        }
        // Its delegate_* options; it probes for nothing.
        Some("bpf") if target == INIT => {
            return Reason::OptionNotForUserns { fs_type: "bpf".into(), caller };
        }
        Some(name) if target == INIT && !FOR_USERNS.contains(&name) => {
            return Reason::FilesystemNotForUserns { fs_type: name.into(), caller };
        }
        // A file system that a user namespace may mount probes what else it may do (overlay: trusted
        // extended attributes) and goes on without.
        Some(name) if target == INIT && FOR_USERNS.contains(&name) => {
            return Reason::Incidental { capability };
        }
        _ => {}
    }
    Reason::OtherUserns { target, caller }
}

/// Whether the call changes a file system that is mounted, and not only one of its mounts.
fn reconfigures(check: &Check) -> bool {
    let Some(flags) = check.flags else { return false };
    match check.syscall {
        Syscall::Mount => flags & names::MS_REMOUNT != 0 && flags & names::MS_BIND == 0,
        Syscall::Fsconfig => flags == names::FSCONFIG_CMD_RECONFIGURE,
        _ => false,
    }
}

/// One line: "CAP_SYS_ADMIN denied in the owner of netns 4026532100".
#[must_use]
pub fn summary(check: &Check) -> String {
    let call = check.call();
    if let Some(Reason::Failed(why)) = check.reason.as_ref().map(Reason::kernels) {
        let errno = check.result.unwrap_or_default();
        return format!("{call}: {} ({})", failure::symbol(errno), why.brief());
    }
    let capability = check.capability.map(names::capability).unwrap_or_default();
    let target = match check.target_userns {
        Some(INIT) => "the initial userns".to_string(),
        Some(inode) => format!("userns {inode}"),
        None => "an unknown userns".to_string(),
    };
    let Some(reason) = &check.reason else {
        return format!("{call}: {capability} in {target}: allowed");
    };
    let why = match reason.kernels() {
        Reason::NetnsOwnedByOtherUserns { netns, .. } => {
            format!("it owns netns {netns}, the caller does not")
        }
        Reason::ProcWithoutOwnPidns { pidns, .. } => format!("it owns pidns {pidns}, the caller does not"),
        Reason::MayMountDenied { mntns, .. } => format!("it owns mntns {mntns}, the caller does not"),
        Reason::SetnsForeignNamespace { .. } => "it owns the namespace to join".to_string(),
        Reason::SetnsForeignUserns { .. } => "not the caller's, nor below it".to_string(),
        Reason::SetnsProcessClosed { .. } => "the process may not be looked into".to_string(),
        Reason::MqueueWithoutOwnIpcns { .. } => "it owns the ipcns, the caller does not".to_string(),
        Reason::CgroupWithoutOwnCgroupns { .. } => "it owns the cgroupns, the caller does not".to_string(),
        Reason::RemountOfOthers { .. } => "the file system was mounted from there".to_string(),
        Reason::OptionNotForUserns { fs_type, .. } => {
            format!("an option of {fs_type} is not for user namespaces")
        }
        Reason::FilesystemNotForUserns { fs_type, .. } => format!("{fs_type} is not for user namespaces"),
        Reason::CapabilityDropped { .. } => "the caller has dropped it".to_string(),
        Reason::TooRevealing { covering, .. } => {
            return format!("{call}: refused without a denied check: too revealing ({})", covering.brief());
        }
        Reason::OtherUserns { .. } => "not the caller's".to_string(),
        Reason::Incidental { .. } => "asked on the way, does not decide".to_string(),
        Reason::Unknown | Reason::Failed(_) => "not enough was read to tell why".to_string(),
        Reason::NotAPodProcess(_) => "not a pod's process".to_string(),
    };
    format!("{call}: {capability} in {target}: denied ({why})")
}

#[cfg(test)]
mod tests {
    use sandboxd_ebpf::{CheckRecord, INIT_USERNS};

    use super::super::check::tests::{check, record};
    use super::super::names::CAP_SYS_ADMIN;
    use super::*;

    fn reason(record: &CheckRecord) -> Reason {
        Reason::of(&check(record)).unwrap()
    }

    fn fs(name: &str) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        bytes
    }

    #[test]
    fn a_netns_older_than_the_userns() {
        let expected =
            Reason::NetnsOwnedByOtherUserns { netns: NsInode(200), owner: INIT, caller: NsInode(100) };
        assert_eq!(reason(&record()), expected);
        assert_eq!(expected.code(), "netns-owned-by-other-userns");
    }

    #[test]
    fn may_mount_comes_before_the_netns() {
        let record = CheckRecord { mntns_owner: INIT_USERNS, ..record() };
        let expected = Reason::MayMountDenied { mntns: NsInode(300), owner: INIT, caller: NsInode(100) };
        assert_eq!(reason(&record), expected);
    }

    #[test]
    fn proc_without_a_pidns_of_its_own() {
        let record = CheckRecord { fs_type: fs("proc"), pidns_owner: INIT_USERNS, ..record() };
        let expected = Reason::ProcWithoutOwnPidns { pidns: NsInode(400), owner: INIT, caller: NsInode(100) };
        assert_eq!(reason(&record), expected);
    }

    #[test]
    fn setns_into_what_others_own() {
        let record = CheckRecord { syscall: Syscall::Setns as u32, flags: 0x4000_0000, ..record() };
        assert_eq!(reason(&record), Reason::SetnsForeignNamespace { owner: INIT, caller: NsInode(100) });
    }

    #[test]
    fn setns_into_a_userns_that_is_not_below() {
        // user|net, as of a pidfd: the user namespace is the first.
        for flags in [0x1000_0000, 0x5000_0000] {
            let record = CheckRecord { syscall: Syscall::Setns as u32, flags, ..record() };
            assert_eq!(reason(&record), Reason::SetnsForeignUserns { target: INIT, caller: NsInode(100) });
        }
    }

    #[test]
    fn setns_through_a_process_that_may_not_be_looked_into() {
        let record =
            CheckRecord { syscall: Syscall::Setns as u32, capability: 19, flags: 0x4000_0000, ..record() };
        assert_eq!(reason(&record), Reason::SetnsProcessClosed { owner: INIT, caller: NsInode(100) });
    }

    #[test]
    fn what_belongs_to_other_namespaces_than_the_netns() {
        let (owner, caller) = (INIT, NsInode(100));
        let mqueue = CheckRecord { fs_type: fs("mqueue"), ..record() };
        assert_eq!(reason(&mqueue), Reason::MqueueWithoutOwnIpcns { owner, caller });
        for name in ["cgroup", "cgroup2"] {
            let cgroup = CheckRecord { fs_type: fs(name), ..record() };
            let fs_type = name.into();
            assert_eq!(reason(&cgroup), Reason::CgroupWithoutOwnCgroupns { fs_type, owner, caller });
        }
        let bpf = CheckRecord { fs_type: fs("bpf"), ..record() };
        assert_eq!(reason(&bpf), Reason::OptionNotForUserns { fs_type: "bpf".into(), caller });
    }

    #[test]
    fn reconfiguring_what_others_mounted() {
        let expected = Reason::RemountOfOthers { owner: INIT, caller: NsInode(100) };
        let remount = CheckRecord { flags: names::MS_REMOUNT, ..record() };
        assert_eq!(reason(&remount), expected);
        let fsconfig = CheckRecord {
            syscall: Syscall::Fsconfig as u32,
            flags: names::FSCONFIG_CMD_RECONFIGURE,
            ..record()
        };
        assert_eq!(reason(&fsconfig), expected);
        let of_the_mount_only = CheckRecord { flags: names::MS_REMOUNT | names::MS_BIND, ..record() };
        assert_ne!(reason(&of_the_mount_only), expected);
    }

    #[test]
    fn the_right_userns_without_the_capability() {
        for syscall in [Syscall::Mount, Syscall::Setns, Syscall::Unshare, Syscall::Clone3] {
            let record = CheckRecord { syscall: syscall as u32, target_userns: 100, ..record() };
            let expected = Reason::CapabilityDropped { capability: CAP_SYS_ADMIN, userns: NsInode(100) };
            assert_eq!(reason(&record), expected, "{syscall:?}");
        }
        let above = CheckRecord { caller_userns: INIT_USERNS, target_userns: 100, ..record() };
        assert_eq!(reason(&above), Reason::CapabilityDropped { capability: CAP_SYS_ADMIN, userns: INIT });
    }

    #[test]
    fn file_systems_for_the_host_only() {
        let ext4 = CheckRecord { fs_type: fs("ext4"), ..record() };
        let expected = Reason::FilesystemNotForUserns { fs_type: "ext4".into(), caller: NsInode(100) };
        assert_eq!(reason(&ext4), expected);
        let overlay = CheckRecord { fs_type: fs("overlay"), ..record() };
        assert!(!reason(&overlay).is_decisive(), "overlay probes trusted.* and goes on without");
    }

    #[test]
    fn other_capabilities_do_not_decide_a_mount() {
        let record = CheckRecord { capability: 2, ..record() };
        assert_eq!(reason(&record), Reason::Incidental { capability: 2 });
    }

    #[test]
    fn allowed_checks_have_no_reason_and_unread_ones_say_so() {
        assert_eq!(Reason::of(&check(&CheckRecord { ret: 0, ..record() })), None);
        assert_eq!(reason(&CheckRecord { valid: 0, ..record() }), Reason::Unknown);
    }

    #[test]
    fn strangers_keep_the_kernels_reason_inside() {
        let stranger = Reason::Unknown.for_pod(false);
        assert_eq!(stranger.code(), "not-a-pod-process");
        assert_eq!(stranger.kernels(), &Reason::Unknown);
        assert_eq!(stranger.clone().for_pod(false), stranger);
        assert_eq!(stranger.for_pod(true), Reason::Unknown);
    }

    #[test]
    fn the_line_says_it_all() {
        let mut denied = check(&record());
        denied.reason = Reason::of(&denied);
        assert_eq!(
            summary(&denied),
            "mount(sysfs): CAP_SYS_ADMIN in the initial userns: denied (it owns netns 200, the caller does not)"
        );
    }
}
