//! A CRI client as kubelet is one: gRPC over a unix socket.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper_util::rt::TokioIo;
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::cri::runtime_service_client::RuntimeServiceClient;
use sandboxd_api::cri::{
    ListPodSandboxRequest, PodSandbox, PodSandboxConfig, PodSandboxFilter, PodSandboxStatusRequest,
    PodSandboxStatusResponse, RemovePodSandboxRequest, RunPodSandboxRequest, StopPodSandboxRequest,
};
use tokio::net::UnixStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::patience::patient;

/// Kubelet gives RunPodSandbox four minutes; nothing here should come near it.
const DEADLINE: Duration = Duration::from_secs(120);

/// A gRPC channel over a unix socket.
///
/// # Errors
/// When nobody listens there.
pub async fn channel(socket: &Path) -> Result<Channel> {
    let path = socket.to_path_buf();
    // The URI is never resolved: the connector goes to the socket.
    let endpoint = Endpoint::from_static("http://sandboxd.invalid").timeout(patient(DEADLINE));
    endpoint
        .connect_with_connector(tower::service_fn(move |_: Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        }))
        .await
        .with_context(|| format!("connecting to {}", socket.display()))
}

/// The runtime service, with the calls the tests make in one line each.
#[derive(Debug, Clone)]
pub struct Cri {
    pub runtime: RuntimeServiceClient<Channel>,
}

impl Cri {
    /// # Errors
    /// When nobody listens on the socket.
    pub async fn connect(socket: &Path) -> Result<Self> {
        let runtime = RuntimeServiceClient::new(channel(socket).await?)
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        Ok(Self { runtime })
    }

    /// RunPodSandbox through a handler ("" is the default one); the pod's id.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn run_with(&self, config: PodSandboxConfig, handler: &str) -> Result<String, Status> {
        let request = RunPodSandboxRequest { config: Some(config), runtime_handler: handler.to_owned() };
        Ok(self.runtime.clone().run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    /// RunPodSandbox through the default handler.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn run(&self, config: PodSandboxConfig) -> Result<String, Status> {
        self.run_with(config, "").await
    }

    /// # Errors
    /// The daemon's status.
    pub async fn stop(&self, id: &str) -> Result<(), Status> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().stop_pod_sandbox(request).await.map(drop)
    }

    /// # Errors
    /// The daemon's status.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.runtime.clone().remove_pod_sandbox(request).await.map(drop)
    }

    /// The verbose PodSandboxStatus.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn status(&self, id: &str) -> Result<PodSandboxStatusResponse, Status> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: true };
        Ok(self.runtime.clone().pod_sandbox_status(request).await?.into_inner())
    }

    /// `info["info"]` of the verbose status.
    ///
    /// # Errors
    /// When the pod is unknown or the daemon's JSON is not JSON.
    pub async fn info(&self, id: &str) -> Result<serde_json::Value> {
        let response = self.status(id).await?;
        let text = response.info.get("info").context("a verbose PodSandboxStatus without info[\"info\"]")?;
        serde_json::from_str(text).with_context(|| format!("info[\"info\"] is not JSON: {text}"))
    }

    /// The infra container's pid on the host.
    ///
    /// # Errors
    /// When the pod is unknown or has no process.
    pub async fn pid(&self, id: &str) -> Result<i32> {
        let info = self.info(id).await?;
        let pid = info.get("pid").and_then(serde_json::Value::as_i64);
        pid.and_then(|pid| i32::try_from(pid).ok())
            .filter(|pid| *pid > 0)
            .with_context(|| format!("no pid in {info}"))
    }

    /// ListPodSandbox.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn list(&self, filter: Option<PodSandboxFilter>) -> Result<Vec<PodSandbox>, Status> {
        Ok(self.runtime.clone().list_pod_sandbox(ListPodSandboxRequest { filter }).await?.into_inner().items)
    }
}
