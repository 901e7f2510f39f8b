//! Pods with containers in them, asked for the way kubelet asks.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::cri::image_service_client::ImageServiceClient;
use sandboxd_api::cri::runtime_service_client::RuntimeServiceClient;
use sandboxd_api::cri::{
    Container, ContainerConfig, ContainerFilter, ContainerMetadata, ContainerState, ContainerStatus,
    ContainerStatusRequest, ContainerStatusResponse, CreateContainerRequest, ExecSyncRequest,
    ExecSyncResponse, ImageSpec, KeyValue, LinuxContainerConfig, LinuxContainerResources,
    LinuxContainerSecurityContext, ListContainersRequest, Mount, NamespaceMode, NamespaceOption,
    PodSandboxConfig, RemoveContainerRequest, StartContainerRequest, StopContainerRequest,
};
use tonic::Status;
use tonic::transport::Channel;

use crate::cri::{Cri, channel};
use crate::node::Node;
use crate::patience::patient;
use crate::pod::Pod;

/// How long a container here may take to end by itself.
const PATIENCE: Duration = Duration::from_secs(30);

/// Kubelet's part: clients of both services, and where the logs go.
#[derive(Debug, Clone)]
pub struct Kube {
    pub cri: Cri,
    pub runtime: RuntimeServiceClient<Channel>,
    pub images: ImageServiceClient<Channel>,
    logs: PathBuf,
}

/// A pod that runs.
#[derive(Debug, Clone)]
pub struct Sandbox {
    pub id: String,
    pub config: PodSandboxConfig,
}

impl Kube {
    /// # Errors
    /// When nobody listens.
    pub async fn connect(node: &Node) -> Result<Self> {
        let channel = channel(&node.cri_socket()).await?;
        let images = ImageServiceClient::new(channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_SIZE)
            .max_encoding_message_size(MAX_MESSAGE_SIZE);
        let cri = Cri::connect(&node.cri_socket()).await?;
        Ok(Self { runtime: cri.runtime.clone(), cri, images, logs: node.path("logs") })
    }

    /// Runs a pod, with a log directory of its own.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn pod(&self, pod: Pod) -> Result<Sandbox, Status> {
        self.pod_with(pod, "").await
    }

    /// The same, through a handler.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn pod_with(&self, pod: Pod, handler: &str) -> Result<Sandbox, Status> {
        let mut config = pod.build();
        let name = config.metadata.clone().unwrap_or_default().name;
        config.log_directory = self.logs.join(name).to_string_lossy().into_owned();
        let id = self.cri.run_with(config.clone(), handler).await?;
        Ok(Sandbox { id, config })
    }

    /// # Errors
    /// The daemon's status.
    pub async fn create(&self, pod: &Sandbox, request: Request) -> Result<String, Status> {
        let request = CreateContainerRequest {
            pod_sandbox_id: pod.id.clone(),
            config: Some(request.for_pod(&pod.config)),
            sandbox_config: Some(pod.config.clone()),
        };
        Ok(self.runtime.clone().create_container(request).await?.into_inner().container_id)
    }

    /// # Errors
    /// The daemon's status.
    pub async fn start(&self, id: &str) -> Result<(), Status> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().start_container(request).await.map(drop)
    }

    /// Creates and starts.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn run(&self, pod: &Sandbox, request: Request) -> Result<String, Status> {
        let id = self.create(pod, request).await?;
        self.start(&id).await?;
        Ok(id)
    }

    /// # Errors
    /// The daemon's status.
    pub async fn stop(&self, id: &str, timeout: i64) -> Result<(), Status> {
        let request = StopContainerRequest { container_id: id.to_owned(), timeout };
        self.runtime.clone().stop_container(request).await.map(drop)
    }

    /// # Errors
    /// The daemon's status.
    pub async fn remove(&self, id: &str) -> Result<(), Status> {
        let request = RemoveContainerRequest { container_id: id.to_owned() };
        self.runtime.clone().remove_container(request).await.map(drop)
    }

    /// # Errors
    /// The daemon's status.
    pub async fn status(&self, id: &str) -> Result<ContainerStatus, Status> {
        let response = self.verbose(id, false).await?;
        response.status.ok_or_else(|| Status::internal("a ContainerStatusResponse without a status"))
    }

    /// # Errors
    /// The daemon's status.
    pub async fn verbose(&self, id: &str, verbose: bool) -> Result<ContainerStatusResponse, Status> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose };
        Ok(self.runtime.clone().container_status(request).await?.into_inner())
    }

    /// # Errors
    /// The daemon's status.
    pub async fn list(&self, filter: Option<ContainerFilter>) -> Result<Vec<Container>, Status> {
        let response = self.runtime.clone().list_containers(ListContainersRequest { filter }).await?;
        Ok(response.into_inner().containers)
    }

    /// ExecSync without a time-out.
    ///
    /// # Errors
    /// The daemon's status.
    pub async fn exec(&self, id: &str, command: &[&str]) -> Result<ExecSyncResponse, Status> {
        let request = ExecSyncRequest { container_id: id.to_owned(), cmd: words(command), timeout: 0 };
        Ok(self.runtime.clone().exec_sync(request).await?.into_inner())
    }

    /// What a command in the container prints, without the last newline.
    ///
    /// # Errors
    /// When it fails.
    pub async fn asked(&self, id: &str, command: &[&str]) -> Result<String> {
        let response = self.exec(id, command).await.with_context(|| format!("executing {command:?}"))?;
        let stdout = String::from_utf8_lossy(&response.stdout).trim_end().to_owned();
        let stderr = String::from_utf8_lossy(&response.stderr);
        ensure!(response.exit_code == 0, "{command:?} ended with {}: {stdout}{stderr}", response.exit_code);
        Ok(stdout)
    }

    /// Waits until a container has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn ended(&self, id: &str) -> Result<ContainerStatus> {
        let end = Instant::now() + patient(PATIENCE);
        loop {
            let status = self.status(id).await?;
            if status.state() == ContainerState::ContainerExited {
                return Ok(status);
            }
            if Instant::now() > end {
                bail!("container {id} still is {:?}", status.state());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs a container to its end: its status and what it wrote on standard output.
    ///
    /// # Errors
    /// When it cannot be made or does not end.
    pub async fn result(&self, pod: &Sandbox, request: Request) -> Result<(ContainerStatus, String)> {
        let id = self.run(pod, request).await?;
        let status = self.ended(&id).await?;
        let text = log(Path::new(&status.log_path))?.of("stdout");
        Ok((status, text))
    }

    /// What a container that must end with 0 printed, without the last newline.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn printed(&self, pod: &Sandbox, request: Request) -> Result<String> {
        let id = self.run(pod, request).await?;
        let status = self.ended(&id).await?;
        let log = log(Path::new(&status.log_path))?;
        let text = log.of("stdout");
        ensure!(
            status.exit_code == 0,
            "ended with {} ({}): {text}{}",
            status.exit_code,
            status.reason,
            log.of("stderr")
        );
        Ok(text.trim_end().to_owned())
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A container's log, parsed.
#[derive(Debug, Clone, Default)]
pub struct Log {
    pub lines: Vec<Line>,
}

/// One line of a log in CRI's format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub time: String,
    pub stream: String,
    /// `false`: the rest comes in the next line.
    pub whole: bool,
    pub text: String,
}

impl Log {
    /// What was written to a stream, put together again.
    #[must_use]
    pub fn of(&self, stream: &str) -> String {
        let mut text = String::new();
        for line in self.lines.iter().filter(|line| line.stream == stream) {
            text.push_str(&line.text);
            if line.whole {
                text.push('\n');
            }
        }
        text
    }
}

/// Reads a log file.
///
/// # Errors
/// When it is not there, or not in CRI's format.
pub fn log(path: &Path) -> Result<Log> {
    let bytes = std::fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    ensure!(text.is_empty() || text.ends_with('\n'), "the last line of {} is torn", path.display());
    let lines = text.lines().map(|line| {
        let mut parts = line.splitn(4, ' ');
        let mut part = || parts.next().with_context(|| format!("not a line of a CRI log: {line:?}"));
        let (time, stream, tag, text) = (part()?, part()?, part()?, part()?);
        ensure!(["stdout", "stderr"].contains(&stream), "stream {stream:?} in {line:?}");
        ensure!(["F", "P"].contains(&tag), "tag {tag:?} in {line:?}");
        Ok(Line { time: time.into(), stream: stream.into(), whole: tag == "F", text: text.into() })
    });
    Ok(Log { lines: lines.collect::<Result<_>>()? })
}

/// A container request under construction.
#[derive(Debug, Clone)]
pub struct Request(pub ContainerConfig);

impl Request {
    /// A container of an image, with what CRI insists on.
    #[must_use]
    pub fn new(name: &str, image: &str) -> Self {
        Self(ContainerConfig {
            metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
            image: Some(ImageSpec {
                image: image.to_owned(),
                user_specified_image: image.to_owned(),
                ..ImageSpec::default()
            }),
            log_path: format!("{name}_0.log"),
            linux: Some(LinuxContainerConfig {
                resources: Some(LinuxContainerResources::default()),
                security_context: Some(LinuxContainerSecurityContext::default()),
            }),
            ..ContainerConfig::default()
        })
    }

    /// `/bin/sh -c script`.
    #[must_use]
    pub fn sh(self, script: &str) -> Self {
        self.command(&["/bin/sh", "-c", script])
    }

    /// Runs until it is told to end, which it does at once.
    #[must_use]
    pub fn waits(self) -> Self {
        self.sh("trap 'exit 0' TERM USR2; while :; do sleep 0.05; done")
    }

    /// Takes input, until its first client that gives some has ended (`once`), or for ever.
    #[must_use]
    pub fn stdin(mut self, once: bool) -> Self {
        (self.0.stdin, self.0.stdin_once) = (true, once);
        self
    }

    #[must_use]
    pub fn command(mut self, command: &[&str]) -> Self {
        self.0.command = words(command);
        self
    }

    #[must_use]
    pub fn args(mut self, args: &[&str]) -> Self {
        self.0.args = words(args);
        self
    }

    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.0.envs.push(KeyValue { key: key.to_owned(), value: value.as_ref().to_vec() });
        self
    }

    #[must_use]
    pub fn mount(mut self, mount: Mount) -> Self {
        self.0.mounts.push(mount);
        self
    }

    /// A bind mount of a directory of the host.
    #[must_use]
    pub fn bind(self, host: &Path, container: &str) -> Self {
        self.mount(Mount {
            host_path: host.to_string_lossy().into_owned(),
            container_path: container.to_owned(),
            ..Mount::default()
        })
    }

    #[must_use]
    pub fn with_security(mut self, change: impl FnOnce(&mut LinuxContainerSecurityContext)) -> Self {
        change(self.0.linux.get_or_insert_default().security_context.get_or_insert_default());
        self
    }

    #[must_use]
    pub fn with_resources(mut self, change: impl FnOnce(&mut LinuxContainerResources)) -> Self {
        change(self.0.linux.get_or_insert_default().resources.get_or_insert_default());
        self
    }

    #[must_use]
    pub fn pid(self, mode: NamespaceMode) -> Self {
        self.with_security(|security| security.namespace_options.get_or_insert_default().pid = mode.into())
    }

    #[must_use]
    pub fn run_as(self, uid: i64, gid: i64) -> Self {
        use sandboxd_api::cri::Int64Value;
        self.with_security(|security| {
            security.run_as_user = Some(Int64Value { value: uid });
            security.run_as_group = Some(Int64Value { value: gid });
        })
    }

    /// Anything else.
    #[must_use]
    pub fn with(mut self, change: impl FnOnce(&mut ContainerConfig)) -> Self {
        change(&mut self.0);
        self
    }

    /// As kubelet fills it in: namespaces as the pod's, unless the request has its own.
    fn for_pod(mut self, pod: &PodSandboxConfig) -> ContainerConfig {
        let of_pod = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
        let of_pod = of_pod.and_then(|security| security.namespace_options.clone()).unwrap_or_default();
        let context = self.0.linux.get_or_insert_default().security_context.get_or_insert_default();
        let own = context.namespace_options.take();
        let (pid, target_id) = own.map_or((of_pod.pid, String::new()), |own| (own.pid, own.target_id));
        context.namespace_options = Some(NamespaceOption { pid, target_id, ..of_pod });
        // Kubelet gives a container's mounts the mappings of its pod.
        if let Some(userns) = of_pod_userns(pod) {
            for mount in &mut self.0.mounts {
                if mount.uid_mappings.is_empty() && !mount.host_path.is_empty() {
                    mount.uid_mappings.clone_from(&userns.uids);
                    mount.gid_mappings.clone_from(&userns.gids);
                }
            }
        }
        self.0
    }
}

fn of_pod_userns(pod: &PodSandboxConfig) -> Option<sandboxd_api::cri::UserNamespace> {
    let security = pod.linux.as_ref()?.security_context.as_ref()?;
    let userns = security.namespace_options.as_ref()?.userns_options.clone()?;
    (userns.mode() == NamespaceMode::Pod && !userns.uids.is_empty()).then_some(userns)
}
