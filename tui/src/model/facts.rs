//! What can be read off a pod or a check: the owner of its network namespace, its range, its verdicts, as
//! short words.

use sandboxd_api::console::{
    Check, Container, Event, HostNamespace, Namespace, Node, Pod, check, container, event, host_namespace,
    namespace, pod, sysfs,
};

use crate::theme::WRONG;

pub fn namespace<'a>(pod: &'a Pod, kind: &str) -> Option<&'a Namespace> {
    pod.namespaces.iter().find(|namespace| namespace.kind == kind)
}

/// Inode of the pod's namespace of that kind; 0 where it is not known.
pub fn inode(pod: &Pod, kind: &str) -> u64 {
    namespace(pod, kind).map_or(0, |namespace| namespace.inode)
}

/// An inode as text, `none` where it is not known.
pub fn inode_text(inode: u64, none: &str) -> String {
    if inode == 0 { none.to_owned() } else { inode.to_string() }
}

/// Whether the pod's network namespace belongs to a user namespace that is not the pod's.
pub fn wrong_owner(pod: &Pod) -> bool {
    pod.namespaces.iter().any(|namespace| namespace.wrong_owner)
}

/// Who owns a namespace, in a word.
pub fn owner_word(namespace: &Namespace) -> &'static str {
    match namespace.owner() {
        namespace::Owner::Pod => "pod",
        namespace::Owner::Init => "init",
        namespace::Owner::Other => "other",
        namespace::Owner::Unspecified => "?",
    }
}

/// The owner of the pod's network namespace: `pod`, `host` (the host's own network), or `!! init`.
pub fn owner(pod: &Pod) -> String {
    match namespace(pod, "net") {
        None => "?".to_owned(),
        Some(net) if net.wrong_owner => format!("{WRONG} {}", owner_word(net)),
        Some(net) if net.host => "host".to_owned(),
        Some(net) => owner_word(net).to_owned(),
    }
}

/// The ids of the host that the pod's ids become: `4221435904+65536`, `host` without a user namespace.
pub fn range(pod: &Pod) -> String {
    match pod.uid_map.as_slice() {
        [] if namespace(pod, "user").is_none() => "?".to_owned(),
        [] => "host".to_owned(),
        [first] => format!("{}+{}", first.host_id, first.length),
        [first, rest @ ..] => format!("{}+{} (+{})", first.host_id, first.length, rest.len()),
    }
}

pub fn address(pod: &Pod) -> String {
    match pod.ips.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [first, rest @ ..] => format!("{first} +{}", rest.len()),
    }
}

pub fn sysfs(pod: &Pod) -> &'static str {
    match pod.sysfs.as_ref().map_or(sysfs::Verdict::Unspecified, |sysfs| sysfs.verdict()) {
        sysfs::Verdict::Unspecified => "?",
        sysfs::Verdict::Mounted => "own",
        sysfs::Verdict::BindReadOnly => "host ro",
        sysfs::Verdict::Denied => "!! denied",
    }
}

pub fn state(pod: &Pod) -> &'static str {
    match pod.state() {
        pod::State::Unspecified => "unknown",
        pod::State::Creating => "creating",
        pod::State::Ready => "ready",
        pod::State::NotReady => "notready",
        pod::State::Stopping => "stopping",
        pod::State::Failed => "failed",
    }
}

pub fn denied(pod: &Pod) -> u64 {
    pod.checks.map_or(0, |counts| counts.denied)
}

/// Failed, owned by the wrong user namespace, without sysfs, or refused something: worth a look.
pub fn is_problem(pod: &Pod) -> bool {
    pod.state() == pod::State::Failed || wrong_owner(pod) || sysfs(pod).starts_with(WRONG) || denied(pod) > 0
}

pub fn full_name(pod: &Pod) -> String {
    format!("{}/{}", pod.namespace, pod.name)
}

pub fn is_denied(check: &Check) -> bool {
    matches!(check.verdict(), check::Verdict::Denied | check::Verdict::Refused)
}

/// Whether the daemon can say why: of what was denied or refused, and of what failed by itself.
pub fn has_reason(check: &Check) -> bool {
    is_denied(check) || check.verdict() == check::Verdict::Failed
}

pub fn verdict(check: &Check) -> &'static str {
    match check.verdict() {
        check::Verdict::Unspecified => "unknown",
        check::Verdict::Allowed => "allowed",
        check::Verdict::Denied => "denied",
        check::Verdict::Refused => "refused",
        check::Verdict::Failed => "failed",
    }
}

/// The capability's name without its prefix, its number where the name is not known, nothing where none was asked.
pub fn capability(check: &Check) -> String {
    if check.capability_name.is_empty() {
        if has_reason(check) && check.verdict() != check::Verdict::Denied {
            return String::new();
        }
        return format!("cap {}", check.capability);
    }
    check.capability_name.trim_start_matches("CAP_").to_owned()
}

/// The user namespace in which the capability was asked: `init`, `pod`, its inode, or nothing.
pub fn target(check: &Check, node: &Node) -> String {
    match check.target_userns {
        0 => String::new(),
        inode if inode == node.init_userns => "init".to_owned(),
        inode if inode == check.caller_userns => "own".to_owned(),
        inode => inode.to_string(),
    }
}

/// What was called, with its argument: `mount sysfs`.
pub fn call(check: &Check) -> String {
    format!("{} {}", check.syscall, check.argument).trim_end().to_owned()
}

pub fn container_state(container: &Container) -> &'static str {
    match container.state() {
        container::State::Unspecified | container::State::Unknown => "unknown",
        container::State::Created => "created",
        container::State::Running => "running",
        container::State::Exited => "exited",
    }
}

/// Ended by itself or by the kernel with something else than success.
pub fn container_failed(container: &Container) -> bool {
    container.state() == container::State::Exited && container.exit_code != 0
}

/// The exit code with its reason: `!! 137 OOMKilled`, `0 Completed`, nothing while it has not ended.
pub fn exit(container: &Container) -> String {
    if container.state() != container::State::Exited {
        return String::new();
    }
    let words = format!("{} {}", container.exit_code, container.reason);
    let words = words.trim_end();
    if container_failed(container) { format!("{WRONG} {words}") } else { words.to_owned() }
}

pub fn severity(event: &Event) -> &'static str {
    match event.severity() {
        event::Severity::Unspecified | event::Severity::Normal => "normal",
        event::Severity::Warning => "warning",
    }
}

/// What keeps a namespace alive, in a word or two; what should not be is in capitals.
pub fn space_state(space: &HostNamespace) -> &'static str {
    match space.state() {
        host_namespace::State::Unspecified => "unknown",
        host_namespace::State::InUse => "in use",
        host_namespace::State::Pinned => "pinned",
        host_namespace::State::Held => "held",
        host_namespace::State::Leaked => "LEAKED",
    }
}

pub fn is_leaked(space: &HostNamespace) -> bool {
    space.state() == host_namespace::State::Leaked
}
