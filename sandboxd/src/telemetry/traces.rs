//! Spans for an OpenTelemetry collector (OTLP over gRPC).

use std::time::Duration;

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{
    Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use tonic::metadata::MetadataMap;

use super::{Rpc, at};
use crate::pod::model::Step;

/// How long the last spans may take to be sent at the daemon's end.
const FAREWELL: Duration = Duration::from_secs(2);

/// Why spans cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    #[error("setting up traces to {endpoint}: correct tracing.otlp_endpoint, or leave it empty")]
    Exporter {
        endpoint: String,
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
}

/// The way to the collector. What it does not take is dropped: nothing waits for it.
#[derive(Debug, Clone)]
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

impl Traces {
    /// Spans to a collector at `http://HOST:PORT`. Within a tokio runtime.
    ///
    /// # Errors
    /// When the address is none.
    pub fn to(endpoint: &str, node: &str) -> Result<Self, TracesError> {
        let exporter = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build();
        let exporter =
            exporter.map_err(|source| TracesError::Exporter { endpoint: endpoint.to_owned(), source })?;
        let resource = Resource::builder_empty()
            .with_service_name("sandboxd")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("k8s.node.name", node.to_owned()),
            ])
            .build();
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("sandboxd");
        Ok(Self { provider, tracer })
    }

    /// The span of an rpc: the caller's trace goes on in it, where the caller has one.
    pub(super) fn begin(&self, rpc: Rpc, metadata: &MetadataMap) -> Span {
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), &Headers(metadata));
        let service =
            if rpc == Rpc::PullImage { "runtime.v1.ImageService" } else { "runtime.v1.RuntimeService" };
        let span = self
            .tracer
            .span_builder(rpc.name())
            .with_kind(SpanKind::Server)
            .with_attributes([
                KeyValue::new("rpc.system", "grpc"),
                KeyValue::new("rpc.service", service),
                KeyValue::new("rpc.method", rpc.name()),
            ])
            .start_with_context(&self.tracer, &parent);
        Span(Context::new().with_span(span))
    }

    /// A finished step of the pod's flow, and CNI's share of it.
    pub(super) fn step(&self, rpc: &Span, step: &Step) {
        let started = at(step.started_at_ns);
        let mut span = self
            .tracer
            .span_builder(step.name.name())
            .with_start_time(started)
            .start_with_context(&self.tracer, &rpc.0);
        if let Some(error) = &step.error {
            span.set_status(Status::error(error.clone()));
        }
        let ended = started + step.duration;
        if !step.cni.is_zero() {
            let within = Context::new().with_remote_span_context(span.span_context().clone());
            let mut cni = self
                .tracer
                .span_builder("CNI ADD")
                .with_start_time(ended - step.cni)
                .start_with_context(&self.tracer, &within);
            cni.end_with_timestamp(ended);
        }
        span.end_with_timestamp(ended);
    }

    pub(super) fn shutdown(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(FAREWELL) {
            tracing::warn!(%error, "sending the last traces failed");
        }
    }
}

/// A span that has begun.
#[derive(Debug)]
pub(super) struct Span(Context);

impl Span {
    pub fn note(&mut self, key: &'static str, value: String) {
        self.0.span().set_attribute(KeyValue::new(key, value));
    }

    pub fn end(self, error: Option<String>) {
        let span = self.0.span();
        if let Some(error) = error {
            span.set_status(Status::error(error));
        }
        span.end();
    }
}

struct Headers<'a>(&'a MetadataMap);

impl Extractor for Headers<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.to_str().ok()
    }

    fn keys(&self) -> Vec<&str> {
        // Only asked for by formats that are not spoken here.
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
