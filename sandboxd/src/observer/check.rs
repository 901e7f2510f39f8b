//! One recorded capability check.

use std::sync::Arc;

use sandboxd_ebpf::{CheckRecord, INIT_USERNS, Syscall, valid};

use super::names;
use super::reason::Reason;
use crate::container::model::ContainerId;
use crate::pod::model::{NsInode, PodId};

/// The host's initial user namespace.
pub const INIT: NsInode = NsInode(INIT_USERNS as u64);

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Allowed,
    Denied,
    /// A call that was refused without a denied check.
    Refused,
    /// A call that nobody refused, and that failed all the same: something is missing, busy, or not valid.
    Failed,
}

impl Verdict {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

/// A namespace of the caller and the user namespace that owns it. `None`: not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Ns {
    pub inode: Option<NsInode>,
    pub owner: Option<NsInode>,
}

/// Which pod, and what in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodRef {
    pub id: PodId,
    /// "namespace/name".
    pub name: Arc<str>,
    /// "infra", a container's name, "shim", or empty where only the pod is known.
    pub container: Arc<str>,
    pub container_id: Option<ContainerId>,
}

/// A capability check the kernel made in a syscall of mounting or of namespaces, or such a call that failed
/// without a denied one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Grows by one for each recorded check of this daemon's life.
    pub seq: u64,
    /// Nanoseconds since the Unix epoch.
    pub time_ns: i64,
    pub pid: i32,
    pub tid: i32,
    pub ppid: Option<i32>,
    pub comm: Box<str>,
    pub syscall: Syscall,
    /// Flags of mount, unshare, clone, clone3 and fsmount, type of setns, command of fsconfig.
    pub flags: Option<u64>,
    /// Of mount and fsopen; of fsconfig the type that the same thread last opened, if it was seen.
    pub fs_type: Option<Box<str>>,
    /// Of a call that failed without a denied check the last that was asked, if any was.
    pub capability: Option<u32>,
    pub verdict: Verdict,
    pub caller_userns: Option<NsInode>,
    /// Effective uid of the caller, in the host's numbers.
    pub caller_uid: Option<u32>,
    /// The user namespace in which the capability was asked, its parent, and the uid that made it.
    pub target_userns: Option<NsInode>,
    pub target_parent: Option<NsInode>,
    pub target_uid: Option<u32>,
    pub net: Ns,
    pub mnt: Ns,
    pub pidns: Ns,
    pub cgroup_id: u64,
    /// The errno that the syscall ended with, 0 for success; `None` where results are not read, or this one came
    /// too late.
    pub result: Option<i32>,
    /// `None`: no process of a pod.
    pub pod: Option<PodRef>,
    /// Why it was denied or refused, or failed; `None` when allowed.
    pub reason: Option<Reason>,
}

impl Check {
    /// A check from its record; `boot_to_epoch_ns` is what turns CLOCK_BOOTTIME into the epoch's time.
    /// `None` for a syscall number of another version of the object.
    #[must_use]
    pub fn from_record(record: &CheckRecord, seq: u64, boot_to_epoch_ns: i64) -> Option<Self> {
        let read = |bit: u32, value: u32| (record.valid & bit != 0).then_some(value);
        let inode = |bit: u32, value: u32| read(bit, value).map(|v| NsInode(u64::from(v)));
        let ns =
            |bit, value, owner_bit, owner| Ns { inode: inode(bit, value), owner: inode(owner_bit, owner) };
        let fs_type = (record.valid & valid::FS_TYPE != 0).then(|| text(&record.fs_type).into());
        Some(Self {
            seq,
            time_ns: i64::try_from(record.time_ns).unwrap_or(i64::MAX).saturating_add(boot_to_epoch_ns),
            pid: record.pid.cast_signed(),
            tid: record.tid.cast_signed(),
            ppid: read(valid::PARENT, record.ppid).map(u32::cast_signed),
            comm: text(&record.comm).into(),
            syscall: Syscall::from_raw(record.syscall)?,
            flags: (record.valid & valid::FLAGS != 0).then(|| asked(record)),
            fs_type,
            capability: record.result().is_none().then_some(record.capability),
            verdict: match record.result() {
                None if record.ret == 0 => Verdict::Allowed,
                None => Verdict::Denied,
                Some(_) => Verdict::Failed,
            },
            caller_userns: inode(valid::CALLER_USERNS, record.caller_userns),
            caller_uid: read(valid::CALLER_UID, record.caller_uid),
            target_userns: inode(valid::TARGET_USERNS, record.target_userns),
            target_parent: inode(valid::TARGET_PARENT, record.target_parent).filter(|ns| ns.0 != 0),
            target_uid: read(valid::TARGET_UID, record.target_uid),
            net: ns(valid::NETNS, record.netns, valid::NETNS_OWNER, record.netns_owner),
            mnt: ns(valid::MNTNS, record.mntns, valid::MNTNS_OWNER, record.mntns_owner),
            pidns: ns(valid::PIDNS, record.pidns, valid::PIDNS_OWNER, record.pidns_owner),
            cgroup_id: record.cgroup_id,
            result: record.result(),
            pod: None,
            reason: None,
        })
    }

    /// Memory that keeping it takes, about: itself, what it points to, and the allocator's share.
    #[must_use]
    pub fn footprint(&self) -> usize {
        const ALLOCATION: usize = 16;
        const COUNTS: usize = 16;
        let pod = self.pod.as_ref().map_or(0, |pod| {
            let container_id = pod.container_id.as_ref().map_or(0, |id| id.as_str().len() + ALLOCATION);
            let names = pod.name.len() + pod.container.len() + 2 * (COUNTS + ALLOCATION);
            pod.id.as_str().len() + ALLOCATION + names + container_id
        });
        let fs_type = self.fs_type.as_ref().map_or(0, |name| name.len() + ALLOCATION);
        let reason = self.reason.as_ref().map_or(0, Reason::heap);
        let own = size_of::<Self>() + COUNTS + ALLOCATION + self.comm.len() + ALLOCATION;
        // And its place in a queue.
        own + fs_type + pod + reason + size_of::<Arc<Self>>()
    }

    /// What the syscall was asked for, as a column shows it: a file-system type, namespaces, or nothing.
    #[must_use]
    pub fn argument(&self) -> String {
        match self.syscall {
            Syscall::Mount => match self.flags.and_then(names::mount_operation) {
                Some(operation) => operation.to_string(),
                None => self.fs_type.as_deref().unwrap_or_default().to_string(),
            },
            Syscall::Fsopen | Syscall::Fsconfig | Syscall::Fsmount | Syscall::MoveMount => {
                self.fs_type.as_deref().unwrap_or_default().to_string()
            }
            Syscall::Setns | Syscall::Unshare | Syscall::Clone | Syscall::Clone3 => {
                names::namespace_list(self.flags.unwrap_or(0))
            }
        }
    }

    /// "mount(sysfs)", "setns(net)", "fsmount".
    #[must_use]
    pub fn call(&self) -> String {
        let argument = self.argument();
        let name = self.syscall.name();
        if argument.is_empty() { name.to_string() } else { format!("{name}({argument})") }
    }

    /// The type of the file system that is being mounted anew, where this check is about one.
    #[must_use]
    pub fn new_fs_type(&self) -> Option<&str> {
        if self.syscall == Syscall::Mount && self.flags.and_then(names::mount_operation).is_some() {
            return None;
        }
        self.fs_type.as_deref()
    }

    /// Whether it belongs to this process: it made the call itself, or as a thread or child of it.
    #[must_use]
    pub fn is_of(&self, pid: i32) -> bool {
        self.pid == pid || self.tid == pid || self.ppid == Some(pid)
    }
}

/// The flags; of a setns that takes any kind of namespace (0) the kind of the one it was given, where that is known.
fn asked(record: &CheckRecord) -> u64 {
    let any = record.syscall == Syscall::Setns as u32 && record.flags == 0;
    let kind = u64::from(record.outcome.fd_kind);
    if any && !names::namespace_kinds(kind).is_empty() { kind } else { record.flags }
}

/// Bytes up to the first NUL.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A denied mount of sysfs by a process of user namespace 100 whose netns (200) belongs to init.
    pub fn record() -> CheckRecord {
        let mut fs_type = [0; 16];
        fs_type[..5].copy_from_slice(b"sysfs");
        let mut comm = [0; 16];
        comm[..5].copy_from_slice(b"mount");
        CheckRecord {
            time_ns: 1_000,
            pid: 42,
            tid: 42,
            ppid: 41,
            syscall: Syscall::Mount as u32,
            capability: names::CAP_SYS_ADMIN,
            ret: -1,
            valid: !valid::RESULT,
            caller_userns: 100,
            target_userns: INIT_USERNS,
            netns: 200,
            mntns: 300,
            pidns: 400,
            netns_owner: INIT_USERNS,
            mntns_owner: 100,
            pidns_owner: 100,
            fs_type,
            comm,
            ..CheckRecord::default()
        }
    }

    pub fn check(record: &CheckRecord) -> Check {
        Check::from_record(record, 1, 0).unwrap()
    }

    #[test]
    fn a_record_survives_the_way_through_bytes() {
        let record = record();
        // SAFETY: CheckRecord is repr(C) without padding (its size is the sum of its fields).
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const record).cast::<u8>(), size_of::<CheckRecord>()) };
        assert_eq!(CheckRecord::from_bytes(bytes), Some(record));
        assert_eq!(CheckRecord::from_bytes(&bytes[1..]), None);
    }

    #[test]
    fn what_was_not_read_is_none() {
        let record = CheckRecord { valid: valid::CALLER_USERNS, ..record() };
        let check = check(&record);
        assert_eq!(check.caller_userns, Some(NsInode(100)));
        assert_eq!(check.target_userns, None);
        assert_eq!(check.fs_type, None);
        assert_eq!(check.ppid, None);
        assert_eq!(check.call(), "mount");
    }

    #[test]
    fn calls_are_named_with_what_they_ask_for() {
        assert_eq!(check(&record()).call(), "mount(sysfs)");
        let bind = CheckRecord { flags: libc::MS_BIND, ..record() };
        assert_eq!(check(&bind).call(), "mount(bind)");
        assert_eq!(check(&bind).new_fs_type(), None);
        let setns = CheckRecord { syscall: Syscall::Setns as u32, flags: 0x4000_0000, ..record() };
        assert_eq!(check(&setns).call(), "setns(net)");
        assert!(Check::from_record(&CheckRecord { syscall: 99, ..record() }, 1, 0).is_none());
    }
}
