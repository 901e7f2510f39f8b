//! The RuntimeDefault profile: what container runtimes have agreed on for years (containerd's and moby's lists).
//! Everything is refused with EPERM but the calls below; those that need a capability are allowed to a container
//! that may have it, for otherwise the capability would be worth nothing.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompOperator, LinuxSyscall,
};

use crate::runtime::capabilities;

/// Calls allowed whatever their arguments. Names of other architectures do no harm. io_uring is left out: its
/// operations pass by every filter.
const ALLOWED: &str = "
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32
clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep
clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create
epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2
execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir
fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr file_getattr
file_setattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync
ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid
getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom
getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname getsockopt gettid
gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init inotify_init1
inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown
lchown32 lgetxattr link linkat listen listmount listxattr listxattrat llistxattr _llseek lremovexattr lseek
lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mkdir mkdirat
mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open mq_timedreceive
mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd
msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl
pread64 preadv preadv2 prlimit64 process_mrelease process_vm_readv process_vm_writev pselect6
pselect6_time64 ptrace pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recv recvfrom
recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr removexattrat rename renameat renameat2
restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max
sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler
sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam
sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile
sendfile64 sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32
setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32
setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid setuid32
setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask sigreturn
socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync
sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime
timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat
uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev
";

/// Calls of this architecture alone.
const OF_ARCH: &str = if cfg!(target_arch = "x86_64") {
    "arch_prctl modify_ldt"
} else if cfg!(target_arch = "aarch64") {
    "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls"
} else if cfg!(target_arch = "riscv64") {
    "riscv_flush_icache riscv_hwprobe"
} else if cfg!(target_arch = "powerpc64") {
    "sync_file_range2 swapcontext"
} else if cfg!(target_arch = "s390x") {
    "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"
} else {
    ""
};

/// Calls that come with a capability in the bounding set.
const OF_CAPABILITY: [(&str, &str); 14] = [
    ("DAC_READ_SEARCH", "open_by_handle_at"),
    (
        "SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr \
         perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("SYS_BOOT", "reboot"),
    ("SYS_CHROOT", "chroot"),
    ("SYS_MODULE", "delete_module init_module finit_module"),
    ("SYS_PACCT", "acct"),
    ("SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("SYS_RAWIO", "iopl ioperm"),
    ("SYS_TIME", "settimeofday stime clock_settime clock_settime64"),
    ("SYS_TTY_CONFIG", "vhangup"),
    ("SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("SYSLOG", "syslog"),
    ("BPF", "bpf"),
    ("PERFMON", "perf_event_open"),
];

/// Namespace bits of clone(2): CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// Which of its arguments are the flags: s390 has them second.
const CLONE_FLAGS: usize = if cfg!(target_arch = "s390x") { 1 } else { 0 };
/// Personas of personality(2) that change no protection: Linux, Linux32, the same with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x0008, 0x2_0000, 0x2_0008, 0xffff_ffff];
/// Sockets of the kernel's crypto API (CVE-2026-31431).
const AF_ALG: u64 = 38;
/// Sockets to the hypervisor, which know no network namespace.
const AF_VSOCK: u64 = 40;

/// The profile for the infra container, and any other with the default capabilities.
#[must_use]
pub fn profile() -> LinuxSeccomp {
    profile_for(capabilities::bits(&capabilities::DEFAULT.into_iter().collect()))
}

/// The profile for a container with these capabilities in its bounding set (bit n for capability n).
#[must_use]
pub fn profile_for(bounding: u64) -> LinuxSeccomp {
    let has = |name: &str| capabilities::number(name).is_some_and(|number| bounding & 1 << number != 0);
    let always = ALLOWED.split_whitespace().chain(OF_ARCH.split_whitespace());
    let granted = OF_CAPABILITY.iter().filter(|(name, _)| has(name));
    let mut rules = vec![allow(always.chain(granted.flat_map(|(_, calls)| calls.split_whitespace())), None)];
    if !has("SYS_ADMIN") {
        // No new namespaces; clone3 cannot be filtered by its flags, so callers are sent back to clone.
        let flags = Some((CLONE_FLAGS, CLONE_NAMESPACES, LinuxSeccompOperator::ScmpCmpMaskedEq));
        rules.push(allow(["clone"], flags));
        let mut clone3 = allow(["clone3"], None);
        clone3.set_action(LinuxSeccompAction::ScmpActErrno).set_errno_ret(Some(libc::ENOSYS.unsigned_abs()));
        rules.push(clone3);
    }
    for persona in PERSONALITIES {
        rules.push(allow(["personality"], Some((0, persona, LinuxSeccompOperator::ScmpCmpEq))));
    }
    // Two families are left out. Comparisons of one argument are alternatives, so "neither" is three ranges.
    for (family, op) in [
        (AF_ALG, LinuxSeccompOperator::ScmpCmpLt),
        (AF_ALG + 1, LinuxSeccompOperator::ScmpCmpEq),
        (AF_VSOCK, LinuxSeccompOperator::ScmpCmpGt),
    ] {
        rules.push(allow(["socket"], Some((0, family, op))));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM.unsigned_abs()))
        .set_architectures(Some(architectures()))
        .set_syscalls(Some(rules));
    profile
}

/// Whether this profile has a call by that name, for whatever capability.
#[must_use]
pub fn names(call: &str) -> bool {
    let of_capability = OF_CAPABILITY.iter().flat_map(|(_, calls)| calls.split_whitespace());
    let mut all = ALLOWED.split_whitespace().chain(OF_ARCH.split_whitespace()).chain(of_capability);
    all.any(|known| known == call)
}

/// The machine's own architecture and the older ones its kernel also runs.
fn architectures() -> Vec<Arch> {
    if cfg!(target_arch = "x86_64") {
        vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32]
    } else if cfg!(target_arch = "aarch64") {
        vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm]
    } else {
        Vec::new()
    }
}

/// A rule for these calls; `arg` compares one argument by its index (a masked one with 0).
fn allow<'a>(
    names: impl IntoIterator<Item = &'a str>,
    arg: Option<(usize, u64, LinuxSeccompOperator)>,
) -> LinuxSyscall {
    // The type has neither setters nor public fields, only a builder, which cannot fail with all fields set;
    // its default would compare with 0.
    let arg = arg.map(|(index, value, op)| {
        let arg = LinuxSeccompArgBuilder::default().index(index).value(value).value_two(0u64).op(op);
        vec![arg.build().unwrap_or_default()]
    });
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.into_iter().map(str::to_owned).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_args(arg);
    rule
}
