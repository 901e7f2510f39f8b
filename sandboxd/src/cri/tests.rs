//! The endpoint over a real unix socket, with pods that exist only in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sandboxd_api::cri as api;
use sandboxd_api::cri::image_service_client::ImageServiceClient;
use sandboxd_api::cri::runtime_service_client::RuntimeServiceClient;
use serde_json::{Value, json};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::validate::Host;
use super::{Cri, HandlerReport, NodeReport, PodService};
use crate::config::Config;
use crate::network::NetworkStatus;
use crate::pod::PodError;
use crate::pod::model::{Pod, PodId};
use crate::pod::spec::PodSpec;
use crate::runtime::HandlerFeatures;

/// Ready at once, in memory.
#[derive(Debug, Default)]
struct FakePods {
    pods: Mutex<Vec<Arc<Pod>>>,
    /// RunPodSandbox waits for it, where set.
    gate: Mutex<Option<Arc<tokio::sync::Notify>>>,
}

fn pod(id: &str, spec: &PodSpec, state: &str) -> Pod {
    let namespace = |kind: &str, inode: u64, owner: u64| json!({ "kind": kind, "inode": inode, "owner": owner, "host": false, "pin": null });
    let step = json!({
        "name": "Created", "started_at_ns": 5, "duration": { "secs": 0, "nanos": 1_500_000 },
        "cni": { "secs": 0, "nanos": 0 }, "error": null,
    });
    serde_json::from_value(json!({
        "id": id, "spec": spec, "state": state, "flow": "runtime-first", "created_at_ns": 1_700_000_000_000_000_000_i64,
        "shim_pid": 41, "infra_pid": 42, "netns_path": "/run/x/netns", "ips": ["10.1.0.2", "fd00::2"],
        "namespaces": [namespace("user", 100, 1), namespace("net", 101, 100)],
        "sysfs": "Mounted", "cgroup": "/k/pod1", "steps": [step], "error": null,
    }))
    .expect("a pod")
}

impl FakePods {
    fn put(&self, pod: Pod) {
        self.pods.lock().unwrap().push(Arc::new(pod));
    }
}

#[tonic::async_trait]
impl PodService for Arc<FakePods> {
    async fn run(&self, spec: PodSpec) -> Result<PodId, PodError> {
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.notified().await;
        }
        let made = self.list();
        if let Some(by) = made.iter().find(|p| p.spec.metadata == spec.metadata) {
            return Err(PodError::NameReserved { name: spec.metadata.name, by: by.id.clone() });
        }
        let id = format!("{:0>63}{}", made.len(), 'f');
        self.put(pod(&id, &spec, "Ready"));
        Ok(PodId::from_string(id))
    }

    async fn stop(&self, id: &str) -> Result<(), PodError> {
        for pod in self.pods.lock().unwrap().iter_mut().filter(|p| p.id.as_str() == id) {
            Arc::make_mut(pod).state = crate::pod::model::PodState::NotReady;
        }
        Ok(())
    }

    async fn remove(&self, id: &str) -> Result<(), PodError> {
        self.pods.lock().unwrap().retain(|p| p.id.as_str() != id);
        Ok(())
    }

    async fn update(&self, id: &str, limits: crate::pod::Limits) -> Result<(), PodError> {
        let mut pods = self.pods.lock().unwrap();
        let pod = pods.iter_mut().find(|p| p.id.as_str() == id);
        let pod = pod.ok_or_else(|| PodError::NotReady { id: id.to_owned() })?;
        Arc::make_mut(pod).spec.resources = limits.resources;
        Ok(())
    }

    fn list(&self) -> Vec<Arc<Pod>> {
        self.pods.lock().unwrap().clone()
    }

    fn find(&self, id: &str) -> Result<Option<Arc<Pod>>, PodError> {
        let mut found = self.list();
        found.retain(|p| p.id.as_str().starts_with(id));
        match found.len() {
            0 | 1 => Ok(found.pop()),
            count => Err(PodError::AmbiguousId { prefix: id.to_owned(), count }),
        }
    }
}

#[derive(Debug)]
struct FakeNode {
    handlers: BTreeMap<String, HandlerReport>,
    cidr: Mutex<String>,
}

impl NodeReport for FakeNode {
    fn network(&self) -> NetworkStatus {
        NetworkStatus { ready: false, reason: "NoNetworkConfig".into(), message: "no file in /x".into() }
    }
    fn cgroup_driver(&self) -> api::CgroupDriver {
        api::CgroupDriver::Cgroupfs
    }
    fn handlers(&self) -> &BTreeMap<String, HandlerReport> {
        &self.handlers
    }
    fn default_handler(&self) -> &str {
        "native"
    }
    fn info(&self) -> BTreeMap<&'static str, Value> {
        BTreeMap::from([("podCidr", json!(*self.cidr.lock().unwrap()))])
    }
    fn set_pod_cidr(&self, cidr: &str) {
        cidr.clone_into(&mut self.cidr.lock().unwrap());
    }
}

struct Endpoints {
    pods: Arc<FakePods>,
    cri: Cri,
    runtime: RuntimeServiceClient<Channel>,
    image: ImageServiceClient<Channel>,
    _dir: tempfile::TempDir,
}

async fn serve() -> Endpoints {
    let mut config = Config::default();
    let oci = "runtime = 'oci'\npath = '/usr/sbin/runc'";
    config.configured_handlers.insert("oci".into(), toml::from_str(oci).expect("a handler"));
    let handlers = config
        .handlers()
        .into_iter()
        .map(|(name, handler)| {
            let user_namespaces = name == "native";
            let features = HandlerFeatures { user_namespaces, ..HandlerFeatures::default() };
            (name, HandlerReport { handler, features })
        })
        .collect();
    let pods = Arc::<FakePods>::default();
    let node = Arc::new(FakeNode { handlers, cidr: Mutex::default() });
    let cri = Cri::new(Arc::new(Arc::clone(&pods)), node, Host::default());
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("cri.sock");
    let listener = tokio::net::UnixListener::bind(&path).expect("bound");
    tokio::spawn(cri.clone().router().serve_with_incoming(UnixListenerStream::new(listener)));
    let channel = Endpoint::try_from(format!("unix://{}", path.display())).expect("an address");
    let channel = channel.connect().await.expect("connected");
    let runtime = RuntimeServiceClient::new(channel.clone());
    Endpoints { pods, cri, runtime, image: ImageServiceClient::new(channel), _dir: dir }
}

fn config(name: &str) -> api::PodSandboxConfig {
    let map = api::IdMapping { host_id: 65_536, container_id: 0, length: 65_536 };
    let userns = api::UserNamespace { mode: 0, uids: vec![map], gids: vec![map] };
    api::PodSandboxConfig {
        metadata: Some(api::PodSandboxMetadata {
            name: name.into(),
            uid: "u".into(),
            namespace: "default".into(),
            attempt: 2,
        }),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [("a\n".to_owned(), "\tb ".to_owned())].into(),
        linux: Some(api::LinuxPodSandboxConfig {
            security_context: Some(api::LinuxSandboxSecurityContext {
                namespace_options: Some(api::NamespaceOption {
                    userns_options: Some(userns),
                    pid: api::NamespaceMode::Container.into(),
                    ..Default::default()
                }),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

impl Endpoints {
    async fn run(&mut self, name: &str, handler: &str) -> Result<String, tonic::Status> {
        let request =
            api::RunPodSandboxRequest { config: Some(config(name)), runtime_handler: handler.into() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    async fn list(&mut self, filter: api::PodSandboxFilter) -> Result<Vec<String>, tonic::Status> {
        let request = api::ListPodSandboxRequest { filter: Some(filter) };
        let items = self.runtime.list_pod_sandbox(request).await?.into_inner().items;
        Ok(items.into_iter().map(|p| p.metadata.expect("metadata").name).collect())
    }

    async fn status(
        &mut self,
        id: &str,
        verbose: bool,
    ) -> Result<api::PodSandboxStatusResponse, tonic::Status> {
        let request = api::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose };
        Ok(self.runtime.pod_sandbox_status(request).await?.into_inner())
    }
}

// cri: UpdateRuntimeConfig, UpdateRuntimeConfigRequest.runtime_config, RuntimeConfig.network_config
// cri: NetworkConfig.pod_cidr, StatusRequest.verbose, StatusResponse.info, RuntimeCondition.reason
// cri: RuntimeHandlerFeatures.user_namespaces, RuntimeConfig, RuntimeConfigResponse.linux
// cri: LinuxRuntimeConfiguration.cgroup_driver
#[tokio::test]
async fn the_node_is_reported() {
    let mut e = serve().await;
    let v = e.runtime.version(api::VersionRequest::default()).await.expect("version").into_inner();
    assert!(
        [v.version, v.runtime_name, v.runtime_version, v.runtime_api_version].iter().all(|f| !f.is_empty())
    );

    let range = api::NetworkConfig { pod_cidr: "10.1.0.0/24".into() };
    let update = api::UpdateRuntimeConfigRequest {
        runtime_config: Some(api::RuntimeConfig { network_config: Some(range) }),
    };
    e.runtime.update_runtime_config(update).await.expect("taken");
    let s = e.runtime.status(api::StatusRequest { verbose: true }).await.expect("status").into_inner();
    let conditions = s.status.expect("status").conditions;
    assert_eq!((conditions[0].r#type.as_str(), conditions[0].status), ("RuntimeReady", true));
    assert_eq!((conditions[1].r#type.as_str(), conditions[1].status), ("NetworkReady", false));
    assert_eq!(conditions[1].reason, "NoNetworkConfig");
    let features = |name: &str| {
        let handler = s.runtime_handlers.iter().find(|h| h.name == name).expect("handler");
        handler.features.expect("features").user_namespaces
    };
    assert!(features("") && features("native") && !features("network-first"));
    assert_eq!(s.info["podCidr"], "\"10.1.0.0/24\"");
    for (name, text) in &s.info {
        assert!(serde_json::from_str::<Value>(text).is_ok(), "{name}");
    }
    let quiet = e.runtime.status(api::StatusRequest::default()).await.expect("status").into_inner();
    assert!(quiet.info.is_empty());

    let c = e.runtime.runtime_config(api::RuntimeConfigRequest {}).await.expect("config").into_inner();
    assert_eq!(c.linux.expect("linux").cgroup_driver(), api::CgroupDriver::Cgroupfs);
}

// cri: PodSandboxNetworkStatus.additional_ips, PodIP.ip, PodSandboxStatus.linux
// cri: LinuxPodSandboxStatus.namespaces, Namespace.options, PodSandboxStatus.id, PodSandboxStatus.created_at
// cri: PodSandboxStatusRequest.verbose, PodSandboxStatusResponse.timestamp
#[tokio::test]
async fn a_pods_life() {
    let mut e = serve().await;
    let id = e.run("web", "").await.expect("made");
    let answer = e.status(&id[..63], true).await.expect("status");
    let status = answer.status.expect("status");
    assert_eq!(status.state(), api::PodSandboxState::SandboxReady);
    assert_eq!((status.id.as_str(), status.created_at), (id.as_str(), 1_700_000_000_000_000_000));
    assert_eq!(status.annotations["a\n"], "\tb ");
    let network = status.network.expect("network");
    assert_eq!((network.ip.as_str(), network.additional_ips[0].ip.as_str()), ("10.1.0.2", "fd00::2"));
    let options = status.linux.and_then(|l| l.namespaces).and_then(|n| n.options).expect("options");
    assert_eq!(options.pid(), api::NamespaceMode::Container);
    assert_eq!(options.userns_options.expect("userns").uids[0].host_id, 65_536);
    assert!(answer.timestamp > 1_700_000_000_000_000_000);

    let info: Value = serde_json::from_str(&answer.info["info"]).expect("JSON");
    assert_eq!(info["pid"], 42);
    assert_eq!(info["namespaces"]["net"]["inode"], 101);
    assert_eq!(info["namespaces"]["net"]["owner"], 100);
    assert_eq!((&info["netnsPath"], &info["handler"]), (&json!("/run/x/netns"), &json!("native")));
    assert_eq!((&info["flow"], &info["steps"][0]["durationMicros"]), (&json!("runtime-first"), &json!(1500)));

    let error = e.run("web", "").await.expect_err("reserved");
    assert_eq!(error.code(), Code::AlreadyExists);
    assert!(error.message().contains(&id), "{error}");

    let stop = api::StopPodSandboxRequest { pod_sandbox_id: id.clone() };
    for _ in 0..2 {
        e.runtime.stop_pod_sandbox(stop.clone()).await.expect("idempotent");
    }
    let status = e.status(&id, false).await.expect("status");
    assert_eq!(status.status.expect("status").state(), api::PodSandboxState::SandboxNotready);
    assert!(status.info.is_empty());
    let remove = api::RemovePodSandboxRequest { pod_sandbox_id: id.clone() };
    for _ in 0..2 {
        e.runtime.remove_pod_sandbox(remove.clone()).await.expect("idempotent");
    }
    assert_eq!(e.status(&id, false).await.expect_err("gone").code(), Code::NotFound);
}

#[tokio::test]
async fn a_pod_in_the_making_is_waited_for() {
    let mut e = serve().await;
    let gate = Arc::new(tokio::sync::Notify::new());
    *e.pods.gate.lock().unwrap() = Some(Arc::clone(&gate));
    let (cri, patience) = (e.cri.clone(), std::time::Duration::from_millis(200));
    let made = tokio::spawn(async move { e.run("web", "").await });
    tokio::time::sleep(patience).await;
    assert!(tokio::time::timeout(patience, cri.idle()).await.is_err(), "one is in flight");
    gate.notify_one();
    assert!(made.await.expect("answered").is_ok());
    assert!(tokio::time::timeout(patience, cri.idle()).await.is_ok());
}

// cri: PodSandboxFilter.id, PodSandboxFilter.state, PodSandboxFilter.label_selector
#[tokio::test]
async fn filters_are_anded() {
    let mut e = serve().await;
    let (a, b) = (e.run("a", "").await.expect("made"), e.run("b", "native").await.expect("made"));
    let spec = e.pods.list()[0].spec.clone();
    for (id, state) in [("c1", "Creating"), ("c2", "Failed")] {
        e.pods.put(pod(id, &spec, state));
    }
    let stop = api::StopPodSandboxRequest { pod_sandbox_id: b.clone() };
    e.runtime.stop_pod_sandbox(stop).await.expect("stopped");

    let state = |s: api::PodSandboxState| Some(api::PodSandboxStateValue { state: s.into() });
    let label = |v: &str| [("app".to_owned(), v.to_owned())].into();
    type F = api::PodSandboxFilter;
    let ready = api::PodSandboxState::SandboxReady;
    assert_eq!(e.list(F::default()).await.unwrap(), ["a", "b"], "neither half-made nor failed ones");
    assert_eq!(e.list(F { state: state(ready), ..F::default() }).await.unwrap(), ["a"]);
    assert_eq!(e.list(F { label_selector: label("b"), ..F::default() }).await.unwrap(), ["b"]);
    let both = F { label_selector: label("b"), state: state(ready), ..F::default() };
    assert!(e.list(both).await.unwrap().is_empty());
    assert_eq!(e.list(F { id: a.clone(), ..F::default() }).await.unwrap(), ["a"]);
    assert_eq!(e.list(F { id: a[..63].into(), ..F::default() }).await.unwrap(), ["a"]);
    assert!(e.list(F { id: "0000".into(), ..F::default() }).await.unwrap().is_empty(), "not unique");
    assert!(e.list(F { id: "c1".into(), ..F::default() }).await.unwrap().is_empty());
    assert_eq!(e.status("c1", false).await.expect_err("not shown").code(), Code::NotFound);

    let unknown = F { state: Some(api::PodSandboxStateValue { state: 9 }), ..F::default() };
    let error = e.list(unknown).await.expect_err("refused");
    assert!(
        error.code() == Code::InvalidArgument && error.message().contains("filter.state.state = 9"),
        "{error}"
    );
}

// cri: StreamPodSandboxes, StreamPodSandboxesResponse.pod_sandboxes
#[tokio::test]
async fn streams_bring_batches() {
    let mut e = serve().await;
    let request = api::StreamPodSandboxesRequest::default;
    let mut none = e.runtime.stream_pod_sandboxes(request()).await.expect("stream").into_inner();
    assert!(none.message().await.expect("end").is_none());
    e.run("p", "").await.expect("made");
    let spec = e.pods.list()[0].spec.clone();
    for i in 1..300 {
        e.pods.put(pod(&format!("{i:064}"), &spec, "Ready"));
    }
    let mut stream = e.runtime.stream_pod_sandboxes(request()).await.expect("stream").into_inner();
    let mut sizes = Vec::new();
    while let Some(batch) = stream.message().await.expect("batch") {
        sizes.push(batch.pod_sandboxes.len());
    }
    assert_eq!(sizes, [128, 128, 44]);
}

#[tokio::test]
async fn bad_requests_are_refused_by_name() {
    let mut e = serve().await;
    let error = e.run("web", "gvisor").await.expect_err("unknown handler");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert!(error.message().contains("\"gvisor\"") && error.message().contains("native"), "{error}");

    let error = e.runtime.run_pod_sandbox(api::RunPodSandboxRequest::default()).await.expect_err("empty");
    assert_eq!(error.code(), Code::InvalidArgument);
    assert_eq!(error.message(), "config.metadata = \"\": required: set it");
    let mut bad = config("web");
    bad.hostname = "a b".into();
    let request = api::RunPodSandboxRequest { config: Some(bad), runtime_handler: String::new() };
    let error = e.runtime.run_pod_sandbox(request).await.expect_err("host name");
    assert!(error.message().starts_with("config.hostname = \"a b\": not a host's name"), "{error}");

    let stop = e.runtime.stop_pod_sandbox(api::StopPodSandboxRequest::default()).await;
    assert_eq!(stop.expect_err("no id").code(), Code::InvalidArgument);
    let remove = e.runtime.remove_pod_sandbox(api::RemovePodSandboxRequest::default()).await;
    assert_eq!(remove.expect_err("no id").code(), Code::InvalidArgument);
    assert!(e.pods.list().is_empty());
}

#[tokio::test]
async fn a_pods_resources_are_updated_or_refused() {
    let mut e = serve().await;
    let spec = crate::pod::model::test_pod("web").spec;
    let id = "a".repeat(64);
    e.pods.put(pod(&id, &spec, "Ready"));
    let request = |id: &str, cpu_shares: i64| api::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: id.to_owned(),
        overhead: None,
        resources: Some(api::LinuxContainerResources { cpu_shares, ..Default::default() }),
    };
    e.runtime.update_pod_sandbox_resources(request(&id, 512)).await.unwrap();
    assert_eq!(e.pods.list()[0].spec.resources.cpu_shares, Some(512));
    for (id, shares, code, word) in [
        (id.as_str(), 1, Code::InvalidArgument, "resources.cpu_shares"),
        ("ffff", 512, Code::NotFound, "ffff"),
        ("", 512, Code::InvalidArgument, "pod_sandbox_id"),
    ] {
        let error = e.runtime.update_pod_sandbox_resources(request(id, shares)).await.unwrap_err();
        assert_eq!(error.code(), code, "{error}");
        assert!(error.message().contains(word), "{error}");
    }
}

/// The rpcs that follow later, or need a room that is not there; each says so by its name.
#[tokio::test]
async fn the_rest_is_unimplemented_by_name() {
    let mut e = serve().await;
    macro_rules! refused {
        ($client:expr; $($method:ident $request:ident $name:literal),* $(,)?) => {$(
            let error = $client.$method(api::$request::default()).await.expect_err($name);
            assert_eq!(error.code(), Code::Unimplemented);
            assert!(error.message().starts_with(concat!($name, " is not implemented")), "{error}");
        )*};
    }
    refused!(e.runtime;
        create_container CreateContainerRequest "CreateContainer",
        start_container StartContainerRequest "StartContainer",
        stop_container StopContainerRequest "StopContainer",
        remove_container RemoveContainerRequest "RemoveContainer",
        list_containers ListContainersRequest "ListContainers",
        stream_containers StreamContainersRequest "StreamContainers",
        container_status ContainerStatusRequest "ContainerStatus",
        update_container_resources UpdateContainerResourcesRequest "UpdateContainerResources",
        reopen_container_log ReopenContainerLogRequest "ReopenContainerLog",
        exec_sync ExecSyncRequest "ExecSync",
        exec ExecRequest "Exec",
        attach AttachRequest "Attach",
        port_forward PortForwardRequest "PortForward",
        container_stats ContainerStatsRequest "ContainerStats",
        list_container_stats ListContainerStatsRequest "ListContainerStats",
        stream_container_stats StreamContainerStatsRequest "StreamContainerStats",
        pod_sandbox_stats PodSandboxStatsRequest "PodSandboxStats",
        list_pod_sandbox_stats ListPodSandboxStatsRequest "ListPodSandboxStats",
        stream_pod_sandbox_stats StreamPodSandboxStatsRequest "StreamPodSandboxStats",
        checkpoint_container CheckpointContainerRequest "CheckpointContainer",
        checkpoint_pod CheckpointPodRequest "CheckpointPod",
        restore_pod RestorePodRequest "RestorePod",
        get_container_events GetEventsRequest "GetContainerEvents",
        list_metric_descriptors ListMetricDescriptorsRequest "ListMetricDescriptors",
        list_pod_sandbox_metrics ListPodSandboxMetricsRequest "ListPodSandboxMetrics",
        stream_pod_sandbox_metrics StreamPodSandboxMetricsRequest "StreamPodSandboxMetrics",
    );
    refused!(e.image;
        list_images ListImagesRequest "ListImages",
        stream_images StreamImagesRequest "StreamImages",
        image_status ImageStatusRequest "ImageStatus",
        pull_image PullImageRequest "PullImage",
        remove_image RemoveImageRequest "RemoveImage",
        image_fs_info ImageFsInfoRequest "ImageFsInfo",
    );
}
