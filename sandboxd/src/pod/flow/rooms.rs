//! The flow's side effects, made for real by the rooms below it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Effects;
use super::configured::PodFiles;
use super::effects::Cgroup;
use crate::cgroup::{CgroupError, Cgroups};
use crate::journal::{Journal, JournalError};
use crate::network::dns::HOST_RESOLV_CONF;
use crate::network::{Attached, Lease, Network, NetworkError, dns, loopback_up};
use crate::observer::{Attribution, Explanation, Observer, PodKeys};
use crate::pod::error::PodError;
use crate::pod::model::{NamespaceInfo, NsKind, Pod, PodId, StepName};
use crate::pod::spec::{NetworkMode, Resources};
use crate::runtime::namespaces::{self, HostInodes};

/// How long the flow waits for the observer to report the check behind a failed mount: the event is in
/// the ring buffer before the system call returns, only its reader may be behind.
const EXPLAIN_PATIENCE: Duration = Duration::from_millis(200);

/// The rooms the flow goes down to.
#[derive(Debug)]
pub struct Rooms {
    pub journal: Arc<Journal>,
    pub network: Arc<Network>,
    pub cgroups: Cgroups,
    pub observer: Observer,
    pub attribution: Arc<Attribution>,
    /// The host's own namespaces, to tell shared ones from the pod's.
    pub host: HostInodes,
    pub defaults: PodDefaults,
}

/// What every pod with a network of its own gets, unless it asks for something else. As in containerd 2.
#[derive(Debug, Clone, Copy, Default)]
pub struct PodDefaults {
    /// Ports below 1024 without CAP_NET_BIND_SERVICE.
    pub unprivileged_ports: bool,
    /// ICMP echo sockets without CAP_NET_RAW.
    pub unprivileged_icmp: bool,
}

fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> PodError {
    let action = action.into();
    move |source| PodError::Io { action, source }
}

#[tonic::async_trait]
impl Effects for Rooms {
    fn dir(&self, id: &PodId) -> PathBuf {
        self.journal.dir(id)
    }

    fn journal_begin(&self, pod: &Pod) -> Result<(), JournalError> {
        self.journal.begin(pod)
    }

    fn journal(&self, pod: &Pod, step: StepName) -> Result<(), JournalError> {
        self.journal.write(pod, step)
    }

    fn journal_remove(&self, id: &PodId) -> Result<(), JournalError> {
        self.journal.remove(id)
    }

    fn write_files(&self, pod: &Pod) -> Result<PodFiles, PodError> {
        let dir = self.journal.dir(&pod.id);
        let hostname = hostname(pod)?;
        let resolv_conf =
            dns::resolv_conf(&pod.spec.dns, Path::new(HOST_RESOLV_CONF)).map_err(PodError::Network)?;
        let line = format!("{hostname}\n");
        for (name, content) in [("resolv.conf", resolv_conf.as_slice()), ("hostname", line.as_bytes())] {
            let path = dir.join(name);
            // For everybody in the pod's containers, whatever umask the daemon has.
            fs::write(&path, content)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o644)))
                .map_err(io_error(format!("writing {}", path.display())))?;
        }
        let made_log_directory = match &pod.spec.log_directory {
            Some(path) if !path.exists() => {
                DirBuilder::new()
                    .recursive(true)
                    .mode(0o755)
                    .create(path)
                    .map_err(io_error(format!("making log_directory {}", path.display())))?;
                Some(path.clone())
            }
            Some(path) if !path.is_dir() => {
                return Err(io_error(format!("using log_directory {}", path.display()))(
                    io::ErrorKind::NotADirectory.into(),
                ));
            }
            _ => None,
        };
        Ok(PodFiles { resolv_conf, hostname, made_log_directory })
    }

    fn default_sysctls(&self, pod: &Pod) -> BTreeMap<String, String> {
        let mut sysctls = BTreeMap::new();
        if pod.spec.namespaces.network == NetworkMode::Node {
            return sysctls;
        }
        if self.defaults.unprivileged_ports {
            sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
        }
        if self.defaults.unprivileged_icmp {
            // Both ends must be mapped, or the write fails (containerd 8779).
            let last = match &pod.spec.namespaces.user {
                None => i32::MAX.cast_unsigned(),
                Some(maps) => maps.gids.iter().map(|m| m.container_id + (m.length - 1)).max().unwrap_or(0),
            };
            let last = last.min(i32::MAX.cast_unsigned());
            sysctls.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
        }
        sysctls
    }

    fn plan_cgroup(&self, pod: &Pod) -> Result<String, CgroupError> {
        Ok(self.cgroups.plan(&pod.spec.cgroup_parent, &pod.id)?.path().to_owned())
    }

    async fn create_cgroup(&self, pod: &Pod) -> Result<Arc<dyn Cgroup>, CgroupError> {
        let path = self.cgroups.plan(&pod.spec.cgroup_parent, &pod.id)?;
        let cgroups = self.cgroups.clone();
        let (resources, overhead) = (of_infra(&pod.spec.resources), pod.spec.overhead.clone());
        let made = blocking(move || cgroups.create(&path, &resources, &overhead)).await?;
        Ok(Arc::new(made))
    }

    async fn update_cgroup(&self, pod: &Pod) -> Result<(), CgroupError> {
        let path = self.cgroups.plan(&pod.spec.cgroup_parent, &pod.id)?;
        let cgroups = self.cgroups.clone();
        let (resources, overhead) = (of_infra(&pod.spec.resources), pod.spec.overhead.clone());
        blocking(move || cgroups.update(&path, &resources, &overhead)).await
    }

    async fn remove_cgroup(&self, pod: &Pod) -> Result<(), CgroupError> {
        let path = self.cgroups.plan(&pod.spec.cgroup_parent, &pod.id)?;
        let cgroups = self.cgroups.clone();
        blocking(move || cgroups.remove(&path)).await
    }

    async fn end_processes(&self, pod: &Pod) -> Result<(), CgroupError> {
        let path = self.cgroups.plan(&pod.spec.cgroup_parent, &pod.id)?;
        let cgroups = self.cgroups.clone();
        blocking(move || cgroups.kill(&path)).await
    }

    async fn make_netns(&self) -> Result<OwnedFd, PodError> {
        blocking(namespaces::new_netns)
            .await
            .map_err(|source| PodError::Runtime { action: "making the pod's network namespace", source })
    }

    fn identify(&self, kind: NsKind, fd: BorrowedFd<'_>) -> Result<NamespaceInfo, PodError> {
        let asking = |source| PodError::Runtime { action: "asking who owns the pod's namespaces", source };
        let inode = namespaces::inode(fd).map_err(asking)?;
        let owner = if kind == NsKind::User { namespaces::parent(fd) } else { namespaces::owner(fd) };
        let owner = owner.map_err(asking)?.map(|fd| namespaces::inode(fd.as_fd())).transpose();
        let owner = owner.map_err(asking)?;
        Ok(NamespaceInfo { kind, inode, owner, host: self.host.is(kind, inode), pin: None })
    }

    fn pin(&self, fd: BorrowedFd<'_>, path: &Path) -> Result<(), PodError> {
        if let Some(dir) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .map_err(io_error(format!("making {}", dir.display())))?;
        }
        namespaces::pin(fd, path)
            .map_err(|source| PodError::Runtime { action: "pinning the pod's namespaces", source })
    }

    fn is_pinned(&self, path: &Path) -> bool {
        namespaces::is_pinned(path)
    }

    fn unpin(&self, path: &Path) -> Result<(), PodError> {
        namespaces::unpin(path)
            .map_err(|source| PodError::Runtime { action: "unpinning the pod's namespaces", source })
    }

    async fn lease(&self, pod: &Pod) -> Result<Lease, NetworkError> {
        self.network.prepare(&pod.id, &pod.spec).await
    }

    async fn loopback_up(&self, netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
        let netns = netns.try_clone_to_owned().map_err(|source| NetworkError::Io {
            action: "hold",
            path: PathBuf::from("the pod's network namespace"),
            source,
        })?;
        blocking(move || loopback_up(netns.as_fd())).await
    }

    async fn cni_add(&self, lease: &Lease, netns: &Path) -> Result<Attached, NetworkError> {
        self.network.add(lease, netns).await
    }

    async fn cni_del(&self, id: &PodId, netns: Option<&Path>) -> Result<(), NetworkError> {
        self.network.del(id, netns).await
    }

    async fn end_orphans(&self, id: &PodId) {
        self.network.end_orphans(id).await;
    }

    fn observe(&self, pod: &Pod) {
        self.attribution.upsert(PodKeys::of(pod));
    }

    fn forget(&self, id: &PodId) {
        self.attribution.remove(id);
    }

    async fn explain(&self, _: &Pod, pid: i32, since_ns: i64) -> Option<Explanation> {
        let seen = self.observer.explain_failure(pid, since_ns, EXPLAIN_PATIENCE).await;
        seen.map(|(_, explanation)| explanation)
    }
}

/// The pod's limits, as far as its infra container has them. Not those of CPU time: it only waits, and cgroup v1 lets
/// the pod's cgroup, which is kubelet's and bounds all of the pod, have no less than one inside it.
fn of_infra(resources: &Resources) -> Resources {
    Resources { cpu_quota: None, cpu_period: None, ..resources.clone() }
}

/// The name the pod's UTS namespace gets; pods on the host's network keep the host's where none is asked.
fn hostname(pod: &Pod) -> Result<String, PodError> {
    if !pod.spec.hostname.is_empty() {
        return Ok(pod.spec.hostname.clone());
    }
    if pod.spec.namespaces.network == NetworkMode::Node {
        let name = nix::unistd::gethostname().map_err(|e| io_error("reading the host's name")(e.into()))?;
        return Ok(name.to_string_lossy().into_owned());
    }
    // HOST_NAME_MAX; kubelet itself cuts names the same way.
    let name = &pod.spec.metadata.name;
    Ok(name.chars().take(63).collect::<String>().trim_end_matches(['-', '.']).to_owned())
}

/// Runs what may wait on the kernel off the async threads.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}
