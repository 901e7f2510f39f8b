//! Prometheus text (exposition format 0.0.4) of what this node does and of what it cannot see.
//!
//! Off by default. `docs/metrics.md` says what each is. The number of lines is bounded: pods by name are the first
//! [`PODS`] with the most denied checks, the others are one line.

mod text;

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use sandboxd_api::console as api;
use tokio::net::TcpListener;

use crate::console::Sources;
use crate::container::model::ContainerState;
use crate::observer::PodCounts;
use crate::pod::model::PodState;
use crate::telemetry::Figures;
use text::Text;

/// Pods that have lines of their own; a node has 110 by default.
const PODS: usize = 256;

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

/// What a scrape says, before it is text.
struct Page<'a> {
    version: &'a str,
    started_at_ns: i64,
    pods: BTreeMap<&'static str, u64>,
    containers: BTreeMap<&'static str, u64>,
    network_ready: bool,
    figures: &'a Figures,
    observer: api::Observer,
    /// Of the history.
    kept: u64,
    /// (verdict, reason, how many)
    reasons: Vec<(&'static str, &'static str, u64)>,
    /// (namespace, name, counts)
    checks: Vec<(String, String, PodCounts)>,
    node: &'a [api::Degradation],
}

fn render(sources: &Sources) -> String {
    let pods = sources.pods.list();
    let mut by_state: BTreeMap<&str, u64> =
        [PodState::Creating, PodState::Ready, PodState::NotReady, PodState::Stopping, PodState::Failed]
            .map(|state| (state_name(state), 0))
            .into();
    for pod in &pods {
        *by_state.entry(state_name(pod.state)).or_default() += 1;
    }
    let mut containers: BTreeMap<&str, u64> =
        [ContainerState::Created, ContainerState::Running, ContainerState::Exited, ContainerState::Unknown]
            .map(|state| (container_state_name(state), 0))
            .into();
    for container in sources.containers.store().list() {
        *containers.entry(container_state_name(container.state)).or_default() += 1;
    }
    // A name may be several pods': attempts of one, or one that failed beside its successor.
    let mut checks: BTreeMap<(String, String), PodCounts> = BTreeMap::new();
    for pod in &pods {
        let (counts, own) = (sources.observer.counts(&pod.id), &pod.spec.metadata);
        let sum = checks.entry((own.namespace.clone(), own.name.clone())).or_default();
        *sum = added(*sum, counts);
    }
    let status = sources.observer.status();
    let page = Page {
        version: env!("CARGO_PKG_VERSION"),
        started_at_ns: sources.node.started_at_ns,
        pods: by_state,
        containers,
        network_ready: sources.network.status().ready,
        figures: &sources.figures,
        observer: (&status).into(),
        kept: status.kept as u64,
        reasons: sources.observer.reasons(),
        checks: checks.into_iter().map(|((namespace, name), counts)| (namespace, name, counts)).collect(),
        node: &sources.node.degradations,
    };
    page.text()
}

fn added(a: PodCounts, b: PodCounts) -> PodCounts {
    PodCounts {
        allowed: a.allowed + b.allowed,
        denied: a.denied + b.denied,
        sampled_out: a.sampled_out + b.sampled_out,
    }
}

/// Those with the most denied checks, and the sum of the others.
fn first(
    mut checks: Vec<(String, String, PodCounts)>,
) -> (Vec<(String, String, PodCounts)>, Option<PodCounts>) {
    if checks.len() <= PODS {
        return (checks, None);
    }
    checks.sort_by_key(|(_, _, counts)| std::cmp::Reverse((counts.denied, counts.allowed)));
    let rest = checks.split_off(PODS);
    let sum = rest.into_iter().fold(PodCounts::default(), |sum, (_, _, counts)| added(sum, counts));
    checks.sort_by(|a, b| (&a.0, &a.1).cmp(&(&b.0, &b.1)));
    (checks, Some(sum))
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

impl Page<'_> {
    fn text(self) -> String {
        let mut out = Text::default();
        out.info("sandboxd_build_info", "This daemon.", &[("version", self.version)]);
        #[expect(
            clippy::cast_precision_loss,
            reason = "nanoseconds since 1970 as seconds: microseconds are left"
        )]
        out.gauge("sandboxd_start_time_seconds", "When it started, since the Unix epoch.")
            .value(&[], self.started_at_ns as f64 / 1e9);
        let mut pods = out.gauge("sandboxd_pods", "Pods by state.");
        for (state, count) in &self.pods {
            pods.count(&[("state", state)], *count);
        }
        let mut containers = out.gauge("sandboxd_containers", "Containers by state.");
        for (state, count) in &self.containers {
            containers.count(&[("state", state)], *count);
        }
        out.gauge("sandboxd_network_ready", "1 where a CNI network is configured.")
            .count(&[], u64::from(self.network_ready));
        self.latencies(&mut out);
        self.observer(&mut out);
        self.checks(&mut out);
        out.done()
    }

    fn latencies(&self, out: &mut Text) {
        let mut steps = out.histogram(
            "sandboxd_pod_step_duration_seconds",
            "Steps of making a pod, also those that failed.",
        );
        for (step, latencies, _) in self.figures.steps() {
            steps.buckets(&[("step", step.name())], &latencies);
        }
        let mut failed =
            out.counter("sandboxd_pod_step_failures_total", "Steps of making a pod that failed.");
        for (step, _, failures) in self.figures.steps() {
            failed.count(&[("step", step.name())], failures);
        }
        out.histogram("sandboxd_cni_add_duration_seconds", "CNI ADD for a pod: all plugins of the chain.")
            .buckets(&[], &self.figures.cni());
        let mut rpcs =
            out.histogram("sandboxd_rpc_duration_seconds", "CRI calls that make or end something.");
        for (rpc, answered, latencies) in self.figures.rpcs() {
            let result = if answered { "ok" } else { "error" };
            rpcs.buckets(&[("method", rpc.name()), ("result", result)], &latencies);
        }
    }

    fn observer(&self, out: &mut Text) {
        let observer = &self.observer;
        let up = observer.state() == api::observer::State::Running;
        out.gauge("sandboxd_observer_up", "1 where the kernel's capability checks are seen.")
            .count(&[], up.into());
        if up {
            out.info("sandboxd_observer_info", "How they are seen.", &[("rung", &observer.rung)]);
        }
        for (name, help, value) in [
            (
                "sandboxd_observer_produced_total",
                "Checks there were: kept one by one, sampled out, or lost.",
                observer.produced,
            ),
            ("sandboxd_observer_seen_total", "Checks kept one by one.", observer.seen),
            (
                "sandboxd_observer_sampled_out_total",
                "Checks that were only counted, for there were too many alike.",
                observer.sampled_out,
            ),
            (
                "sandboxd_observer_lost_total",
                "Checks lost for want of room in the ring buffer.",
                observer.lost,
            ),
            (
                "sandboxd_observer_forgotten_total",
                "Checks that were kept and have left the history since.",
                observer.forgotten,
            ),
        ] {
            out.counter(name, help).count(&[], value);
        }
        out.gauge("sandboxd_observer_history_checks", "Checks in the history.").count(&[], self.kept);
        out.gauge("sandboxd_observer_history_bytes", "Memory of the history, about.")
            .count(&[], observer.history_bytes);
        let mut degraded =
            out.gauge("sandboxd_degraded", "A named step down from what sandboxd does at its best.");
        for d in self.node.iter().chain(&observer.degradations) {
            degraded.count(&[("name", &d.name)], 1);
        }
    }

    fn checks(self, out: &mut Text) {
        let mut by_reason = out.counter(
            "sandboxd_checks_total",
            "Capability checks, and calls that failed without a denied one, by verdict and reason (empty for what was \
             allowed); sampled out ones, too.",
        );
        for (verdict, reason, count) in &self.reasons {
            by_reason.count(&[("verdict", verdict), ("reason", reason)], *count);
        }
        let (named, others) = first(self.checks);
        let others = others.map(|sum| (String::new(), String::new(), sum));
        let all: Vec<_> = named.into_iter().chain(others).collect();
        // Gauges: they are sums over the pods that are there.
        let mut checks = out.gauge(
            "sandboxd_pod_checks",
            "Checks of a pod that is there, by verdict; of all others together without a name.",
        );
        for (namespace, pod, counts) in &all {
            for (verdict, count) in [("allowed", counts.allowed), ("denied", counts.denied)] {
                checks.count(&[("namespace", namespace), ("pod", pod), ("verdict", verdict)], count);
            }
        }
        let mut sampled =
            out.gauge("sandboxd_pod_checks_sampled_out", "Of those, the ones that were only counted.");
        for (namespace, pod, counts) in &all {
            sampled.count(&[("namespace", namespace), ("pod", pod)], counts.sampled_out);
        }
    }
}

#[cfg(test)]
mod tests;
