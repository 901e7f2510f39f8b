//! Prometheus text (exposition format 0.0.4) of what this node does and of what it cannot see.
//!
//! Off by default. Numbers only, no names of pods: a scrape costs the same on an idle and on a full node.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use sandboxd_api::console as api;
use tokio::net::TcpListener;

use crate::console::Sources;
use crate::container::model::ContainerState;
use crate::pod::model::PodState;

/// Answers `GET /metrics` until the listener fails or `shutdown` ends.
///
/// # Errors
/// When the listener can no longer accept.
pub async fn serve(
    listener: TcpListener,
    sources: Arc<Sources>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let page = move || {
        let text = render(&sources);
        async move { ([(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text) }
    };
    axum::serve(listener, Router::new().route("/metrics", get(page))).with_graceful_shutdown(shutdown).await
}

fn render(sources: &Sources) -> String {
    let mut pods: BTreeMap<&str, u64> =
        [PodState::Creating, PodState::Ready, PodState::NotReady, PodState::Stopping, PodState::Failed]
            .map(|state| (state_name(state), 0))
            .into();
    for pod in sources.pods.list() {
        *pods.entry(state_name(pod.state)).or_default() += 1;
    }
    let mut containers: BTreeMap<&str, u64> =
        [ContainerState::Created, ContainerState::Running, ContainerState::Exited, ContainerState::Unknown]
            .map(|state| (container_state_name(state), 0))
            .into();
    for container in sources.containers.store().list() {
        *containers.entry(container_state_name(container.state)).or_default() += 1;
    }
    text(
        &pods,
        &containers,
        &(&sources.observer.status()).into(),
        &sources.node.degradations,
        sources.network.status().ready,
    )
}

fn state_name(state: PodState) -> &'static str {
    match state {
        PodState::Creating => "creating",
        PodState::Ready => "ready",
        PodState::NotReady => "not_ready",
        PodState::Stopping => "stopping",
        PodState::Failed => "failed",
    }
}

fn container_state_name(state: ContainerState) -> &'static str {
    match state {
        ContainerState::Created => "created",
        ContainerState::Running => "running",
        ContainerState::Exited => "exited",
        ContainerState::Unknown => "unknown",
    }
}

fn text(
    pods: &BTreeMap<&str, u64>,
    containers: &BTreeMap<&str, u64>,
    observer: &api::Observer,
    node: &[api::Degradation],
    network_ready: bool,
) -> String {
    let mut out = String::with_capacity(2048);
    let up = u64::from(observer.state() == api::observer::State::Running);
    head(&mut out, "sandboxd_pods", "gauge", "Pods by state.");
    for (state, count) in pods {
        line(&mut out, "sandboxd_pods", &[("state", state)], *count);
    }
    head(&mut out, "sandboxd_containers", "gauge", "Containers by state.");
    for (state, count) in containers {
        line(&mut out, "sandboxd_containers", &[("state", state)], *count);
    }
    head(&mut out, "sandboxd_network_ready", "gauge", "1 where a CNI network is configured.");
    line(&mut out, "sandboxd_network_ready", &[], u64::from(network_ready));
    head(&mut out, "sandboxd_observer_up", "gauge", "1 where the kernel's capability checks are seen.");
    line(&mut out, "sandboxd_observer_up", &[("rung", &observer.rung), ("reason", &observer.message)], up);
    head(&mut out, "sandboxd_observer_checks_total", "counter", "Capability checks seen, by verdict.");
    for (verdict, count) in [("allowed", observer.allowed), ("denied", observer.denied)] {
        line(&mut out, "sandboxd_observer_checks_total", &[("verdict", verdict)], count);
    }
    head(&mut out, "sandboxd_observer_produced_total", "counter", "Checks to report: seen and lost.");
    line(&mut out, "sandboxd_observer_produced_total", &[], observer.produced);
    head(
        &mut out,
        "sandboxd_observer_lost_total",
        "counter",
        "Checks lost for want of room in the ring buffer.",
    );
    line(&mut out, "sandboxd_observer_lost_total", &[], observer.lost);
    head(&mut out, "sandboxd_degraded", "gauge", "A named step down from what sandboxd does at its best.");
    for d in node.iter().chain(&observer.degradations) {
        line(&mut out, "sandboxd_degraded", &[("name", &d.name), ("message", &d.message)], 1);
    }
    out
}

fn head(out: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

fn line(out: &mut String, name: &str, labels: &[(&str, &str)], value: u64) {
    out.push_str(name);
    for (n, (key, text)) in labels.iter().enumerate() {
        let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(out, "{}{key}=\"{text}\"", if n == 0 { '{' } else { ',' });
    }
    let _ = writeln!(out, "{} {value}", if labels.is_empty() { "" } else { "}" });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_seen_is_said() {
        let observer = api::Observer {
            state: api::observer::State::Unavailable.into(),
            message: "no \"BTF\"\nhere".into(),
            degradations: vec![api::Degradation { name: "observer.no_btf".into(), message: "a\\b".into() }],
            ..api::Observer::default()
        };
        let text = text(&[("ready", 2)].into(), &[("running", 3)].into(), &observer, &[], true);
        assert!(text.contains("sandboxd_pods{state=\"ready\"} 2\n"), "{text}");
        assert!(text.contains("sandboxd_containers{state=\"running\"} 3\n"), "{text}");
        assert!(text.contains(r#"sandboxd_observer_up{rung="",reason="no \"BTF\"\nhere"} 0"#), "{text}");
        assert!(text.contains(r#"sandboxd_degraded{name="observer.no_btf",message="a\\b"} 1"#), "{text}");
        assert!(text.contains("sandboxd_network_ready 1\n"));
        for line in text.lines().filter(|l| !l.starts_with('#')) {
            assert!(line.rsplit_once(' ').is_some_and(|(_, v)| v.parse::<u64>().is_ok()), "{line}");
        }
    }
}
