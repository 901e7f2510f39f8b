//! Cleans every text of a protocol message, once, when it comes in ([`crate::text::clean`]).

use sandboxd_api::console::{
    Access, Check, Container, ContainerCapabilities, Degradation, Delta, DoctorResponse, Event, Explanation,
    GetUsageResponse, HostNamespace, ListCapabilitiesResponse, ListNamespacesResponse, ListPullsResponse,
    Node, Observer, Pod, Snapshot, Timeline, delta,
};

fn each<'a>(texts: impl IntoIterator<Item = &'a mut String>) {
    for text in texts {
        // Nearly all texts are clean: look before making a copy.
        let printable = text.bytes().all(|b| (0x20..0x7f).contains(&b));
        if !printable || text.len() > crate::text::MAX_FIELD {
            *text = crate::text::clean(text);
        }
    }
}

pub fn snapshot(snapshot: &mut Snapshot) {
    snapshot.node.iter_mut().for_each(node);
    snapshot.observer.iter_mut().for_each(observer);
    snapshot.pods.iter_mut().for_each(pod);
    snapshot.recent_checks.iter_mut().for_each(check);
    snapshot.containers.iter_mut().for_each(container);
    snapshot.recent_events.iter_mut().for_each(event);
    snapshot.access.iter_mut().for_each(access);
}

pub fn delta(delta: &mut Delta) {
    match &mut delta.change {
        Some(delta::Change::Pod(changed)) => pod(changed),
        Some(delta::Change::PodRemoved(id) | delta::Change::ContainerRemoved(id)) => each([id]),
        Some(delta::Change::Container(changed)) => container(changed),
        Some(delta::Change::Event(new)) => event(new),
        Some(delta::Change::Check(new)) => check(new),
        Some(delta::Change::Observer(changed)) => observer(changed),
        Some(delta::Change::Node(changed)) => node(changed),
        Some(delta::Change::Lagged(_)) | None => {}
    }
}

fn degradations(all: &mut [Degradation]) {
    for one in all {
        each([&mut one.name, &mut one.message]);
    }
}

fn node(node: &mut Node) {
    let Node { name, kernel, sandboxd_version, cgroup, network_message, .. } = node;
    each([name, kernel, sandboxd_version, cgroup, network_message]);
    degradations(&mut node.degradations);
}

fn observer(observer: &mut Observer) {
    each([&mut observer.rung, &mut observer.message]);
    degradations(&mut observer.degradations);
}

fn pod(pod: &mut Pod) {
    let Pod { id, name, namespace, uid, handler, flow, hostname, netns_path, cgroup, error, .. } = pod;
    each([id, name, namespace, uid, handler, flow, hostname, netns_path, cgroup, error]);
    each(&mut pod.ips);
    let labels = std::mem::take(&mut pod.labels);
    pod.labels = labels.into_iter().map(|(k, v)| (crate::text::clean(&k), crate::text::clean(&v))).collect();
    for namespace in &mut pod.namespaces {
        each([&mut namespace.kind, &mut namespace.pin]);
    }
    each(pod.sysfs.iter_mut().map(|sysfs| &mut sysfs.message));
    for process in &mut pod.processes {
        each([&mut process.comm, &mut process.role]);
    }
    pod.timeline.iter_mut().for_each(timeline);
    pod.explanation.iter_mut().for_each(explanation);
}

fn container(container: &mut Container) {
    let Container { id, pod_id, name, image, reason, message, log_path, .. } = container;
    each([id, pod_id, name, image, reason, message, log_path]);
}

pub fn event(event: &mut Event) {
    let Event { kind, pod_id, pod_name, container_id, container, message, .. } = event;
    each([kind, pod_id, pod_name, container_id, container, message]);
}

fn access(access: &mut Access) {
    each([&mut access.identity, &mut access.why_not]);
}

pub fn timeline(timeline: &mut Timeline) {
    each([&mut timeline.flow]);
    for step in &mut timeline.steps {
        each([&mut step.name, &mut step.detail, &mut step.error]);
    }
}

pub fn check(check: &mut Check) {
    let Check {
        comm, syscall, argument, capability_name, pod_id, pod_name, container, reason, summary, ..
    } = check;
    each([comm, syscall, argument, capability_name, pod_id, pod_name, container, reason, summary]);
}

pub fn explanation(explanation: &mut Explanation) {
    let Explanation { reason, headline, asked, target, caller, made_by, fix, sources } = explanation;
    each([reason, headline, asked, target, caller, made_by, fix]);
    each(sources);
}

pub fn usage(usage: &mut GetUsageResponse) {
    each(usage.pods.iter_mut().chain(&mut usage.containers).map(|one| &mut one.id));
}

pub fn namespaces(answer: &mut ListNamespacesResponse) {
    degradations(&mut answer.degradations);
    for namespace in &mut answer.namespaces {
        let HostNamespace { kind, pod_id, pod_name, message, .. } = namespace;
        each([kind, pod_id, pod_name, message]);
        for process in &mut namespace.processes {
            each([&mut process.comm, &mut process.role]);
        }
        for hold in &mut namespace.holds {
            each([&mut hold.kind, &mut hold.what, &mut hold.comm]);
        }
    }
}

pub fn capabilities(answer: &mut ListCapabilitiesResponse) {
    for one in &mut answer.containers {
        let ContainerCapabilities { pod_id, pod_name, container_id, container, caveat, .. } = one;
        each([pod_id, pod_name, container_id, container, caveat]);
        each(&mut one.suggested_drop);
        for usage in &mut one.capabilities {
            each([&mut usage.name, &mut usage.last_syscall]);
        }
    }
}

pub fn doctor(answer: &mut DoctorResponse) {
    for check in &mut answer.checks {
        each([&mut check.name, &mut check.reason, &mut check.remedy]);
    }
}

pub fn pulls(answer: &mut ListPullsResponse) {
    for pull in &mut answer.pulls {
        each([&mut pull.reference, &mut pull.state]);
        for layer in &mut pull.layers {
            each([&mut layer.digest, &mut layer.state]);
        }
    }
}
