use sandboxd_ebpf::{INIT_USERNS, Outcome};

use super::super::check::tests::{check, record};
use super::*;

const USER: u32 = 0x1000_0000;
const NET: u32 = 0x4000_0000;
const MNT: u32 = 0x0002_0000;
const PID: u32 = 0x2000_0000;

/// A failed call of a process with one thread in user namespace 100.
fn failed(syscall: Syscall, errno: i32, outcome: Outcome) -> CheckRecord {
    let call = outcome.call | call::FAILURE;
    CheckRecord {
        syscall: syscall as u32,
        ret: -errno,
        valid: u32::MAX,
        outcome: Outcome { call, ..outcome },
        ..record()
    }
}

fn why(record: &CheckRecord) -> Failure {
    of(record, &check(record), Some(ResultsThrough::SysExit))
}

fn one() -> Outcome {
    Outcome { threads: 1, fs_users: 1, ..Outcome::default() }
}

fn passed(checks: u32) -> Outcome {
    Outcome { call: checks << call::ADMIN | checks << call::MADE, ..one() }
}

fn setns(fd_kind: u32, flags: u32, outcome: Outcome) -> CheckRecord {
    let outcome = Outcome { fd_kind, fd_inode: 500, ..outcome };
    CheckRecord { flags: u64::from(flags), ..failed(Syscall::Setns, libc::EINVAL, outcome) }
}

#[test]
fn a_user_namespace_is_joined_by_one_thread_with_its_own_fs() {
    let own = Failure::OwnUserns { userns: Some(NsInode(100)) };
    let threads = Failure::UsernsThreads { threads: 3, perhaps_own: false };
    let shared = Failure::FsShared { kind: NsKind::User, users: 2, perhaps_own: false };
    let two = Outcome { threads: 3, fs_users: 2, ..one() };
    // In the kernel's order: one's own namespace, threads, what is shared.
    let mut already = setns(USER, 0, two);
    already.outcome.fd_inode = 100;
    assert_eq!(why(&already), own);
    assert_eq!(why(&setns(USER, USER, two)), threads);
    assert_eq!(why(&setns(USER, 0, Outcome { threads: 1, ..two })), shared);
    assert_eq!(why(&setns(USER, 0, one())), Failure::Ordinary { errno: libc::EINVAL });
    // A pidfd does not show the namespace: of several causes one is left, or two are told.
    assert_eq!(why(&setns(fd_kind::PIDFD, USER | MNT, one())), own);
    let perhaps = Failure::UsernsThreads { threads: 3, perhaps_own: true };
    assert_eq!(why(&setns(fd_kind::PIDFD, USER | MNT, two)), perhaps);
}

#[test]
fn other_namespaces_are_asked_after_the_checks() {
    let shared = Outcome { fs_users: 2, ..passed(2) };
    let of_mnt = Failure::FsShared { kind: NsKind::Mnt, users: 2, perhaps_own: false };
    assert_eq!(why(&setns(MNT, MNT, shared)), of_mnt);
    assert_eq!(why(&setns(fd_kind::PIDFD, USER | MNT, shared)), of_mnt, "the user namespace was joined");
    let own = Some(NsInode(400));
    let not_below = |target| Failure::PidnsNotBelow { target, own };
    assert_eq!(why(&setns(PID, 0, passed(2))), not_below(Some(NsInode(500))));
    assert_eq!(why(&setns(fd_kind::PIDFD, PID, passed(2))), not_below(None));
    let time = CheckRecord { ret: -libc::EUSERS, ..setns(0x80, 0x80, one()) };
    assert_eq!(why(&time), Failure::TimensThreads { threads: Some(1) });
}

#[test]
fn arguments_that_cannot_be() {
    let of = |record: &CheckRecord| match why(record) {
        Failure::BadArgument(argument) => argument,
        other => panic!("{other:?}"),
    };
    let wrong = BadArgument::WrongKind { asked: u64::from(NET), is: NsKind::Mnt };
    assert_eq!(of(&setns(MNT, NET, one())), wrong);
    assert_eq!(of(&setns(fd_kind::OTHER, NET, one())), BadArgument::NoNamespace);
    assert_eq!(of(&setns(fd_kind::PIDFD, 0, one())), BadArgument::PidfdType { asked: 0 });
    assert_eq!(of(&setns(fd_kind::PIDFD, NET | 1, one())), BadArgument::PidfdType { asked: 0x4000_0001 });
    assert_eq!(of(&failed(Syscall::Setns, libc::EBADF, one())), BadArgument::NotOpen);
    assert_eq!(of(&failed(Syscall::Setns, libc::ESRCH, one())), BadArgument::ProcessGone);
    let unread = CheckRecord { valid: !valid::FD, ..setns(MNT, NET, one()) };
    assert_eq!(why(&unread), Failure::Ordinary { errno: libc::EINVAL }, "nothing is made up");
}

#[test]
fn new_namespaces() {
    let unshare = |errno, flags: u32, outcome| {
        let record = CheckRecord { flags: u64::from(flags), ..failed(Syscall::Unshare, errno, outcome) };
        why(&record)
    };
    let threads = Outcome { threads: 4, ..one() };
    assert_eq!(unshare(libc::EINVAL, USER, threads), Failure::UnshareThreads { threads: 4 });
    assert_eq!(unshare(libc::EINVAL, USER, one()), Failure::Ordinary { errno: libc::EINVAL });
    assert_eq!(unshare(libc::EINVAL, PID, passed(1)), Failure::PidnsAlreadyUnshared);
    let limit = Failure::NamespaceLimit { kinds: [NsKind::User, NsKind::Net].into() };
    assert_eq!(unshare(libc::ENOSPC, USER | NET, one()), limit);
    let deep = |userns_level, pidns_level| Outcome { userns_level, pidns_level, ..one() };
    let nested = |kind, level| Failure::NestedTooDeep { kind, level };
    assert_eq!(unshare(libc::ENOSPC, USER, deep(33, 1)), nested(NsKind::User, 33));
    assert_eq!(unshare(libc::ENOSPC, PID, deep(33, 32)), nested(NsKind::Pid, 32));
    assert_eq!(
        unshare(libc::ENOSPC, NET, deep(33, 32)),
        Failure::NamespaceLimit { kinds: [NsKind::Net].into() }
    );
    let chrooted = Outcome { call: call::CHROOTED | call::UNMAPPED, ..one() };
    assert_eq!(unshare(libc::EPERM, USER, chrooted), Failure::UsernsInChroot { filtered: false });
    let unmapped = Outcome { call: call::UNMAPPED, seccomp: 2, ..one() };
    let userns = Some(NsInode(100));
    assert_eq!(unshare(libc::EPERM, USER, unmapped), Failure::UsernsUnmapped { userns, filtered: true });
}

#[test]
fn mounts_that_are_locked() {
    let mount = |errno, flags, outcome| why(&CheckRecord { flags, ..failed(Syscall::Mount, errno, outcome) });
    let bind = libc::MS_REMOUNT | libc::MS_BIND;
    assert_eq!(mount(libc::EPERM, bind, passed(1)), Failure::FlagsLocked);
    assert_eq!(mount(libc::EPERM, libc::MS_REMOUNT, passed(1)), Failure::FlagsLocked);
    let module = Failure::SecurityModule { checked: true };
    assert_eq!(mount(libc::EPERM, libc::MS_REMOUNT, passed(2)), module, "its file system was asked");
    assert_eq!(mount(libc::EINVAL, libc::MS_BIND, passed(1)), Failure::MountLocked { operation: "bind" });
    assert_eq!(mount(libc::EINVAL, libc::MS_MOVE, passed(1)), Failure::MountLocked { operation: "move" });
    let ordinary = Failure::Ordinary { errno: libc::EINVAL };
    assert_eq!(mount(libc::EINVAL, libc::MS_BIND | libc::MS_REC, passed(1)), ordinary);
    let of_host = CheckRecord {
        flags: libc::MS_BIND,
        mntns_owner: INIT_USERNS,
        ..failed(Syscall::Mount, libc::EINVAL, passed(1))
    };
    assert_eq!(why(&of_host), ordinary, "the host's mounts are not locked");
}

#[test]
fn what_no_rule_of_the_kernels_explains() {
    let filtered = Outcome { seccomp: 2, ..one() };
    let mount = |errno, outcome| failed(Syscall::Mount, errno, outcome);
    let before = Failure::BeforeChecks { mode: Some(2) };
    let module = |checked| Failure::SecurityModule { checked };
    for errno in [libc::EPERM, libc::EACCES] {
        assert_eq!(why(&mount(errno, filtered)), before);
        assert_eq!(why(&mount(errno, one())), module(false));
        assert_eq!(why(&mount(errno, passed(2))), module(true));
        // A trampoline is behind the filter.
        let record = mount(errno, filtered);
        assert_eq!(of(&record, &check(&record), Some(ResultsThrough::Fexit)), module(false));
    }
    assert_eq!(why(&mount(libc::ENOSYS, filtered)), before);
    let unread = CheckRecord { valid: !valid::SECCOMP, ..mount(libc::EPERM, one()) };
    assert_eq!(why(&unread), Failure::BeforeChecks { mode: None });
    // A directory on the way may not be searched: CAP_DAC_READ_SEARCH was asked.
    let searched = Outcome { call: 1 << call::MADE, ..one() };
    assert_eq!(why(&mount(libc::EACCES, searched)), Failure::Ordinary { errno: libc::EACCES });
    for errno in [libc::ENOENT, libc::ENODEV, libc::EBUSY, libc::EINVAL] {
        let ordinary = why(&mount(errno, passed(1)));
        assert_eq!((&ordinary, ordinary.verdict()), (&Failure::Ordinary { errno }, Verdict::Failed));
    }
}

#[test]
fn names_of_errors() {
    assert_eq!(symbol(libc::EUSERS), "EUSERS");
    assert_eq!(text(libc::ENODEV), "No such device");
}
