//! What happened, and what would fix it.

use super::View;
use crate::observer::covering::Covering;
use crate::observer::names;
use crate::observer::reason::Reason;
use crate::pod::model::{FlowKind, NsInode};

impl View<'_> {
    pub(super) fn headline_and_fix(&self, reason: &Reason) -> (String, String) {
        let who = self.who();
        let call = self.check.call();
        match reason {
            Reason::NetnsOwnedByOtherUserns { netns, owner, .. } => (
                format!(
                    "{who} may not mount sysfs: its network namespace {netns} is owned by {}, not by the \
                     caller's user namespace.",
                    self.userns(*owner)
                ),
                self.netns_fix(*netns),
            ),
            Reason::ProcWithoutOwnPidns { pidns, owner, .. } => (
                format!(
                    "{who} may not mount proc: its pid namespace {pidns} is owned by {}, not by the caller's \
                     user namespace.",
                    self.userns(*owner)
                ),
                "Give the process a pid namespace made together with or after its user namespace, or \
                 bind-mount the existing /proc."
                    .to_string(),
            ),
            Reason::MayMountDenied { mntns, owner, .. } => (
                format!(
                    "{who} may not mount anything: its mount namespace {mntns} is owned by {}, not by the \
                     caller's user namespace.",
                    self.userns(*owner)
                ),
                "Give the process a mount namespace made together with or after its user namespace \
                 (CLONE_NEWUSER and CLONE_NEWNS)."
                    .to_string(),
            ),
            Reason::SetnsForeignNamespace { owner, .. } => (
                format!(
                    "{who} may not join the {} namespace: it is owned by {}, in which the caller has no \
                     privilege.",
                    self.joined(),
                    self.userns(*owner)
                ),
                "Join the user namespace that owns it first, or have it made together with or after the \
                 caller's own user namespace."
                    .to_string(),
            ),
            Reason::SetnsForeignUserns { target, .. } => (
                format!(
                    "{who} may not join {}: it is neither the caller's own nor one below it.",
                    self.userns(*target)
                ),
                "Join from the user namespace above it (the host, for a pod's), or enter the container with exec \
                 instead."
                    .to_string(),
            ),
            Reason::SetnsProcessClosed { owner, .. } => (
                format!(
                    "{who} may not join the {} namespace through a pidfd: the process is one of {} that it may not \
                     look into.",
                    self.joined(),
                    self.userns(*owner)
                ),
                "Give it descriptors of the namespaces instead of the process (/proc/PID/ns, \
                 PIDFD_GET_*_NAMESPACE), or let a process that may trace the other one join."
                    .to_string(),
            ),
            Reason::MqueueWithoutOwnIpcns { owner, .. } => (
                format!(
                    "{who} may not mount mqueue: its ipc namespace is owned by {}, not by the caller's user \
                     namespace.",
                    self.userns(*owner)
                ),
                "Give the process an ipc namespace made together with or after its user namespace (hostIPC: \
                 false), or bind-mount the existing /dev/mqueue."
                    .to_string(),
            ),
            Reason::CgroupWithoutOwnCgroupns { fs_type, owner, .. } => (
                format!(
                    "{who} may not mount {fs_type}: its cgroup namespace is owned by {}, not by the caller's \
                     user namespace.",
                    self.userns(*owner)
                ),
                "Give the process a cgroup namespace made together with or after its user namespace, or \
                 bind-mount the existing /sys/fs/cgroup."
                    .to_string(),
            ),
            Reason::RemountOfOthers { owner, .. } => (
                format!(
                    "{who} may not reconfigure this file system: it was mounted from {}, and its options are \
                     changed from there only.",
                    self.userns(*owner)
                ),
                "Change only the mount itself (MS_REMOUNT with MS_BIND, mount_setattr), or have it mounted with \
                 these options (a volume's mountOptions)."
                    .to_string(),
            ),
            Reason::OptionNotForUserns { fs_type, .. } => (
                format!(
                    "{who} may not mount {fs_type} with this option: only the initial user namespace may set it."
                ),
                format!("Leave the option out (bpf: delegate_*), or mount {fs_type} on the host."),
            ),
            Reason::FilesystemNotForUserns { fs_type, .. } => (
                format!(
                    "{who} may not mount {fs_type}: the kernel lets only the initial user namespace do so."
                ),
                format!(
                    "Mount {fs_type} on the host and bind-mount it into the pod, or let sandboxd do so \
                     through a volume."
                ),
            ),
            Reason::CapabilityDropped { capability, userns } => {
                let name = names::capability(*capability);
                (
                    format!(
                        "{who} may not {call}: it does not have {name} in its own user namespace, {}.",
                        self.userns(*userns)
                    ),
                    format!(
                        "Give the container {name} (securityContext.capabilities.add) if it is meant to do \
                         this; in a pod with its own user namespace that reaches no further than the pod."
                    ),
                )
            }
            Reason::TooRevealing { fs_type, covering } => (
                format!(
                    "{who} may not mount {fs_type} anew: it would show what is hidden in its mount namespace \
                     ({covering})."
                ),
                too_revealing_fix(fs_type, covering),
            ),
            Reason::Failed(failure) => self.failed(failure),
            Reason::OtherUserns { target, .. } => (
                format!(
                    "{who} may not {call}: that takes privilege in {}, which it does not have.",
                    self.userns(*target)
                ),
                "Have what it asks for made by, or for, the caller's own user namespace.".to_string(),
            ),
            Reason::Incidental { capability } => (
                format!(
                    "{who} was not given {} on the way through {call}; the call does not depend on it.",
                    names::capability(*capability)
                ),
                "Nothing is to be done for this check; if the call failed, look for another one beside it."
                    .to_string(),
            ),
            Reason::Unknown => (
                format!(
                    "{who} was denied {} in {call}; too little was read to tell why.",
                    self.capability()
                ),
                "The observer's degradations name what this kernel does not show.".to_string(),
            ),
            Reason::NotAPodProcess(inner) => self.headline_and_fix(inner),
        }
    }

    fn netns_fix(&self, netns: NsInode) -> String {
        match self.pod_of(netns).map(|pod| pod.flow) {
            Some(FlowKind::NetworkFirst) => {
                "Use a handler with flow = \"runtime-first\" (sandboxd's default): it \
                makes the user namespace first, so that it owns the network namespace. The network-first \
                handler exists to show this failure (containerd issue 6908)."
                    .to_string()
            }
            _ => {
                "Make the user namespace first and the network namespace with it or from inside it; an owner \
                  cannot be changed afterwards."
                    .to_string()
            }
        }
    }
}

fn too_revealing_fix(fs_type: &str, covering: &Covering) -> String {
    match covering {
        Covering::Mounts(_) => format!(
            "Leave the mounts over the existing {fs_type} out of the parent (unmasked: procMount: Unmasked for \
             /proc), or bind-mount the existing one."
        ),
        Covering::NoneVisible => {
            format!("Keep a {fs_type} in the mount namespace that the process starts from.")
        }
        Covering::ReadOnly => format!("Mount {fs_type} read-only, as the existing one is."),
        Covering::Nothing | Covering::Gone => format!(
            "Run it again and look at /proc/PID/mountinfo for mounts over {fs_type}; where there is none, another \
             security module refused."
        ),
    }
}
