//! What containers and pods use: read when it is asked for, nothing polls.
//!
//! ```text
//!   cri ──▶ Stats ──▶ Cgroups::usage          CPU, memory, processes, I/O, pressure
//!             │ ──▶ network::interfaces       through the pin of the pod's network namespace
//!             │ ──▶ processes::of             descriptors, sockets: for the metrics alone
//!             ├── Rates                       the sample before: a rate needs two
//!             └── Layers                      sizes of upper directories, counted in the background
//! ```

mod layers;
mod network;
mod processes;
mod rates;
mod usage_of;

use std::path::PathBuf;
use std::sync::Arc;

use crate::cgroup::{Cgroups, Usage};
use crate::container::model::{Container, ContainerState};
use crate::pod::model::{Pod, PodState};
use crate::pod::now_ns;

pub use layers::{Layer, Space};
pub use network::Interface;
pub use processes::Processes;

use layers::Layers;
use rates::Rates;

/// What this room asks of the container room.
pub trait Containers: Send + Sync + std::fmt::Debug + 'static {
    /// All of the node, oldest first.
    fn list(&self) -> Vec<Arc<Container>>;
    /// The directory that holds what a container has written; `None`: it has none.
    fn upper(&self, container: &Container) -> Option<PathBuf>;
    /// The directory that holds those of all containers.
    fn root(&self) -> PathBuf;
}

/// What a container uses.
#[derive(Debug, Clone)]
pub struct ContainerFigures {
    pub container: Arc<Container>,
    /// Nanoseconds since the Unix epoch.
    pub at_ns: i64,
    /// `None`: it has ended.
    pub usage: Option<Usage>,
    /// CPU time per second.
    pub nano_cores: Option<u64>,
    /// `None`: not counted yet.
    pub layer: Option<Layer>,
    /// The directory that holds all containers' layers.
    pub layers_root: PathBuf,
    /// The file system that holds it.
    pub space: Option<Space>,
}

/// What a pod uses.
#[derive(Debug, Clone)]
pub struct PodFigures {
    pub pod: Arc<Pod>,
    pub at_ns: i64,
    pub usage: Option<Usage>,
    pub nano_cores: Option<u64>,
    /// None on the host's network.
    pub interfaces: Vec<Interface>,
    pub containers: Vec<ContainerFigures>,
}

/// Reads figures. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stats {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cgroups: Cgroups,
    containers: Arc<dyn Containers>,
    rates: Rates,
    layers: Arc<Layers>,
}

impl Stats {
    #[must_use]
    pub fn new(cgroups: Cgroups, containers: Arc<dyn Containers>) -> Self {
        let (rates, layers) = (Rates::default(), Arc::default());
        Self { inner: Arc::new(Inner { cgroups, containers, rates, layers }) }
    }

    /// The containers of the node.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Container>> {
        self.inner.containers.list()
    }

    /// What these containers use, in their order.
    pub async fn containers(&self, of: Vec<Arc<Container>>) -> Vec<ContainerFigures> {
        let inner = Arc::clone(&self.inner);
        inner.layers.refresh(inner.uppers(&of)).await;
        blocking(move || of.into_iter().map(|container| inner.container(container)).collect()).await
    }

    /// What these pods and their containers use, in their order. `all_pods` of the node: a cgroup
    /// that several share is the usage of none of them.
    pub async fn pods(&self, of: Vec<Arc<Pod>>, all_pods: Vec<Arc<Pod>>) -> Vec<PodFigures> {
        let inner = Arc::clone(&self.inner);
        let mut all = inner.containers.list();
        all.retain(|container| of.iter().any(|pod| pod.id == container.pod));
        inner.layers.refresh(inner.uppers(&all)).await;
        blocking(move || {
            let interfaces = network::interfaces(&of);
            let pods = of.into_iter().zip(interfaces);
            pods.map(|(pod, interfaces)| {
                let mine = all.iter().filter(|container| container.pod == pod.id);
                let containers = mine.map(|container| inner.container(Arc::clone(container))).collect();
                inner.pod(pod, &all_pods, interfaces, containers)
            })
            .collect()
        })
        .await
    }

    /// Descriptors, sockets and threads of a container's processes.
    pub async fn processes(&self, of: Vec<Arc<Container>>) -> Vec<Option<Processes>> {
        let inner = Arc::clone(&self.inner);
        let running = |container: &Container| container.state == ContainerState::Running;
        blocking(move || {
            let all =
                of.iter().map(|c| running(c).then(|| processes::of(&inner.cgroups, &c.cgroup)).flatten());
            all.collect()
        })
        .await
    }
}

impl Inner {
    fn uppers(&self, of: &[Arc<Container>]) -> Vec<(Arc<Container>, PathBuf)> {
        of.iter().filter_map(|c| Some((Arc::clone(c), self.containers.upper(c)?))).collect()
    }

    fn container(&self, container: Arc<Container>) -> ContainerFigures {
        let usage = match container.state {
            ContainerState::Created | ContainerState::Running => self.cgroups.usage(&container.cgroup),
            ContainerState::Exited | ContainerState::Unknown => None,
        };
        let at_ns = now_ns();
        let begun_ns = container.started_at_ns.unwrap_or(container.created_at_ns);
        let cpu = usage.as_ref().and_then(|usage| usage.cpu);
        ContainerFigures {
            at_ns,
            nano_cores: cpu.map(|cpu| self.rates.rate(container.id.as_str(), begun_ns, at_ns, cpu.total)),
            usage,
            layer: self.layers.get(&container.id),
            layers_root: self.containers.root(),
            // A container that is being removed has none.
            space: self.containers.upper(&container).and_then(|upper| Space::of(&upper).ok()),
            container,
        }
    }

    fn pod(
        &self,
        pod: Arc<Pod>,
        all: &[Arc<Pod>],
        interfaces: Vec<Interface>,
        containers: Vec<ContainerFigures>,
    ) -> PodFigures {
        let usage = match pod.state {
            PodState::Ready | PodState::Stopping => usage_of::pod(&self.cgroups, &pod, all, &containers),
            PodState::Creating | PodState::NotReady | PodState::Failed => None,
        };
        let at_ns = now_ns();
        let cpu = usage.as_ref().and_then(|usage| usage.cpu);
        PodFigures {
            at_ns,
            nano_cores: cpu.map(|cpu| self.rates.rate(pod.id.as_str(), pod.created_at_ns, at_ns, cpu.total)),
            usage,
            interfaces,
            containers,
            pod,
        }
    }
}

/// Runs what reads many files off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}
