//! Why a call failed that no check was denied in: a value, made from what the record of its end holds.
//!
//! The rules follow the order in which the kernel asks. Where two causes leave the same trace, the value is of both
//! and its words say so.

use rustix::io::Errno;
use sandboxd_ebpf::{CheckRecord, Syscall, call, fd_kind, valid};

use super::check::{Check, INIT, Verdict};
use super::names;
use super::status::ResultsThrough;
use crate::pod::model::{NsInode, NsKind};

/// Why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// setns: the caller is in this user namespace already.
    OwnUserns { userns: Option<NsInode> },
    /// setns to a user namespace by a process with several threads. `perhaps_own`: a pidfd does not show whether it
    /// was the caller's own besides.
    UsernsThreads { threads: u32, perhaps_own: bool },
    /// setns to a user or mount namespace by a task that shares its root and working directory.
    FsShared { kind: NsKind, users: u32, perhaps_own: bool },
    /// setns to a pid namespace that is not the caller's own and not below it.
    PidnsNotBelow { target: Option<NsInode>, own: Option<NsInode> },
    /// setns to a time namespace by a process with several threads, or one that shares its memory.
    TimensThreads { threads: Option<u32> },
    /// setns with a descriptor or a type that cannot be.
    BadArgument(BadArgument),
    /// unshare of what a process with several threads has in common.
    UnshareThreads { threads: u32 },
    /// unshare of a pid namespace by a process whose children already go to another one.
    PidnsAlreadyUnshared,
    /// unshare: a limit on the number of namespaces is reached.
    NamespaceLimit { kinds: Box<[NsKind]> },
    /// unshare: namespaces of this kind are nested as deep as the kernel allows.
    NestedTooDeep { kind: NsKind, level: u32 },
    /// unshare of a user namespace by a caller whose root directory is not that of its mount namespace. `filtered`: a
    /// seccomp filter is in force as well, and would have come first.
    UsernsInChroot { filtered: bool },
    /// unshare of a user namespace by a caller whose uid or gid is not mapped in its own.
    UsernsUnmapped { userns: Option<NsInode>, filtered: bool },
    /// A remount that would take a flag off a mount which came with it from a more privileged mount namespace.
    FlagsLocked,
    /// A bind or move of a mount that is locked to what is around it, or a call that is not valid by itself.
    MountLocked { operation: &'static str },
    /// Ended before the kernel had asked anything, by a process under a seccomp filter.
    BeforeChecks { mode: Option<u32> },
    /// Refused where no rule of the kernel's own is left; `checked`: after it had passed its checks.
    SecurityModule { checked: bool },
    /// Nobody refused: something is missing, busy, or not valid.
    Ordinary { errno: i32 },
}

/// What is wrong with an argument of setns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadArgument {
    /// No such descriptor.
    NotOpen,
    /// Neither a namespace nor a pidfd.
    NoNamespace,
    /// A namespace of another kind than the type says.
    WrongKind { asked: u64, is: NsKind },
    /// A pidfd with a type that names no namespace, or something else besides.
    PidfdType { asked: u64 },
    /// The process of the pidfd is gone.
    ProcessGone,
}

impl Failure {
    /// A stable code.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::OwnUserns { .. } => "setns-own-userns",
            Self::UsernsThreads { .. } => "setns-userns-multithreaded",
            Self::FsShared { .. } => "setns-fs-shared",
            Self::PidnsNotBelow { .. } => "setns-pidns-not-below",
            Self::TimensThreads { .. } => "setns-timens-multithreaded",
            Self::BadArgument(_) => "setns-bad-argument",
            Self::UnshareThreads { .. } => "unshare-multithreaded",
            Self::PidnsAlreadyUnshared => "pidns-already-unshared",
            Self::NamespaceLimit { .. } => "namespace-limit",
            Self::NestedTooDeep { .. } => "namespaces-nested-too-deep",
            Self::UsernsInChroot { .. } => "userns-in-chroot",
            Self::UsernsUnmapped { .. } => "userns-of-unmapped-ids",
            Self::FlagsLocked => "mount-flags-locked",
            Self::MountLocked { .. } => "mount-locked-or-invalid",
            Self::BeforeChecks { .. } => "refused-before-checks",
            Self::SecurityModule { .. } => "refused-by-security-module",
            Self::Ordinary { .. } => "ordinary-error",
        }
    }

    /// Whether somebody refused, or the call was wrong in itself.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self {
            Self::BadArgument(_) | Self::Ordinary { .. } => Verdict::Failed,
            _ => Verdict::Refused,
        }
    }

    /// A few words for a line.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::OwnUserns { .. } => "the caller is in this user namespace already".to_string(),
            Self::UsernsThreads { threads, .. } | Self::UnshareThreads { threads } => {
                format!("the process has {threads} threads")
            }
            Self::FsShared { users, .. } => {
                format!("{users} tasks share the caller's root and working directory")
            }
            Self::PidnsNotBelow { .. } => "neither the caller's pid namespace nor one below it".to_string(),
            Self::TimensThreads { threads: Some(threads @ 2..) } => {
                format!("the process has {threads} threads")
            }
            Self::TimensThreads { .. } => "the process shares its memory with another one".to_string(),
            Self::BadArgument(argument) => argument.brief(),
            Self::PidnsAlreadyUnshared => "its children go to another pid namespace already".to_string(),
            Self::NamespaceLimit { .. } => "a limit on the number of namespaces".to_string(),
            Self::NestedTooDeep { kind, level } => format!("{} namespaces nested {level} deep", kind.name()),
            Self::UsernsInChroot { .. } => "the caller is in a chroot".to_string(),
            Self::UsernsUnmapped { .. } => "the caller's uid or gid is not mapped".to_string(),
            Self::FlagsLocked => "a flag of the mount is locked".to_string(),
            Self::MountLocked { .. } => "locked to the mounts around it, or not valid".to_string(),
            Self::BeforeChecks { .. } => {
                "before the kernel's own checks: seccomp filter or security module".to_string()
            }
            Self::SecurityModule { checked: false } => {
                "before the kernel's own checks: security module".to_string()
            }
            Self::SecurityModule { checked: true } => {
                "after every check had passed: security module or file system".to_string()
            }
            Self::Ordinary { errno } => text(*errno),
        }
    }
}

impl BadArgument {
    fn brief(self) -> String {
        match self {
            Self::NotOpen => "the descriptor is not open".to_string(),
            Self::NoNamespace => "the descriptor is no namespace and no pidfd".to_string(),
            Self::WrongKind { asked, is } => {
                format!("asked for {}, the descriptor is a {} namespace", named(asked), is.name())
            }
            Self::PidfdType { asked } => format!("the type {asked:#x} with a pidfd"),
            Self::ProcessGone => "the process of the pidfd is gone".to_string(),
        }
    }
}

/// The namespaces of a type, or its number.
pub(super) fn named(flags: u64) -> String {
    let list = names::namespace_list(flags);
    if list.is_empty() { format!("{flags:#x}") } else { list }
}

/// "EINVAL".
pub(super) fn symbol(errno: i32) -> String {
    format!("{:?}", nix::errno::Errno::from_raw(errno))
}

/// "Invalid argument".
pub(super) fn text(errno: i32) -> String {
    nix::errno::Errno::from_raw(errno).desc().to_string()
}

/// SECCOMP_MODE_DISABLED.
const UNFILTERED: u32 = 0;
/// CLONE_VM, CLONE_SIGHAND, CLONE_THREAD: what unshare cannot undo for one thread; CLONE_NEWUSER implies it.
const OF_ALL_THREADS: u64 = 0x0100 | 0x0800 | 0x0001_0000 | 0x1000_0000;
/// The CLONE_NEW* flags that a pidfd may be joined with.
const JOINABLE: u64 = 0x7e02_0080;
/// The deepest user namespace that may have another one in it, and likewise for pid namespaces.
const DEEPEST_USERNS: u32 = 33;
const DEEPEST_PIDNS: u32 = 32;

/// Why the call of this record failed; `check` is the record as it is kept.
pub(super) fn of(record: &CheckRecord, check: &Check, through: Option<ResultsThrough>) -> Failure {
    let errno = record.result().unwrap_or_default();
    let failed = Failed {
        record,
        check,
        error: Errno::from_raw_os_error(errno),
        flags: check.flags.unwrap_or(0),
        passed: call::count(record.outcome.call, call::ADMIN),
        through,
    };
    let found = match check.syscall {
        Syscall::Setns => failed.joining(),
        Syscall::Unshare => failed.unsharing(),
        Syscall::Mount | Syscall::Fsopen | Syscall::Fsconfig | Syscall::Fsmount | Syscall::MoveMount => {
            failed.mounting()
        }
        Syscall::Clone | Syscall::Clone3 => None,
    };
    found.unwrap_or(Failure::Ordinary { errno })
}

struct Failed<'a> {
    record: &'a CheckRecord,
    check: &'a Check,
    error: Errno,
    flags: u64,
    /// Checks of CAP_SYS_ADMIN, none of them denied.
    passed: u32,
    through: Option<ResultsThrough>,
}

impl Failed<'_> {
    fn read(&self, bit: u32, value: u32) -> Option<u32> {
        (self.record.valid & bit != 0).then_some(value)
    }

    /// More than one.
    fn threads(&self) -> Option<u32> {
        self.read(valid::THREADS, self.record.outcome.threads).filter(|threads| *threads > 1)
    }

    fn is_state(&self, bit: u32) -> bool {
        self.record.outcome.call & bit != 0
    }

    fn seccomp(&self) -> Option<u32> {
        self.read(valid::SECCOMP, self.record.outcome.seccomp)
    }

    /// Whether a seccomp filter may have ended the call. A trampoline is behind the filter: what that refuses never
    /// comes by.
    fn is_filtered(&self) -> bool {
        self.through != Some(ResultsThrough::Fexit) && self.seccomp() != Some(UNFILTERED)
    }

    fn joining(&self) -> Option<Failure> {
        match self.error {
            Errno::BADF => Some(Failure::BadArgument(BadArgument::NotOpen)),
            Errno::SRCH => Some(Failure::BadArgument(BadArgument::ProcessGone)),
            Errno::USERS => Some(Failure::TimensThreads {
                threads: self.read(valid::THREADS, self.record.outcome.threads),
            }),
            Errno::INVAL => self.invalid_join(),
            _ => self.refused(),
        }
    }

    fn invalid_join(&self) -> Option<Failure> {
        let outcome = &self.record.outcome;
        let is_pidfd = outcome.fd_kind == fd_kind::PIDFD;
        let kinds = match self.read(valid::FD, outcome.fd_kind)? {
            fd_kind::OTHER => return Some(Failure::BadArgument(BadArgument::NoNamespace)),
            // It was open when the call looked, or that would have been the error.
            fd_kind::NOT_OPEN => return None,
            fd_kind::PIDFD if self.flags == 0 || self.flags & !JOINABLE != 0 => {
                return Some(Failure::BadArgument(BadArgument::PidfdType { asked: self.flags }));
            }
            fd_kind::PIDFD => names::namespace_kinds(self.flags),
            kind => {
                let kinds = names::namespace_kinds(u64::from(kind));
                if self.flags != 0 && self.flags != u64::from(kind) {
                    let is = *kinds.first()?;
                    let wrong = BadArgument::WrongKind { asked: self.flags, is };
                    return Some(Failure::BadArgument(wrong));
                }
                kinds
            }
        };
        let shared = self.read(valid::FS_USERS, outcome.fs_users).filter(|users| *users > 1);
        let target = (!is_pidfd).then(|| NsInode(u64::from(outcome.fd_inode)));
        // The user namespace comes first, and what it asks itself before it asks for a capability.
        if kinds.contains(&NsKind::User) && self.passed == 0 {
            let own = self.check.caller_userns;
            if target.is_some() && target == own {
                return Some(Failure::OwnUserns { userns: own });
            }
            return Some(match (self.threads(), shared) {
                (Some(threads), _) => Failure::UsernsThreads { threads, perhaps_own: is_pidfd },
                (None, Some(users)) => Failure::FsShared { kind: NsKind::User, users, perhaps_own: is_pidfd },
                // All that is left.
                (None, None) if is_pidfd => Failure::OwnUserns { userns: own },
                (None, None) => return None,
            });
        }
        if kinds.contains(&NsKind::Mnt)
            && let Some(users) = shared
        {
            return Some(Failure::FsShared { kind: NsKind::Mnt, users, perhaps_own: false });
        }
        let own = self.check.pidns.inode;
        kinds.contains(&NsKind::Pid).then_some(Failure::PidnsNotBelow { target, own })
    }

    fn unsharing(&self) -> Option<Failure> {
        let outcome = &self.record.outcome;
        let kinds = names::namespace_kinds(self.flags);
        let asks = |kind| kinds.contains(&kind);
        match self.error {
            Errno::INVAL if self.passed > 0 => asks(NsKind::Pid).then_some(Failure::PidnsAlreadyUnshared),
            Errno::INVAL if self.flags & OF_ALL_THREADS != 0 => {
                self.threads().map(|threads| Failure::UnshareThreads { threads })
            }
            Errno::NOSPC => {
                let deep = |kind, level: Option<u32>, deepest| {
                    let level = level.filter(|level| asks(kind) && *level >= deepest)?;
                    Some(Failure::NestedTooDeep { kind, level })
                };
                let userns = self.read(valid::USERNS_LEVEL, outcome.userns_level);
                let pidns = self.read(valid::PIDNS_LEVEL, outcome.pidns_level);
                deep(NsKind::User, userns, DEEPEST_USERNS)
                    .or_else(|| deep(NsKind::Pid, pidns, DEEPEST_PIDNS))
                    .or(Some(Failure::NamespaceLimit { kinds: kinds.into() }))
            }
            Errno::PERM if self.passed == 0 && self.is_state(call::CHROOTED) => {
                Some(Failure::UsernsInChroot { filtered: self.is_filtered() })
            }
            Errno::PERM if self.passed == 0 && self.is_state(call::UNMAPPED) => {
                let (userns, filtered) = (self.check.caller_userns, self.is_filtered());
                Some(Failure::UsernsUnmapped { userns, filtered })
            }
            _ => self.refused(),
        }
    }

    fn mounting(&self) -> Option<Failure> {
        // Locked mounts and flags are those that came from another user namespace's mount namespace.
        let below = self.check.mnt.owner.is_some_and(|owner| owner != INIT);
        let is_mount = self.check.syscall == Syscall::Mount;
        let operation = if is_mount { names::mount_operation(self.flags) } else { None };
        match (self.error, operation) {
            // After may_mount: a remount of the file system asks once more where its flags are not locked.
            (Errno::PERM, Some("remount")) if below && self.passed > 0 => {
                let bind = self.flags & names::MS_BIND != 0;
                if bind || self.passed == 1 { Some(Failure::FlagsLocked) } else { self.refused() }
            }
            (Errno::INVAL, Some("bind")) if below && self.passed > 0 => {
                let recursive = self.flags & libc::MS_REC != 0;
                (!recursive).then_some(Failure::MountLocked { operation: "bind" })
            }
            (Errno::INVAL, Some("move")) if below && self.passed > 0 => {
                Some(Failure::MountLocked { operation: "move" })
            }
            (Errno::INVAL, None) if below && self.check.syscall == Syscall::MoveMount && self.passed > 0 => {
                Some(Failure::MountLocked { operation: "move" })
            }
            _ => self.refused(),
        }
    }

    /// What is left of EPERM and EACCES. A filter may give any errno; these three are what filters give.
    fn refused(&self) -> Option<Failure> {
        let made = call::count(self.record.outcome.call, call::MADE);
        match self.error {
            Errno::PERM | Errno::ACCESS if self.passed > 0 => Some(Failure::SecurityModule { checked: true }),
            // On the way to it a directory may not be searched: that was asked, and denied.
            Errno::ACCESS if made > 0 => None,
            Errno::PERM | Errno::ACCESS | Errno::NOSYS => {
                if self.is_filtered() {
                    return Some(Failure::BeforeChecks { mode: self.seccomp() });
                }
                (self.error != Errno::NOSYS).then_some(Failure::SecurityModule { checked: false })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
