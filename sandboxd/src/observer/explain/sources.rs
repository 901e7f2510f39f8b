//! Where a rule stands: man pages, kernel functions, KEPs.

use sandboxd_ebpf::Syscall;

use crate::observer::failure::Failure;
use crate::observer::reason::Reason;

pub(super) fn of(reason: &Reason, syscall: Syscall) -> Vec<&'static str> {
    let mut sources = match reason {
        Reason::NetnsOwnedByOtherUserns { .. } => vec![
            "fs/sysfs/mount.c: sysfs_init_fs_context",
            "net/core/net-sysfs.c: net_current_may_mount",
            "https://github.com/containerd/containerd/issues/6908",
            "KEP-127",
        ],
        Reason::ProcWithoutOwnPidns { .. } => {
            vec!["fs/proc/root.c: proc_init_fs_context", "fs/super.c: mount_capable", "pid_namespaces(7)"]
        }
        Reason::MayMountDenied { .. } => vec!["fs/namespace.c: may_mount", "mount_namespaces(7)"],
        Reason::SetnsForeignNamespace { .. } => vec!["kernel/nsproxy.c: validate_nsset"],
        Reason::SetnsForeignUserns { .. } => vec!["kernel/user_namespace.c: userns_install"],
        Reason::SetnsProcessClosed { .. } => {
            vec!["kernel/nsproxy.c: validate_nsset", "kernel/ptrace.c: ptrace_may_access", "ptrace(2)"]
        }
        Reason::Failed(failure) => of_failure(failure),
        Reason::MqueueWithoutOwnIpcns { .. } => {
            vec!["ipc/mqueue.c: mqueue_init_fs_context", "fs/super.c: mount_capable", "ipc_namespaces(7)"]
        }
        Reason::CgroupWithoutOwnCgroupns { .. } => {
            vec!["kernel/cgroup/cgroup.c: cgroup_init_fs_context", "cgroup_namespaces(7)"]
        }
        Reason::RemountOfOthers { .. } => {
            vec!["fs/namespace.c: do_remount", "fs/fsopen.c: vfs_cmd_reconfigure"]
        }
        Reason::OptionNotForUserns { .. } => vec!["kernel/bpf/inode.c: bpf_parse_param"],
        Reason::FilesystemNotForUserns { .. } => vec!["fs/super.c: mount_capable"],
        Reason::TooRevealing { .. } => {
            vec!["fs/namespace.c: mount_too_revealing", "fs/namespace.c: mnt_already_visible"]
        }
        _ => vec!["security/commoncap.c: cap_capable", "capabilities(7)"],
    };
    sources.push(match syscall {
        Syscall::Mount | Syscall::MoveMount | Syscall::Fsopen | Syscall::Fsconfig | Syscall::Fsmount => {
            "mount(2)"
        }
        Syscall::Setns => "setns(2)",
        Syscall::Unshare => "unshare(2)",
        Syscall::Clone | Syscall::Clone3 => "clone(2)",
    });
    sources.push("user_namespaces(7)");
    sources
}

fn of_failure(failure: &Failure) -> Vec<&'static str> {
    match failure {
        Failure::OwnUserns { .. } | Failure::UsernsThreads { .. } => {
            vec!["kernel/user_namespace.c: userns_install"]
        }
        Failure::FsShared { .. } => {
            vec!["kernel/user_namespace.c: userns_install", "fs/namespace.c: mntns_install", "clone(2)"]
        }
        Failure::PidnsNotBelow { .. } => vec!["kernel/pid_namespace.c: pidns_install", "pid_namespaces(7)"],
        Failure::TimensThreads { .. } => {
            vec!["kernel/time/namespace.c: timens_install", "time_namespaces(7)"]
        }
        Failure::BadArgument(_) => vec!["kernel/nsproxy.c: setns", "namespaces(7)"],
        Failure::UnshareThreads { .. } => vec!["kernel/fork.c: check_unshare_flags"],
        Failure::PidnsAlreadyUnshared => {
            vec!["kernel/pid_namespace.c: copy_pid_ns, create_pid_namespace", "pid_namespaces(7)"]
        }
        Failure::NamespaceLimit { .. } => vec!["kernel/ucount.c: inc_ucount", "namespaces(7)"],
        Failure::NestedTooDeep { .. } => {
            vec!["kernel/user_namespace.c: create_user_ns", "kernel/pid_namespace.c: create_pid_namespace"]
        }
        Failure::UsernsInChroot { .. } => {
            vec!["kernel/user_namespace.c: create_user_ns", "fs/namespace.c: current_chrooted"]
        }
        Failure::UsernsUnmapped { .. } => vec!["kernel/user_namespace.c: create_user_ns"],
        Failure::FlagsLocked => {
            vec!["fs/namespace.c: can_change_locked_flags, lock_mnt_tree", "mount_namespaces(7)"]
        }
        Failure::MountLocked { .. } => {
            vec!["fs/namespace.c: has_locked_children, do_move_mount", "mount_namespaces(7)"]
        }
        Failure::BeforeChecks { .. } => vec!["seccomp(2)", "fs/namespace.c: path_mount (security_sb_mount)"],
        Failure::SecurityModule { .. } => vec!["include/linux/lsm_hook_defs.h", "fs/namespace.c: path_mount"],
        Failure::Ordinary { .. } => vec!["errno(3)"],
    }
}
