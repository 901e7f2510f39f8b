//! Words for a [`Reason`], for an operator who has not read the kernel's source.

use super::attribution::{Attribution, PodKeys};
use super::check::{Check, INIT};
use super::names;
use super::reason::Reason;
use crate::pod::model::{NsInode, NsKind};

mod failed;
mod headline;
mod sources;

/// Why, in full sentences.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Explanation {
    /// The stable code, [`Reason::code`]; "allowed" for an allowed check.
    pub code: &'static str,
    /// What happened.
    pub headline: String,
    /// Syscall, what was asked, which kernel function checks it.
    pub asked: String,
    /// In which user namespace, and who owns that.
    pub target: String,
    /// Which user namespace the caller has.
    pub caller: String,
    /// Who made the namespace in question, and when, where known.
    pub made_by: String,
    /// What would fix it.
    pub fix: String,
    /// Man pages, kernel functions, KEPs.
    pub sources: Vec<&'static str>,
}

impl Explanation {
    /// Headline and fix: what fits into an error's text.
    #[must_use]
    pub fn brief(&self) -> String {
        if self.fix.is_empty() { self.headline.clone() } else { format!("{} {}", self.headline, self.fix) }
    }
}

/// Explains a check with what is known of the node's pods.
#[must_use]
pub fn explain(check: &Check, pods: &Attribution) -> Explanation {
    let view = View { check, pods };
    let Some(reason) = &check.reason else { return view.allowed() };
    let kernels = reason.kernels();
    let (headline, fix) = view.headline_and_fix(kernels);
    let stranger = matches!(reason, Reason::NotAPodProcess(_));
    Explanation {
        code: reason.code(),
        headline: if stranger {
            format!("{headline} The process is none of a pod of this node, as far as sandboxd knows.")
        } else {
            headline
        },
        asked: view.asked(kernels),
        target: view.target(kernels),
        caller: view.caller(),
        made_by: view.made_by(kernels),
        fix,
        sources: sources::of(kernels, check.syscall),
    }
}

struct View<'a> {
    check: &'a Check,
    pods: &'a Attribution,
}

impl View<'_> {
    fn allowed(&self) -> Explanation {
        let capability = self.capability();
        Explanation {
            code: "allowed",
            headline: format!("{} was allowed {capability} for {}.", self.who(), self.check.call()),
            asked: self.asked(&Reason::Unknown),
            target: self.target(&Reason::Unknown),
            caller: self.caller(),
            sources: vec!["user_namespaces(7)", "capabilities(7)"],
            ..Explanation::default()
        }
    }

    fn asked(&self, reason: &Reason) -> String {
        let check = self.check;
        let capability = self.capability();
        let call = check.call();
        match reason {
            Reason::Failed(failure) => self.looked_at(failure),
            Reason::TooRevealing { .. } => format!(
                "{call} passed every capability check; mount_too_revealing() then looks for an existing mount \
                 of the type that shows all of it."
            ),
            Reason::NetnsOwnedByOtherUserns { .. } => format!(
                "{call} asks for {capability} in the user namespace that owns the caller's network namespace: \
                 sysfs shows that namespace's devices (kobj_ns_current_may_mount, net_current_may_mount)."
            ),
            Reason::ProcWithoutOwnPidns { .. } => format!(
                "{call} asks for {capability} in the user namespace that owns the caller's pid namespace: proc \
                 shows that namespace's processes (proc_init_fs_context, mount_capable)."
            ),
            Reason::MayMountDenied { .. } => format!(
                "{call} asks for {capability} in the user namespace that owns the caller's mount namespace \
                 (may_mount), before anything else."
            ),
            Reason::SetnsForeignNamespace { .. } => format!(
                "{call} asks for {capability} in the user namespace that owns the namespace to join (the \
                 install operation of its kind)."
            ),
            Reason::SetnsProcessClosed { .. } => format!(
                "{call} asks for {capability} in the user namespace of the process whose namespaces are to be \
                 joined, because it is another user's, not dumpable, or has capabilities that the caller lacks \
                 (validate_nsset, ptrace_may_access)."
            ),
            Reason::SetnsForeignUserns { .. } => {
                format!("{call} asks for {capability} in the user namespace to join (userns_install).")
            }
            Reason::MqueueWithoutOwnIpcns { .. } => format!(
                "{call} asks for {capability} in the user namespace that owns the caller's ipc namespace: mqueue \
                 shows that namespace's queues (mqueue_init_fs_context, mount_capable)."
            ),
            Reason::CgroupWithoutOwnCgroupns { .. } => format!(
                "{call} asks for {capability} in the user namespace that owns the caller's cgroup namespace \
                 (cgroup_init_fs_context, mount_capable)."
            ),
            Reason::RemountOfOthers { .. } => format!(
                "{call} asks for {capability} in the user namespace that the file system was mounted from \
                 (s_user_ns of its superblock)."
            ),
            Reason::OptionNotForUserns { .. } => format!(
                "{call} asks for {capability} in the initial user namespace because of an option (bpf_parse_param)."
            ),
            Reason::FilesystemNotForUserns { fs_type, .. } => format!(
                "{call} asks for {capability} in the initial user namespace, because {fs_type} lacks \
                 FS_USERNS_MOUNT (mount_capable)."
            ),
            _ => format!("{call} asks for {capability} (cap_capable)."),
        }
    }

    fn target(&self, reason: &Reason) -> String {
        if let Reason::Failed(_) | Reason::TooRevealing { .. } = reason {
            return self.last_asked();
        }
        let Some(target) = self.check.target_userns else {
            return "The user namespace that was asked could not be read.".to_string();
        };
        let what = match reason {
            Reason::NetnsOwnedByOtherUserns { netns, .. } => format!(" It owns network namespace {netns}."),
            Reason::ProcWithoutOwnPidns { pidns, .. } => format!(" It owns pid namespace {pidns}."),
            Reason::MayMountDenied { mntns, .. } => format!(" It owns mount namespace {mntns}."),
            _ => String::new(),
        };
        let made = match (target == INIT, self.check.target_uid) {
            (false, Some(uid)) => format!(", made by uid {uid} of the host"),
            _ => String::new(),
        };
        format!("The capability was asked in {}{made}.{what}", self.userns(target))
    }

    fn capability(&self) -> String {
        self.check.capability.map_or_else(|| "a capability".to_string(), names::capability)
    }

    fn caller(&self) -> String {
        let check = self.check;
        let Some(caller) = check.caller_userns else {
            return format!("{} (pid {}); its user namespace could not be read.", check.comm, check.pid);
        };
        let uid = check.caller_uid.map(|uid| format!(", uid {uid} of the host")).unwrap_or_default();
        format!("{} (pid {}{uid}) is in {}.", check.comm, check.pid, self.userns(caller))
    }

    fn made_by(&self, reason: &Reason) -> String {
        let Reason::NetnsOwnedByOtherUserns { netns, .. } = reason else { return String::new() };
        let Some(pod) = self.pod_of(*netns) else {
            return match &self.check.pod {
                // The records of a pod that failed or was removed went with it.
                Some(pod) => {
                    format!("Who made network namespace {netns} of pod {} is no longer known.", pod.name)
                }
                None => format!("Network namespace {netns} was made by something else than sandboxd."),
            };
        };
        match &pod.netns_made {
            Some(made) => {
                format!("Network namespace {netns} was made by {} at {}.", made.by, time(made.at_ns))
            }
            None => format!("Network namespace {netns} belongs to pod {}.", pod.name),
        }
    }

    /// The pod that had the namespace when the check was made: the kernel gives an inode to a later
    /// namespace again.
    fn pod_of(&self, inode: NsInode) -> Option<std::sync::Arc<PodKeys>> {
        self.pods.pod_of_namespace(inode).filter(|pod| pod.created_at_ns <= self.check.time_ns)
    }

    /// "The infra container of pod default/web", or the command.
    fn who(&self) -> String {
        match &self.check.pod {
            Some(pod) if pod.container.is_empty() => format!("{} of pod {}", self.check.comm, pod.name),
            Some(pod) => format!("{} ({} of pod {})", self.check.comm, pod.container, pod.name),
            None => format!("{} (pid {})", self.check.comm, self.check.pid),
        }
    }

    fn userns(&self, inode: NsInode) -> String {
        if inode == INIT {
            return format!("the host's initial user namespace ({inode})");
        }
        let pod =
            self.pod_of(inode).filter(|pod: &std::sync::Arc<PodKeys>| pod.own(NsKind::User) == Some(inode));
        match pod {
            Some(pod) => format!("the user namespace of pod {} ({inode})", pod.name),
            None => format!("user namespace {inode}"),
        }
    }

    fn joined(&self) -> String {
        let kinds = names::namespace_kinds(self.check.flags.unwrap_or(0));
        match kinds.as_slice() {
            [] => "asked-for".to_string(),
            kinds => kinds
                .iter()
                .map(|kind| match kind {
                    NsKind::Net => "network",
                    NsKind::Mnt => "mount",
                    other => other.name(),
                })
                .collect::<Vec<_>>()
                .join(", "),
        }
    }
}

/// RFC 3339 in UTC.
fn time(ns: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| format!("{ns} ns"), |t| format!("{t:.3}"))
}

#[cfg(test)]
mod tests {
    use sandboxd_ebpf::CheckRecord;

    use super::super::attribution::tests::keys;
    use super::super::attribution::{NetnsMade, PodKeys};
    use super::super::check::tests::{check, record};
    use super::super::covering::Covering;
    use super::super::failure::{BadArgument, Failure};
    use super::*;
    use crate::pod::model::FlowKind;

    fn denied(record: &CheckRecord, pods: &Attribution) -> Check {
        let mut check = check(record);
        check.pod = pods.of_check(&check);
        check.reason = Reason::of(&check).map(|r| r.for_pod(check.pod.is_some()));
        check
    }

    #[test]
    fn the_failure_of_network_first_is_told_in_full() {
        let pods = Attribution::default();
        pods.upsert(PodKeys {
            flow: FlowKind::NetworkFirst,
            netns_made: Some(NetnsMade { at_ns: 0, by: "sandboxd".to_string() }),
            ..keys("web", &[(NsKind::Net, 200, false), (NsKind::User, 100, false)], &[(42, "infra")])
        });
        let told = explain(&denied(&record(), &pods), &pods);
        assert_eq!(told.code, "netns-owned-by-other-userns");
        assert_eq!(
            told.headline,
            "mount (infra of pod default/web) may not mount sysfs: its network namespace 200 is owned by the \
             host's initial user namespace (4026531837), not by the caller's user namespace."
        );
        assert_eq!(
            told.caller,
            "mount (pid 42, uid 0 of the host) is in the user namespace of pod default/web (100)."
        );
        assert_eq!(told.made_by, "Network namespace 200 was made by sandboxd at 1970-01-01T00:00:00.000Z.");
        assert!(told.fix.contains("runtime-first"), "{}", told.fix);
    }

    #[test]
    fn a_namespace_is_not_told_to_be_a_later_pods() {
        let pods = Attribution::default();
        let made = Some(NetnsMade { at_ns: 0, by: "sandboxd".to_string() });
        pods.upsert(PodKeys {
            netns_made: made.clone(),
            ..keys("web", &[(NsKind::Net, 200, false)], &[(42, "infra")])
        });
        let check = denied(&record(), &pods);
        // The pod is gone, and the kernel gave the inode to another's.
        pods.remove(&check.pod.as_ref().unwrap().id);
        let gone = "Who made network namespace 200 of pod default/web is no longer known.";
        assert_eq!(explain(&check, &pods).made_by, gone);
        let created_at_ns = check.time_ns + 1;
        let later =
            PodKeys { netns_made: made, created_at_ns, ..keys("late", &[(NsKind::Net, 200, false)], &[]) };
        pods.upsert(later);
        assert_eq!(explain(&check, &pods).made_by, gone);
    }

    #[test]
    fn every_reason_has_words() {
        let pods = Attribution::default();
        let (a, b) = (NsInode(1), NsInode(2));
        let reasons = [
            Reason::NetnsOwnedByOtherUserns { netns: a, owner: b, caller: b },
            Reason::ProcWithoutOwnPidns { pidns: a, owner: b, caller: b },
            Reason::MayMountDenied { mntns: a, owner: b, caller: b },
            Reason::SetnsForeignNamespace { owner: a, caller: b },
            Reason::SetnsForeignUserns { target: a, caller: b },
            Reason::MqueueWithoutOwnIpcns { owner: a, caller: b },
            Reason::CgroupWithoutOwnCgroupns { fs_type: "cgroup2".into(), owner: a, caller: b },
            Reason::RemountOfOthers { owner: a, caller: b },
            Reason::OptionNotForUserns { fs_type: "bpf".into(), caller: b },
            Reason::FilesystemNotForUserns { fs_type: "ext4".into(), caller: a },
            Reason::CapabilityDropped { capability: 21, userns: a },
            Reason::TooRevealing { fs_type: "sysfs".into(), covering: Covering::NoneVisible },
            Reason::SetnsProcessClosed { owner: a, caller: b },
            Reason::Failed(Failure::OwnUserns { userns: Some(a) }),
            Reason::Failed(Failure::UsernsThreads { threads: 2, perhaps_own: true }),
            Reason::Failed(Failure::FsShared { kind: NsKind::Mnt, users: 2, perhaps_own: false }),
            Reason::Failed(Failure::PidnsNotBelow { target: Some(a), own: None }),
            Reason::Failed(Failure::TimensThreads { threads: Some(1) }),
            Reason::Failed(Failure::BadArgument(BadArgument::NotOpen)),
            Reason::Failed(Failure::UnshareThreads { threads: 2 }),
            Reason::Failed(Failure::PidnsAlreadyUnshared),
            Reason::Failed(Failure::NamespaceLimit { kinds: [NsKind::Net].into() }),
            Reason::Failed(Failure::NestedTooDeep { kind: NsKind::User, level: 33 }),
            Reason::Failed(Failure::UsernsInChroot { filtered: false }),
            Reason::Failed(Failure::UsernsUnmapped { userns: Some(a), filtered: true }),
            Reason::Failed(Failure::FlagsLocked),
            Reason::Failed(Failure::MountLocked { operation: "bind" }),
            Reason::Failed(Failure::BeforeChecks { mode: Some(2) }),
            Reason::Failed(Failure::SecurityModule { checked: true }),
            Reason::Failed(Failure::Ordinary { errno: libc::ENODEV }),
            Reason::OtherUserns { target: a, caller: b },
            Reason::Incidental { capability: 2 },
            Reason::Unknown,
            Reason::NotAPodProcess(Box::new(Reason::Unknown)),
        ];
        let mut codes = std::collections::HashSet::new();
        for reason in reasons {
            let mut check = check(&record());
            check.reason = Some(reason.clone());
            let told = explain(&check, &pods);
            for sentence in [&told.headline, &told.asked, &told.target, &told.caller, &told.fix] {
                assert!(sentence.ends_with('.'), "{reason:?}: {sentence:?} is not a sentence");
            }
            assert!(!told.sources.is_empty());
            assert!(codes.insert(told.code), "{} is given twice", told.code);
        }
    }

    #[test]
    fn strangers_are_called_so() {
        let pods = Attribution::default();
        let told = explain(&denied(&record(), &pods), &pods);
        assert_eq!(told.code, "not-a-pod-process");
        assert!(told.headline.contains("none of a pod of this node"), "{}", told.headline);
        assert!(told.fix.contains("user namespace first"), "{}", told.fix);
    }
}
