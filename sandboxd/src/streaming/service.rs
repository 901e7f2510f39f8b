//! The room: hands out URLs, and is the backend of the server that serves them.

use std::sync::Arc;

use sandboxd_streaming::{
    Backend, BackendError, Connection, Server, ServerError, Session, Settings, Target, Urls, Wanted,
};
use tokio_util::sync::CancellationToken;

use super::connect::{connect, namespace};
use super::{StreamingError, Targets, attach, exec};

/// Answers the rpcs Exec, Attach and PortForward.
#[derive(Debug, Clone)]
pub struct Streaming {
    targets: Arc<dyn Targets>,
    urls: Arc<Urls>,
}

/// The server, not yet serving.
#[derive(Debug)]
pub struct Served(Server);

impl Served {
    /// Serves until `closing`.
    pub async fn run(self, closing: CancellationToken) {
        self.0.run(closing).await;
    }
}

impl Streaming {
    /// Listens; clients wait until [`Served::run`].
    ///
    /// # Errors
    /// When the address cannot be had, or a certificate is unusable.
    pub async fn listen(
        settings: Settings,
        targets: Arc<dyn Targets>,
    ) -> Result<(Self, Served), ServerError> {
        let server = Server::bind(settings, Arc::new(Rooms { targets: Arc::clone(&targets) })).await?;
        if let Ok(address) = server.address() {
            tracing::info!(%address, "streams are served");
        }
        Ok((Self { targets, urls: server.urls() }, Served(server)))
    }

    /// A URL for a command in a running container.
    ///
    /// # Errors
    /// When the container does not run, or too many URLs are out.
    pub fn exec(&self, id: &str, command: Vec<String>, wanted: Wanted) -> Result<String, StreamingError> {
        let (container, _) = self.targets.task(id)?;
        let container = container.id.to_string();
        Ok(self.urls.url_for(Target::Exec { container, command, wanted })?)
    }

    /// A URL for the streams of a running container.
    ///
    /// # Errors
    /// As [`Streaming::exec`].
    pub fn attach(&self, id: &str, wanted: Wanted) -> Result<String, StreamingError> {
        let (container, _) = self.targets.task(id)?;
        Ok(self.urls.url_for(Target::Attach { container: container.id.to_string(), wanted })?)
    }

    /// A URL for ports of a pod: any, when none is named.
    ///
    /// # Errors
    /// When the pod is not ready, or too many URLs are out.
    pub fn port_forward(&self, id: &str, ports: Vec<u16>) -> Result<String, StreamingError> {
        let pod = self.targets.pod(id)?;
        namespace(&pod)?;
        Ok(self.urls.url_for(Target::PortForward { pod: pod.id.to_string(), ports })?)
    }
}

/// What sessions are connected to.
#[derive(Debug)]
struct Rooms {
    targets: Arc<dyn Targets>,
}

#[tonic::async_trait]
impl Backend for Rooms {
    async fn exec(
        &self,
        container: &str,
        command: &[String],
        wanted: Wanted,
    ) -> Result<Session, BackendError> {
        Ok(exec::exec(&*self.targets, container, command, wanted).await?)
    }

    async fn attach(&self, container: &str, wanted: Wanted) -> Result<Session, BackendError> {
        Ok(attach::attach(&*self.targets, container, wanted).await?)
    }

    async fn connect(&self, pod: &str, port: u16) -> Result<Box<dyn Connection>, BackendError> {
        let pod = self.targets.pod(pod)?;
        Ok(Box::new(connect(&pod, port).await?))
    }
}
