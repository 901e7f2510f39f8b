//! The layout of what the eBPF programs report: one definition for the kernel side and the daemon.
//!
//! Everything here is `repr(C)` without padding and of fixed size: a fixed-size record loses far less of a
//! ring buffer than a variable one, and the layout is asserted at compile time on both sides.
#![no_std]

use core::mem::{offset_of, size_of};

mod counts;

pub use counts::{
    ALL_CAPABILITIES, Counters, FLOW_BURST, FLOW_EACH_NS, FLOWS_MAP, FLOWS_MOST, Flow, FlowKey, MEMORY_CALLS,
    MEMORY_CALLS_MOST, USAGE_MAP, USAGE_MOST, Usage, UsageKey, WATCHED_MAP, WATCHED_MOST,
};

/// The ring buffer's size in bytes: a power of two and a multiple of the page size. Room for about 3,000
/// records, thirty pods' worth of checks before the reader runs once.
pub const RING_BYTES: u32 = 512 * 1024;
/// Names of the maps in the object.
pub const RING_MAP: &str = "CHECKS";
pub const COUNTERS_MAP: &str = "COUNTERS";
/// Names of the programs, one or two for each way to hang on.
pub const TP_BTF_PROGRAM: &str = "cap_capable_tp";
pub const FEXIT_PROGRAM: &str = "cap_capable_fexit";
pub const KPROBE_PROGRAM: &str = "cap_capable_kprobe";
pub const KRETPROBE_PROGRAM: &str = "cap_capable_kretprobe";
/// The tracepoint and the function of the kernel that they hang on: they have one name.
pub const CAP_CAPABLE: &str = "cap_capable";

/// The program on the end of every system call of the machine.
pub const SYS_EXIT_PROGRAM: &str = "results_sys_exit";
/// The tracepoint it hangs on.
pub const SYS_EXIT: &str = "sys_exit";
/// The global with the lowest number of a system call whose result is reported.
pub const RESULTS_FROM: &str = "RESULTS_FROM";
/// The global that says that results are looked for.
pub const RESULTS_WANTED: &str = "RESULTS_WANTED";

/// Bytes of [`CheckRecord::fs_type`], the terminating NUL included. The longest name in the kernel's tree
/// fits ("binfmt_misc", "selinuxfs", "nfsd"); a longer one is cut.
pub const FS_TYPE_LEN: usize = 16;
/// TASK_COMM_LEN of the kernel.
pub const COMM_LEN: usize = 16;

/// Inode of the initial user namespace (PROC_USER_INIT_INO of the kernel, the same since 3.8).
pub const INIT_USERNS: u32 = 0xEFFF_FFFD;
/// Offset of a member that this kernel's BTF does not have.
pub const MISSING: u32 = u32::MAX;

/// Which fields of a record were read. Without its bit a field is 0 and means "not known".
pub mod valid {
    pub const CALLER_USERNS: u32 = 1 << 0;
    pub const TARGET_USERNS: u32 = 1 << 1;
    pub const NETNS: u32 = 1 << 2;
    pub const MNTNS: u32 = 1 << 3;
    pub const PIDNS: u32 = 1 << 4;
    pub const NETNS_OWNER: u32 = 1 << 5;
    pub const MNTNS_OWNER: u32 = 1 << 6;
    pub const PIDNS_OWNER: u32 = 1 << 7;
    pub const TARGET_PARENT: u32 = 1 << 8;
    pub const TARGET_UID: u32 = 1 << 9;
    pub const CALLER_UID: u32 = 1 << 10;
    pub const PARENT: u32 = 1 << 11;
    pub const FS_TYPE: u32 = 1 << 12;
    pub const FLAGS: u32 = 1 << 13;
    /// The record is no check but the result of a system call: see [`super::CheckRecord::result`].
    pub const RESULT: u32 = 1 << 14;
    pub const FD: u32 = 1 << 15;
    pub const THREADS: u32 = 1 << 16;
    pub const FS_USERS: u32 = 1 << 17;
    pub const USERNS_LEVEL: u32 = 1 << 18;
    pub const PIDNS_LEVEL: u32 = 1 << 19;
    pub const SECCOMP: u32 = 1 << 20;
}

/// What a system call was on its way to its result: [`Outcome::call`].
pub mod call {
    /// Checks of CAP_SYS_ADMIN, all checks, and those of all that were reported: a byte each, which stops at 255.
    pub const ADMIN: u32 = 0;
    pub const MADE: u32 = 8;
    pub const REPORTED: u32 = 16;
    /// A check was denied that ends the call.
    pub const DENIED: u32 = 1 << 24;
    /// It failed, and not for a denied check. Counted in [`super::Counters::produced`].
    pub const FAILURE: u32 = 1 << 25;
    /// The caller's root directory is not the root of its mount namespace.
    pub const CHROOTED: u32 = 1 << 26;
    /// The caller's effective uid or gid has no number in its own user namespace.
    pub const UNMAPPED: u32 = 1 << 27;

    /// One of the counts of `state`.
    #[must_use]
    pub const fn count(state: u32, which: u32) -> u32 {
        (state >> which) & 0xff
    }

    /// The state with one more of `which`.
    #[must_use]
    pub const fn one_more(state: u32, which: u32) -> u32 {
        if count(state, which) == 0xff { state } else { state + (1 << which) }
    }
}

/// What a descriptor given to setns is, where it is no namespace: [`Outcome::fd_kind`].
pub mod fd_kind {
    pub const NOT_OPEN: u32 = 1;
    pub const PIDFD: u32 = 2;
    pub const OTHER: u32 = 3;
}

/// Capabilities a denial of which ends a call (linux/capability.h).
const CAP_SYS_CHROOT: u32 = 18;
const CAP_SYS_PTRACE: u32 = 19;
pub const CAP_SYS_ADMIN: u32 = 21;
/// The errno of a call that a denied check has ended (asm-generic/errno-base.h).
pub const EPERM: i32 = 1;
/// From here on errnos are the kernel's own business: a call that goes on after a signal (linux/errno.h).
pub const INTERNAL_ERRNO: i32 = 512;

/// The syscalls whose checks are recorded: those of mounting and of namespaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u32)]
pub enum Syscall {
    Mount = 1,
    Fsopen = 2,
    Fsconfig = 3,
    Fsmount = 4,
    MoveMount = 5,
    Setns = 6,
    Unshare = 7,
    Clone = 8,
    Clone3 = 9,
}

impl Syscall {
    pub const ALL: [Self; 9] = [
        Self::Mount,
        Self::Fsopen,
        Self::Fsconfig,
        Self::Fsmount,
        Self::MoveMount,
        Self::Setns,
        Self::Unshare,
        Self::Clone,
        Self::Clone3,
    ];

    /// The name as in syscalls(2).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mount => "mount",
            Self::Fsopen => "fsopen",
            Self::Fsconfig => "fsconfig",
            Self::Fsmount => "fsmount",
            Self::MoveMount => "move_mount",
            Self::Setns => "setns",
            Self::Unshare => "unshare",
            Self::Clone => "clone",
            Self::Clone3 => "clone3",
        }
    }

    /// The global of the object that holds this architecture's number of the syscall.
    #[must_use]
    pub const fn global(self) -> &'static str {
        match self {
            Self::Mount => "NR_MOUNT",
            Self::Fsopen => "NR_FSOPEN",
            Self::Fsconfig => "NR_FSCONFIG",
            Self::Fsmount => "NR_FSMOUNT",
            Self::MoveMount => "NR_MOVE_MOUNT",
            Self::Setns => "NR_SETNS",
            Self::Unshare => "NR_UNSHARE",
            Self::Clone => "NR_CLONE",
            Self::Clone3 => "NR_CLONE3",
        }
    }

    /// The program at the end of the kernel's function for this syscall; `None` for those whose result is not
    /// reported: clones are too many, and are asked once they have passed their checks.
    #[must_use]
    pub const fn result_program(self) -> Option<&'static str> {
        match self {
            Self::Mount => Some("result_mount"),
            Self::Fsopen => Some("result_fsopen"),
            Self::Fsconfig => Some("result_fsconfig"),
            Self::Fsmount => Some("result_fsmount"),
            Self::MoveMount => Some("result_move_mount"),
            Self::Setns => Some("result_setns"),
            Self::Unshare => Some("result_unshare"),
            Self::Clone | Self::Clone3 => None,
        }
    }

    /// Whether a denial of this capability makes this syscall fail (with EPERM).
    #[must_use]
    pub const fn is_decided_by(self, capability: u32) -> bool {
        match self {
            Self::Setns => matches!(capability, CAP_SYS_ADMIN | CAP_SYS_CHROOT | CAP_SYS_PTRACE),
            _ => capability == CAP_SYS_ADMIN,
        }
    }

    #[must_use]
    pub fn from_raw(raw: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|s| *s as u32 == raw)
    }
}

/// What there is to a call's result beside its number. All but `call` is read of failed calls only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(C)]
pub struct Outcome {
    /// The descriptor that setns was given: one of [`fd_kind`], or the CLONE_NEW* flag of the namespace behind it,
    /// and that one's inode.
    pub fd_kind: u32,
    pub fd_inode: u32,
    /// Threads of the process, and tasks that share its root and working directory (CLONE_FS).
    pub threads: u32,
    pub fs_users: u32,
    /// How deep the caller's user and pid namespaces are nested: 0 for the initial ones.
    pub userns_level: u32,
    pub pidns_level: u32,
    /// SECCOMP_MODE_*.
    pub seccomp: u32,
    /// Bits of [`call`].
    pub call: u32,
}

/// One capability check the kernel made inside one of [`Syscall`], or the result of such a call.
///
/// Pids and uids are the host's. Inodes are those of nsfs (`unsigned int` in `struct ns_common`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct CheckRecord {
    /// CLOCK_BOOTTIME, nanoseconds.
    pub time_ns: u64,
    /// What the syscall was asked: flags of mount, unshare, clone and clone3, the namespace type of setns,
    /// the command of fsconfig, the flags of fsmount.
    pub flags: u64,
    pub cgroup_id: u64,
    /// Thread group, thread, and thread group of the parent.
    pub pid: u32,
    pub tid: u32,
    pub ppid: u32,
    /// A [`Syscall`].
    pub syscall: u32,
    /// CAP_* number (capabilities(7)); of a result nothing.
    pub capability: u32,
    /// What cap_capable returned: 0, or -EPERM; of a result what the syscall returned, negative errnos alone.
    pub ret: i32,
    /// Bits of [`valid`].
    pub valid: u32,
    /// The user namespace of the credentials that were checked.
    pub caller_userns: u32,
    /// The user namespace in which the capability was asked.
    pub target_userns: u32,
    /// The parent of the target (0 for the initial user namespace, with its valid bit set).
    pub target_parent: u32,
    /// The uid that made the target user namespace.
    pub target_uid: u32,
    /// Effective uid of the checked credentials.
    pub caller_uid: u32,
    /// The caller's namespaces, and the user namespaces that own them.
    pub netns: u32,
    pub mntns: u32,
    pub pidns: u32,
    pub netns_owner: u32,
    pub mntns_owner: u32,
    pub pidns_owner: u32,
    pub fs_type: [u8; FS_TYPE_LEN],
    pub comm: [u8; COMM_LEN],
    /// Of a result; of a check all 0.
    pub outcome: Outcome,
}

const _: () = {
    assert!(size_of::<CheckRecord>() == 160);
    assert!(offset_of!(CheckRecord, pid) == 24);
    assert!(offset_of!(CheckRecord, caller_userns) == 52);
    assert!(offset_of!(CheckRecord, fs_type) == 96);
    assert!(offset_of!(CheckRecord, comm) == 112);
    assert!(offset_of!(CheckRecord, outcome) == 128);
    assert!(size_of::<Outcome>() == 32);
    assert!(RING_BYTES.is_power_of_two() && RING_BYTES.is_multiple_of(64 * 1024));
};

impl CheckRecord {
    /// Of a record that is the result of a system call: its errno, 0 for success.
    #[must_use]
    pub const fn result(&self) -> Option<i32> {
        if self.valid & valid::RESULT == 0 { None } else { Some(self.ret.wrapping_neg()) }
    }

    /// Whether it is of a call that failed without a denied check.
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        self.outcome.call & call::FAILURE != 0
    }

    /// A record as it came out of the ring buffer. `None` for bytes of another length: another version of
    /// the object.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was checked, every field is an integer or an array of bytes (any bit pattern
        // is a value), and read_unaligned asks for no alignment.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

/// Calls a macro with every kernel structure member whose offset the programs need: name of the global,
/// structure, member. The daemon finds the offsets in the running kernel's BTF and sets the globals.
#[macro_export]
macro_rules! kernel_members {
    ($each:ident) => {
        $each! {
            CRED_USER_NS: cred.user_ns,
            CRED_EUID: cred.euid,
            CRED_EGID: cred.egid,
            USERNS_NS: user_namespace.ns,
            USERNS_PARENT: user_namespace.parent,
            USERNS_OWNER: user_namespace.owner,
            USERNS_LEVEL: user_namespace.level,
            USERNS_UIDS: user_namespace.uid_map,
            USERNS_GIDS: user_namespace.gid_map,
            MAP_EXTENTS: uid_gid_map.nr_extents,
            MAP_EXTENT: uid_gid_map.extent,
            NS_INUM: ns_common.inum,
            NS_TYPE: ns_common.ns_type,
            NS_OPS: ns_common.ops,
            NS_OPS_TYPE: proc_ns_operations.type,
            TASK_FLAGS: task_struct.flags,
            TASK_NSPROXY: task_struct.nsproxy,
            TASK_REAL_PARENT: task_struct.real_parent,
            TASK_TGID: task_struct.tgid,
            TASK_THREAD_PID: task_struct.thread_pid,
            TASK_CRED: task_struct.cred,
            TASK_SIGNAL: task_struct.signal,
            TASK_FS: task_struct.fs,
            TASK_FILES: task_struct.files,
            TASK_SECCOMP: task_struct.seccomp,
            SECCOMP_MODE: seccomp.mode,
            SIGNAL_THREADS: signal_struct.nr_threads,
            FS_USERS: fs_struct.users,
            FS_ROOT: fs_struct.root,
            PATH_MNT: path.mnt,
            PATH_DENTRY: path.dentry,
            VFSMOUNT_ROOT: vfsmount.mnt_root,
            MOUNT_VFSMOUNT: mount.mnt,
            MOUNT_PARENT: mount.mnt_parent,
            MOUNT_POINT: mount.mnt_mountpoint,
            FILES_FDT: files_struct.fdt,
            FDT_MAX: fdtable.max_fds,
            FDT_FD: fdtable.fd,
            FILE_INODE: file.f_inode,
            FILE_PATH: file.f_path,
            DENTRY_NAME: dentry.d_name,
            QSTR_NAME: qstr.name,
            INODE_SB: inode.i_sb,
            INODE_PRIVATE: inode.i_private,
            SB_MAGIC: super_block.s_magic,
            NSPROXY_NET: nsproxy.net_ns,
            NSPROXY_MNT: nsproxy.mnt_ns,
            NET_NS: net.ns,
            NET_USER_NS: net.user_ns,
            MNT_NS: mnt_namespace.ns,
            MNT_USER_NS: mnt_namespace.user_ns,
            PID_LEVEL: pid.level,
            PID_NUMBERS: pid.numbers,
            UPID_NS: upid.ns,
            PIDNS_NS: pid_namespace.ns,
            PIDNS_USER_NS: pid_namespace.user_ns,
        }
    };
}

/// Of each pair a kernel has one: the kind of a namespace was with its operations, and is now (from about 6.18) with
/// itself.
pub const ALTERNATIVES: [(&str, &str); 1] = [("NS_TYPE", "NS_OPS_TYPE")];

/// The globals that do not stand for a member of [`kernel_members!`]: the size of `struct upid`, and where
/// `struct pt_regs` keeps the syscall's number and its first four arguments.
pub const UPID_SIZE: &str = "UPID_SIZE";
pub const REGS_NR: &str = "REGS_NR";
pub const REGS_ARGS: [&str; 4] = ["REGS_ARG0", "REGS_ARG1", "REGS_ARG2", "REGS_ARG3"];
