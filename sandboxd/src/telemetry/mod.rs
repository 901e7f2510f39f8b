//! How long things take: as histograms, always, and as OpenTelemetry traces, where a collector is configured.
//!
//! ```text
//!  rpc ──begin──▶ Call ──end──▶ a histogram's bucket
//!                  │            a span, child of the caller's (traceparent of W3C)
//!                  └─ steps of the pod: a bucket each, a child span each
//! ```

mod figures;
mod traces;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use sandboxd_api::cri;
use tonic::metadata::MetadataMap;

pub use figures::{Figures, Histogram, Snapshot};
pub use traces::{Traces, TracesError};

use crate::pod::model::Pod;

/// The rpcs that are measured: those that make and end something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rpc {
    RunPodSandbox,
    StopPodSandbox,
    RemovePodSandbox,
    CreateContainer,
    StartContainer,
    StopContainer,
    RemoveContainer,
    PullImage,
}

impl Rpc {
    pub const ALL: [Self; 8] = [
        Self::RunPodSandbox,
        Self::StopPodSandbox,
        Self::RemovePodSandbox,
        Self::CreateContainer,
        Self::StartContainer,
        Self::StopContainer,
        Self::RemoveContainer,
        Self::PullImage,
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::RunPodSandbox => "RunPodSandbox",
            Self::StopPodSandbox => "StopPodSandbox",
            Self::RemovePodSandbox => "RemovePodSandbox",
            Self::CreateContainer => "CreateContainer",
            Self::StartContainer => "StartContainer",
            Self::StopContainer => "StopContainer",
            Self::RemoveContainer => "RemoveContainer",
            Self::PullImage => "PullImage",
        }
    }
}

/// Clones share one.
#[derive(Debug, Clone, Default)]
pub struct Telemetry {
    figures: Arc<Figures>,
    traces: Option<Traces>,
}

impl Telemetry {
    #[must_use]
    pub fn new(traces: Option<Traces>) -> Self {
        Self { figures: Arc::default(), traces }
    }

    #[must_use]
    pub fn figures(&self) -> &Arc<Figures> {
        &self.figures
    }

    /// An rpc begins.
    pub(crate) fn begin(&self, rpc: Rpc, metadata: &MetadataMap) -> Call<'_> {
        let span = self.traces.as_ref().map(|traces| traces.begin(rpc, metadata));
        Call { telemetry: self, rpc, started: Instant::now(), span, ended: false }
    }

    /// Sends what has not been sent yet; blocks for a little while.
    pub fn shutdown(&self) {
        if let Some(traces) = &self.traces {
            traces.shutdown();
        }
    }
}

/// An rpc under way. One that is dropped was cancelled by its caller.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    telemetry: &'a Telemetry,
    rpc: Rpc,
    started: Instant,
    span: Option<traces::Span>,
    ended: bool,
}

impl Call<'_> {
    /// What the rpc is about. `value` is asked only where somebody listens.
    pub fn note(&mut self, key: &'static str, value: impl FnOnce() -> String) {
        if let Some(span) = &mut self.span {
            let value = value();
            if !value.is_empty() {
                span.note(key, value);
            }
        }
    }

    pub fn about_pod(&mut self, request: &cri::RunPodSandboxRequest) {
        let metadata = request.config.as_ref().and_then(|config| config.metadata.as_ref());
        self.pod_name(metadata);
        self.note("sandboxd.handler", || request.runtime_handler.clone());
    }

    pub fn about_container(&mut self, request: &cri::CreateContainerRequest) {
        self.note("sandboxd.pod.id", || request.pod_sandbox_id.clone());
        self.pod_name(request.sandbox_config.as_ref().and_then(|config| config.metadata.as_ref()));
        let config = request.config.as_ref();
        self.note("k8s.container.name", || {
            config.and_then(|config| config.metadata.as_ref()).map(|m| m.name.clone()).unwrap_or_default()
        });
        self.note("container.image.name", || {
            config
                .and_then(|config| config.image.as_ref())
                .map(|image| image.image.clone())
                .unwrap_or_default()
        });
    }

    fn pod_name(&mut self, metadata: Option<&cri::PodSandboxMetadata>) {
        if let Some(metadata) = metadata {
            self.note("k8s.pod.name", || metadata.name.clone());
            self.note("k8s.namespace.name", || metadata.namespace.clone());
            self.note("k8s.pod.uid", || metadata.uid.clone());
        }
    }

    /// The steps by which a pod came to be, or did not.
    pub fn steps(&mut self, pod: &Pod) {
        self.note("sandboxd.pod.id", || pod.id.to_string());
        self.note("sandboxd.pod.flow", || pod.flow.name().to_owned());
        for step in &pod.steps {
            self.telemetry.figures.step(step);
            if let (Some(span), Some(traces)) = (&self.span, &self.telemetry.traces) {
                traces.step(span, step);
            }
        }
    }

    /// It has its answer.
    pub fn end<T, E: std::fmt::Display>(mut self, answer: Result<T, E>) -> Result<T, E> {
        self.ended = true;
        self.telemetry.figures.rpc(self.rpc, answer.is_ok(), self.started.elapsed());
        if let Some(span) = self.span.take() {
            span.end(answer.as_ref().err().map(ToString::to_string));
        }
        answer
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        self.telemetry.figures.rpc(self.rpc, false, self.started.elapsed());
        if let Some(span) = self.span.take() {
            span.end(Some("the caller went away".to_owned()));
        }
    }
}

/// A time of the model as the system's.
fn at(ns: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(ns).unwrap_or(0))
}
