//! Calls that failed without a denied check: what happened, what the kernel asked, and what would fix it.

use super::View;
use crate::observer::failure::{BadArgument, Failure, named, symbol, text};
use crate::observer::lsm;
use crate::pod::model::NsKind;

impl View<'_> {
    pub(super) fn failed(&self, failure: &Failure) -> (String, String) {
        let who = self.who();
        let call = self.check.call();
        let errno = symbol(self.check.result.unwrap_or_default());
        let (why, fix) = match failure {
            Failure::OwnUserns { userns } => (
                match userns {
                    Some(userns) => format!("it is in {} already", self.userns(*userns)),
                    None => "it is in that user namespace already".to_string(),
                },
                "Leave the call out: there is nothing to join (nsenter: leave --user out).".to_string(),
            ),
            Failure::UsernsThreads { threads, perhaps_own } => (
                format!(
                    "its process has {threads} threads, and all threads of a process share one user \
                     namespace{}",
                    or_own(*perhaps_own)
                ),
                "Join from a process with one thread: before others are started, or in a child that a fork \
                 made (runtimes that start threads by themselves, Go and Java, need a helper for it)."
                    .to_string(),
            ),
            Failure::FsShared { kind, users, perhaps_own } => (
                format!(
                    "{users} tasks share its root and working directory (CLONE_FS), and a {} namespace is \
                     joined only by one that has them for itself{}",
                    long(*kind),
                    or_own(*perhaps_own)
                ),
                "Call unshare(CLONE_FS) before, which each thread can do for itself, or fork first."
                    .to_string(),
            ),
            Failure::PidnsNotBelow { target, own } => {
                let inode = |ns: Option<_>| ns.map(|ns| format!(" {ns}")).unwrap_or_default();
                (
                    format!(
                        "pid namespace{} is neither its own{} nor below that one",
                        inode(*target),
                        inode(*own)
                    ),
                    "Join from a process of that pid namespace or of one above it: a process can be put \
                     further down, and never back up."
                        .to_string(),
                )
            }
            Failure::TimensThreads { threads: Some(threads @ 2..) } => (
                format!("its process has {threads} threads, and all of a process share one time namespace"),
                "Join from a process with one thread, for instance in a child that a fork made.".to_string(),
            ),
            Failure::TimensThreads { .. } => (
                "it shares its memory with another process (CLONE_VM), which would have to change its time \
                 namespace with it"
                    .to_string(),
                "Join from a process that has its memory for itself (fork, not vfork).".to_string(),
            ),
            Failure::BadArgument(argument) => bad_argument(*argument),
            Failure::UnshareThreads { threads } => (
                format!("its process has {threads} threads, and what it asks for they have in common"),
                "Unshare from a process with one thread, or make the namespace with a new process (clone)."
                    .to_string(),
            ),
            Failure::PidnsAlreadyUnshared => (
                "its children go to another pid namespace than its own already (unshare or setns before), or \
                 its user namespace is not below the one that owns its pid namespace"
                    .to_string(),
                "Fork first: the child is in the new pid namespace and may make another one.".to_string(),
            ),
            Failure::NamespaceLimit { kinds } => (
                "a limit on the number of namespaces is reached, in its user namespace or in one above it"
                    .to_string(),
                format!(
                    "Look at {} of the user namespace and of those above it, and at what keeps namespaces \
                     alive (`sandboxd namespaces`).",
                    limits(kinds)
                ),
            ),
            Failure::NestedTooDeep { kind, level } => (
                format!("{} namespaces are nested {level} deep, which is as deep as it goes", long(*kind)),
                "Make the namespace from one further up.".to_string(),
            ),
            Failure::UsernsInChroot { filtered } => (
                format!(
                    "its root directory is not the root of its mount namespace (chroot), out of which a new \
                     user namespace could lead{}",
                    or_filter(*filtered)
                ),
                "Change the root with pivot_root in a mount namespace of its own instead of chroot."
                    .to_string(),
            ),
            Failure::UsernsUnmapped { userns, filtered } => (
                format!(
                    "its effective uid or gid has no number in {}, so nobody there would own the new \
                     one{}",
                    userns.map_or_else(|| "its user namespace".to_string(), |userns| self.userns(userns)),
                    or_filter(*filtered)
                ),
                "Map the caller's ids in its user namespace first (/proc/PID/uid_map and gid_map; unshare: \
                 --map-root-user)."
                    .to_string(),
            ),
            Failure::FlagsLocked => (
                "it would take a flag off the mount (ro, nosuid, nodev, noexec, or how access times are \
                 kept) that is locked: the mount came with it from a more privileged mount namespace"
                    .to_string(),
                "Repeat the flags that the mount has (/proc/PID/mountinfo) in the remount, or have it \
                 mounted without them where it came from."
                    .to_string(),
            ),
            Failure::MountLocked { operation } => (
                match *operation {
                    "bind" => "mounts below the one to bind are locked to it, because they came together \
                               from a more privileged mount namespace, or the call is not valid by itself \
                               (the source is of another mount namespace or unbindable): the kernel does not \
                               say which"
                        .to_string(),
                    _ => "the mount is locked to the one around it, because they came together from a more \
                          privileged mount namespace, or the call is not valid by itself (not a mount's root, \
                          of another mount namespace, below a shared mount): the kernel does not say which"
                        .to_string(),
                },
                match *operation {
                    "bind" => "Bind it with all that is mounted below it (MS_REC, mount --rbind).".to_string(),
                    _ => "Leave the mount where it is, and bind it with all that is below it (MS_REC, mount \
                          --rbind) to where it is wanted."
                        .to_string(),
                },
            ),
            Failure::BeforeChecks { mode } => (
                format!(
                    "the call was over before the kernel had asked for a capability. {}, and {}",
                    match mode {
                        Some(mode) => format!("The process is under seccomp (mode {mode})"),
                        None => "Whether the process is under seccomp could not be read".to_string(),
                    },
                    modules("may have refused it as well")
                ),
                "Let the seccomp profile allow the call (securityContext.seccompProfile; RuntimeDefault \
                 allows mount, setns and unshare with CAP_SYS_ADMIN only); if it does, look at the profile of \
                 the security module."
                    .to_string(),
            ),
            Failure::SecurityModule { checked: false } => (
                format!(
                    "the call was over before the kernel had asked for a capability, and {}",
                    modules("may have refused it")
                ),
                "Look at what that module has against the process: its profile or domain, and the audit log."
                    .to_string(),
            ),
            Failure::SecurityModule { checked: true } => (
                format!(
                    "every check was passed and no other rule is known against it; {}, or the file system \
                     itself did",
                    modules("may have refused it")
                ),
                "Look at the profile or domain that the module has for the process, and at the kernel's log \
                 for what the file system says."
                    .to_string(),
            ),
            Failure::Ordinary { errno } => (
                format!("{}; no check was denied and no rule is known against it", lower(&text(*errno))),
                "Look at the arguments of the call: path, type, options, flags.".to_string(),
            ),
        };
        (format!("{who}: {call} failed with {errno}: {why}."), fix)
    }

    /// What the kernel looks at, and where.
    pub(super) fn looked_at(&self, failure: &Failure) -> String {
        let call = self.check.call();
        let rule = match failure {
            Failure::OwnUserns { .. } => {
                "takes no user namespace that the caller is in: it would gain capabilities (userns_install), \
                 before any capability is asked for"
            }
            Failure::UsernsThreads { .. } => {
                "looks for other threads of the process (userns_install), before any capability is asked for"
            }
            Failure::FsShared { .. } => {
                "looks at how many tasks use the caller's struct fs (userns_install, mntns_install)"
            }
            Failure::PidnsNotBelow { .. } => {
                "passed every capability check; then it looks for the caller's pid namespace among the \
                 parents of the one to join (pidns_install)"
            }
            Failure::TimensThreads { .. } => {
                "looks for others that share the caller's memory (timens_install, current_is_single_threaded), \
                 before any capability is asked for"
            }
            Failure::BadArgument(_) => "looks at the descriptor and the type first",
            Failure::UnshareThreads { .. } => {
                "looks for other threads of the process (check_unshare_flags), before any capability is asked \
                 for"
            }
            Failure::PidnsAlreadyUnshared => {
                "passed every capability check; a pid namespace is made below the caller's own only \
                 (copy_pid_ns, create_pid_namespace)"
            }
            Failure::NamespaceLimit { .. } => {
                "counts the namespaces of the caller's user namespace and of those above it (inc_ucount)"
            }
            Failure::NestedTooDeep { .. } => {
                "looks at how deep the caller is (create_user_ns, create_pid_namespace)"
            }
            Failure::UsernsInChroot { .. } => {
                "looks at the caller's root directory (create_user_ns, current_chrooted)"
            }
            Failure::UsernsUnmapped { .. } => {
                "looks for the caller's ids in its user namespace's maps (create_user_ns, kuid_has_mapping)"
            }
            Failure::FlagsLocked => {
                "passed may_mount; then the flags that are locked must be among the new ones \
                 (can_change_locked_flags)"
            }
            Failure::MountLocked { .. } => {
                "passed may_mount; then it looks at how the mount hangs together with others (has_locked_children, \
                 MNT_LOCKED)"
            }
            Failure::BeforeChecks { .. } => {
                "asked for no capability; before the first one come the seccomp filter and, in mount(2), the \
                 security modules (security_sb_mount)"
            }
            Failure::SecurityModule { checked: false } => {
                "asked for no capability; before the first one come the security modules in mount(2) \
                 (security_sb_mount), in setns(2) with a pidfd (security_ptrace_access_check) and in unshare(2) \
                 (security_create_user_ns); a seccomp filter is not in force, or would not be seen here"
            }
            Failure::SecurityModule { checked: true } => {
                "passed every capability check; then security modules are asked (security_move_mount, \
                 security_sb_kern_mount, security_create_user_ns) and the file system itself"
            }
            Failure::Ordinary { .. } => "had no check denied",
        };
        format!("{call} {rule}.")
    }

    pub(super) fn last_asked(&self) -> String {
        match self.check.target_userns {
            Some(target) => format!("The last check was made, and passed, in {}.", self.userns(target)),
            None => "No capability was asked for, or what was asked is only counted.".to_string(),
        }
    }
}

fn bad_argument(argument: BadArgument) -> (String, String) {
    let why = match argument {
        BadArgument::NotOpen => "the descriptor is not open".to_string(),
        BadArgument::NoNamespace => {
            "the descriptor is neither a namespace (/proc/PID/ns) nor a pidfd".to_string()
        }
        BadArgument::WrongKind { asked, is } => {
            format!("the descriptor is a {} namespace, and the type asks for {}", long(is), named(asked))
        }
        BadArgument::PidfdType { asked: 0 } => "a pidfd takes a type that names namespaces".to_string(),
        BadArgument::PidfdType { asked } => {
            format!("the type {asked:#x} names something else than namespaces that a pidfd can give")
        }
        BadArgument::ProcessGone => "the process of the pidfd has ended".to_string(),
    };
    let fix = match argument {
        BadArgument::NotOpen | BadArgument::NoNamespace => {
            "Open the file of the namespace (/proc/PID/ns/KIND, or a bind mount of it) and give its descriptor."
        }
        BadArgument::WrongKind { .. } => "Give the type of the namespace, or 0 for any.",
        BadArgument::PidfdType { .. } => "Give the CLONE_NEW* flags of the namespaces to join.",
        BadArgument::ProcessGone => {
            "Hold the namespaces themselves (/proc/PID/ns, PIDFD_GET_*_NAMESPACE): they outlive the process."
        }
    };
    (why, fix.to_string())
}

fn or_filter(filtered: bool) -> &'static str {
    if filtered { ", unless the seccomp filter that is in force refused before" } else { "" }
}

fn or_own(perhaps: bool) -> &'static str {
    if perhaps { "; or it is the one it is in, which a pidfd does not show" } else { "" }
}

fn long(kind: NsKind) -> &'static str {
    match kind {
        NsKind::Net => "network",
        NsKind::Mnt => "mount",
        other => other.name(),
    }
}

/// The sysctls that limit namespaces of these kinds.
fn limits(kinds: &[NsKind]) -> String {
    let files = kinds.iter().map(|kind| format!("/proc/sys/user/max_{}_namespaces", kind.name()));
    files.collect::<Vec<_>>().join(", ")
}

/// "a security module (landlock, bpf) may have refused it".
fn modules(what: &str) -> String {
    match lsm::candidates() {
        Some([]) => "no security module of this kernel has a say in it".to_string(),
        Some(names) => format!("a security module ({}) {what}", names.join(", ")),
        None => format!("a security module {what} (this kernel does not list those it has)"),
    }
}

fn lower(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}
