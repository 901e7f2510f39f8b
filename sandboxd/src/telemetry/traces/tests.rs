use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response};

use super::super::Telemetry;
use super::*;
use crate::pod::model::{StepName, test_pod};

/// Takes what is sent to it.
#[derive(Debug, Clone, Default)]
struct Collector(Arc<Mutex<Vec<ExportTraceServiceRequest>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, tonic::Status> {
        self.0.lock().unwrap().push(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    async fn start() -> (Self, String) {
        let collector = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let service = TraceServiceServer::new(collector.clone());
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpListenerStream::new(listener)),
        );
        (collector, endpoint)
    }

    fn spans(&self) -> Vec<Sent> {
        let requests = self.0.lock().unwrap();
        let resources = requests.iter().flat_map(|request| &request.resource_spans);
        resources.flat_map(|r| &r.scope_spans).flat_map(|scope| scope.spans.clone()).collect()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pods_steps_are_children_of_the_rpc_and_the_rpc_of_its_caller() {
    let (collector, endpoint) = Collector::start().await;
    let telemetry = Telemetry::new(Some(Traces::to(&endpoint, "node-1").unwrap()));
    let mut metadata = MetadataMap::new();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    metadata.insert("traceparent", format!("00-{trace}-{parent}-01").parse().unwrap());

    let mut pod = test_pod("web");
    for (name, cni) in [(StepName::Reserved, 0), (StepName::Networked, 4)] {
        pod.steps.push(Step {
            name,
            started_at_ns: 1_000_000_000,
            duration: Duration::from_millis(9),
            cni: Duration::from_millis(cni),
            error: (cni > 0).then(|| "no address".to_owned()),
        });
    }
    let mut call = telemetry.begin(Rpc::RunPodSandbox, &metadata);
    call.note("k8s.pod.name", || "web".to_owned());
    call.steps(&pod);
    let answer: Result<(), _> = call.end(Err("no address"));
    assert!(answer.is_err());
    drop(telemetry.begin(Rpc::StartContainer, &MetadataMap::new()));
    let sent = telemetry.clone();
    tokio::task::spawn_blocking(move || sent.shutdown()).await.unwrap();

    let spans = collector.spans();
    let named = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{name}"));
    let rpc = named("RunPodSandbox");
    assert_eq!((hex(&rpc.trace_id), hex(&rpc.parent_span_id)), (trace.to_owned(), parent.to_owned()));
    assert!(rpc.attributes.iter().any(|a| a.key == "k8s.pod.name"), "{:?}", rpc.attributes);
    assert!(rpc.attributes.iter().any(|a| a.key == "sandboxd.pod.id"), "{:?}", rpc.attributes);
    assert_eq!(rpc.status.as_ref().unwrap().message, "no address");
    for step in ["Reserved", "Networked"] {
        assert_eq!(named(step).parent_span_id, rpc.span_id, "{step}");
        assert_eq!(named(step).end_time_unix_nano - named(step).start_time_unix_nano, 9_000_000);
    }
    let cni = named("CNI ADD");
    assert_eq!(cni.parent_span_id, named("Networked").span_id);
    assert_eq!(cni.end_time_unix_nano - cni.start_time_unix_nano, 4_000_000);
    let alone = named("StartContainer");
    assert!(alone.parent_span_id.is_empty() && hex(&alone.trace_id) != trace, "a trace of its own");
    assert_eq!(alone.status.as_ref().unwrap().message, "the caller went away");
    let request = collector.0.lock().unwrap()[0].clone();
    let resource = request.resource_spans[0].resource.clone().unwrap();
    assert!(resource.attributes.iter().any(|a| a.key == "service.name"), "{resource:?}");
}

/// The caller's decision not to sample holds here, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsampled_caller_has_no_spans() {
    let (collector, endpoint) = Collector::start().await;
    let telemetry = Telemetry::new(Some(Traces::to(&endpoint, "node-1").unwrap()));
    let mut metadata = MetadataMap::new();
    let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    metadata.insert("traceparent", unsampled.parse().unwrap());
    let _: Result<(), &str> = telemetry.begin(Rpc::PullImage, &metadata).end(Ok(()));
    tokio::task::spawn_blocking(move || telemetry.shutdown()).await.unwrap();
    assert!(collector.spans().is_empty());
}
