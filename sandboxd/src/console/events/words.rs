//! What happened, in one line.

use std::time::Duration;

use super::super::container::image;
use crate::container::model::{Container, Ended};
use crate::network::NetworkStatus;
use crate::pod::model::{Pod, PodState};
use crate::runtime::Exit;

/// `text` as one line of at most so many bytes.
pub(super) fn line(text: &str, most: usize) -> String {
    let mut line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > most {
        let end = (0..=most).rev().find(|at| line.is_char_boundary(*at)).unwrap_or(0);
        line.truncate(end);
        line.push('…');
    }
    line
}

pub(super) fn started(pods: usize, containers: usize) -> String {
    let version = env!("CARGO_PKG_VERSION");
    match (pods, containers) {
        (0, 0) => format!("sandboxd {version} started on a node without pods"),
        _ => format!(
            "sandboxd {version} started and adopted {}, {}",
            many(pods, "pod"),
            many(containers, "container")
        ),
    }
}

pub(super) fn adopted(pod: &Pod, containers: usize) -> String {
    let state = match pod.state {
        PodState::Creating => "is being made",
        PodState::Ready => "is ready",
        PodState::NotReady | PodState::Stopping => "has stopped",
        PodState::Failed => "has failed",
    };
    format!("made before this daemon began: {state}, with {}", many(containers, "container"))
}

pub(super) fn created(pod: &Pod) -> String {
    let userns = if pod.spec.namespaces.user.is_some() {
        "a user namespace of its own"
    } else {
        "the host's user namespace"
    };
    format!("being made by {} ({}), in {userns}", pod.spec.handler, pod.flow.name())
}

pub(super) fn ready(pod: &Pod) -> String {
    let took: Duration = pod.steps.iter().map(|step| step.duration).sum();
    let cni: Duration = pod.steps.iter().map(|step| step.cni).sum();
    let ips: Vec<String> = pod.ips.iter().map(ToString::to_string).collect();
    let at =
        if ips.is_empty() { "on the host's network".to_owned() } else { format!("at {}", ips.join(", ")) };
    format!("ready {at}, after {} ms ({} ms of them CNI)", took.as_millis(), cni.as_millis())
}

pub(super) fn failed(pod: &Pod) -> String {
    let error = pod.error.as_deref().unwrap_or("for a reason that is not known");
    match &pod.explanation {
        // The headline is a sentence of its own.
        Some(explanation) => format!("{}: {error}", explanation.headline.trim_end_matches('.')),
        None => error.to_owned(),
    }
}

/// `asked`: somebody stopped it.
pub(super) fn stopped(pod: &Pod, asked: bool) -> String {
    match (&pod.error, asked) {
        (Some(error), _) => error.clone(),
        (None, true) => "stopped".to_owned(),
        (None, false) => "its infra container ended, and with it the pod".to_owned(),
    }
}

pub(super) fn container_created(container: &Container) -> String {
    format!("made from {}", image(container))
}

pub(super) fn container_started(container: &Container) -> String {
    match (container.pid, container.spec.metadata.attempt) {
        (Some(pid), 0) => format!("started, pid {pid}"),
        (Some(pid), attempt) => format!("started, pid {pid}, attempt {attempt}"),
        (None, _) => "started".to_owned(),
    }
}

pub(super) fn container_exited(container: &Container, ended: &Ended) -> String {
    let Some(started) = container.started_at_ns else {
        return match ended.message.as_str() {
            "" => "ended without ever being started".to_owned(),
            why => format!("could not be started: {why}"),
        };
    };
    let lived = Duration::from_nanos(u64::try_from(ended.at_ns.saturating_sub(started)).unwrap_or(0));
    match ended.exit {
        Exit::Unknown => line(&format!("ended unseen {}", ended.message), usize::MAX),
        exit => format!("{exit}, after {:.1} s", lived.as_secs_f64()),
    }
}

pub(super) fn oom_killed(container: &Container) -> String {
    let limit = match container.spec.resources.memory_limit {
        Some(bytes) => format!("its limit is {} MiB", bytes >> 20),
        None => "it has no limit of its own: the pod or the node ran out".to_owned(),
    };
    format!("the kernel killed a process of it for lack of memory: {limit}")
}

pub(super) fn network(status: &NetworkStatus) -> String {
    match (status.ready, status.message.as_str()) {
        (true, "") => "the pods' network is ready".to_owned(),
        (true, note) => format!("the pods' network is ready: {note}"),
        (false, _) => format!("no pod can be made: {}: {}", status.reason, status.message),
    }
}

fn many(count: usize, what: &str) -> String {
    match count {
        1 => format!("1 {what}"),
        _ => format!("{count} {what}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::fake;

    #[test]
    fn a_line_is_one_line_and_bounded() {
        assert_eq!(line("a\n  b\tc ", 10), "a b c");
        assert_eq!(line("ääää", 5), "ää…", "never through a character");
    }

    #[test]
    fn ends_of_containers() {
        let mut it = fake::container();
        let mut end =
            Ended { exit: Exit::Code(128), at_ns: 9, oom_killed: false, message: "no such file".into() };
        assert_eq!(container_exited(&it, &end), "could not be started: no such file");
        it.started_at_ns = Some(1);
        end.at_ns = 3_000_000_001;
        end.exit = Exit::Signal(15);
        assert_eq!(container_exited(&it, &end), "killed by signal 15, after 3.0 s");
        it.spec.resources.memory_limit = Some(64 << 20);
        assert!(oom_killed(&it).ends_with("its limit is 64 MiB"));
    }
}
