//! Metrics as a scraper gets them, traces as a collector does.

use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result, ensure};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span;
use sandboxd_api::cri::RunPodSandboxRequest;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Options;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::support::eventually;

/// GET /metrics.
async fn scrape(port: u16) -> Result<String> {
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\nHost: node\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    ensure!(head.starts_with("HTTP/1.0 200") && head.contains("text/plain; version=0.0.4"), "{head}");
    Ok(body.to_owned())
}

fn value(page: &str, line: &str) -> Result<f64> {
    let found = page.lines().find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
    Ok(found.with_context(|| format!("no {line} in {page}"))?.parse()?)
}

#[test]
fn a_pods_steps_are_in_the_metrics() {
    // Given back before the daemon takes it: somebody else might, and then the daemon says so and the test fails.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).map_or(0, |a| a.port());
    let options =
        Options { config: format!("metrics_address = \"127.0.0.1:{port}\"\n"), ..Options::default() };
    E2e::default().options(options).run(async move |node| {
        let cri = node.cri().await?;
        let id = cri.run(node.pod("measured").userns().build()).await?;
        let page = scrape(port).await?;
        let of = |line: &str| value(&page, line);
        for step in ["Reserved", "Configured", "Created", "Networked", "Started", "Ready"] {
            let count = of(&format!("sandboxd_pod_step_duration_seconds_count{{step=\"{step}\"}}"))?;
            ensure!(count == 1.0, "{step}: {count}");
        }
        ensure!(of("sandboxd_cni_add_duration_seconds_count")? == 1.0);
        let rpc = "sandboxd_rpc_duration_seconds_count{method=\"RunPodSandbox\",result=\"ok\"}";
        ensure!(of(rpc)? == 1.0 && of("sandboxd_pods{state=\"ready\"}")? == 1.0);
        cri.remove(&id).await?;
        let page = scrape(port).await?;
        ensure!(value(&page, "sandboxd_pods{state=\"ready\"}")? == 0.0);
        ensure!(!page.contains("measured"), "a removed pod has no lines of its own");
        Ok(())
    });
}

/// Takes what is sent to it.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let resources = request.into_inner().resource_spans.into_iter();
        let spans = resources.flat_map(|r| r.scope_spans).flat_map(|scope| scope.spans);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(spans);
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[test]
fn a_callers_trace_goes_on_in_the_steps_of_the_pod() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port of loopback");
    listener.set_nonblocking(true).expect("not blocking");
    let port = listener.local_addr().expect("an address").port();
    let config = format!("[tracing]\notlp_endpoint = \"http://127.0.0.1:{port}\"\n");
    let options = Options { config, ..Options::default() };
    E2e::default().options(options).run(async move |node| {
        let collector = Collector::default();
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener.try_clone()?)?);
        let served = tonic::transport::Server::builder()
            .add_service(TraceServiceServer::new(collector.clone()))
            .serve_with_incoming(incoming);
        tokio::spawn(served);
        let cri = node.cri().await?;
        let config = Some(node.pod("traced").userns().build());
        let mut request = Request::new(RunPodSandboxRequest { config, runtime_handler: String::new() });
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        request.metadata_mut().insert("traceparent", format!("00-{trace}-00f067aa0ba902b7-01").parse()?);
        let id = cri.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
        let spans = || collector.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        eventually("the steps arrive", async || Ok(spans().iter().any(|span| span.name == "Ready"))).await?;
        let spans = spans();
        let rpc = spans.iter().find(|span| span.name == "RunPodSandbox").context("no span of the call")?;
        let hex: String = rpc.trace_id.iter().map(|b| format!("{b:02x}")).collect();
        ensure!(hex == trace, "{hex}");
        for step in ["Created", "Networked", "Started"] {
            let span = spans.iter().find(|span| span.name == step).context(step)?;
            ensure!(span.parent_span_id == rpc.span_id && span.trace_id == rpc.trace_id, "{span:?}");
        }
        ensure!(spans.iter().any(|span| span.name == "CNI ADD"), "{spans:?}");
        cri.remove(&id).await?;
        Ok(())
    });
}
