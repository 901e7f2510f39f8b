//! A container in the words of the console protocol.

use sandboxd_api::console as wire;

use crate::container::exec::exit_code;
use crate::container::model::{Container, ContainerState};

/// The whole container, as one message.
pub(super) fn container(container: &Container) -> wire::Container {
    let (spec, ended) = (&container.spec, container.ended.as_ref());
    let log_path = spec.log_path.as_ref();
    wire::Container {
        id: container.id.to_string(),
        pod_id: container.pod.to_string(),
        name: spec.metadata.name.clone(),
        attempt: spec.metadata.attempt,
        state: state(container.state).into(),
        image: image(container).to_owned(),
        created_at_ns: container.created_at_ns,
        started_at_ns: container.started_at_ns.unwrap_or(0),
        finished_at_ns: ended.map_or(0, |ended| ended.at_ns),
        exit_code: ended.map_or(0, |ended| exit_code(ended.exit)),
        reason: container.reason().to_owned(),
        message: ended.map(|ended| ended.message.clone()).unwrap_or_default(),
        pid: container.pid.unwrap_or(0),
        log_path: log_path.map(|path| path.to_string_lossy().into_owned()).unwrap_or_default(),
        tty: spec.tty,
        privileged: spec.security.privileged,
    }
}

/// What the user's pod names, where kubelet passes it on: what a container is asked for by is often an id.
pub(super) fn image(container: &Container) -> &str {
    let image = &container.spec.image;
    if image.user_specified_image.is_empty() { &image.image } else { &image.user_specified_image }
}

fn state(state: ContainerState) -> wire::container::State {
    match state {
        ContainerState::Created => wire::container::State::Created,
        ContainerState::Running => wire::container::State::Running,
        ContainerState::Exited => wire::container::State::Exited,
        ContainerState::Unknown => wire::container::State::Unknown,
    }
}

/// The first processes of a pod's containers.
pub(super) fn processes<'a>(
    containers: impl IntoIterator<Item = &'a Container>,
) -> impl Iterator<Item = wire::Process> {
    containers.into_iter().filter_map(|container| {
        let pid = container.pid?;
        let name = &container.spec.metadata.name;
        Some(wire::Process { pid, comm: comm(pid), role: format!("container:{name}") })
    })
}

/// As it is now; empty where the process is gone.
fn comm(pid: i32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::container::fake;
    use crate::container::model::Ended;
    use crate::runtime::Exit;

    #[test]
    fn an_end_is_said_as_kubelet_knows_it() {
        let mut it = fake::container();
        assert_eq!((container(&it).exit_code, container(&it).finished_at_ns), (0, 0));
        it.started_at_ns = Some(2);
        it.state = ContainerState::Exited;
        let mut end = Ended { exit: Exit::Signal(9), at_ns: 7, oom_killed: false, message: String::new() };
        it.ended = Some(end.clone());
        let said = container(&it);
        assert_eq!((said.exit_code, said.reason.as_str(), said.finished_at_ns), (137, "Error", 7));
        end.oom_killed = true;
        it.ended = Some(end);
        assert_eq!(container(&it).reason, "OOMKilled");
    }

    #[test]
    fn only_living_containers_have_a_process() {
        let alive = fake::container();
        let mut gone = fake::container();
        gone.pid = None;
        let processes: Vec<_> = processes([&alive, &gone]).collect();
        assert_eq!(processes.len(), 1);
        assert_eq!(processes[0].role, format!("container:{}", alive.spec.metadata.name));
    }
}
