//! A recording fake for everything outside of the flow.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::super::configured::PodFiles;
use super::super::effects::Cgroup;
use super::super::{Effects, FlowKind, NsKind, Pod, PodError, Runtime, StepName};
use crate::cgroup::CgroupError;
use crate::container::model::ContainerId;
use crate::journal::JournalError;
use crate::network::{Attached, Lease, NetworkError};
use crate::observer::Explanation;
use crate::pod::PodHandler;
use crate::pod::model::{NamespaceInfo, NsInode, PodId, Sysfs};
use crate::pod::pods::Pods;
use crate::runtime::task::{Adopted, Task, TaskPlan};
use crate::runtime::{Exit, HandlerFeatures, Infra, InfraPlan, NetworkPlan, RuntimeError};

/// Writes down what is asked of it, and fails where it is told to.
#[derive(Debug, Default)]
pub(super) struct Recorder {
    pub(super) log: Mutex<Vec<String>>,
    /// The call to fail at, by its line in the log.
    pub(super) fail: Mutex<Option<&'static str>>,
    /// A second one: an undo.
    pub(super) fail_undo: Option<&'static str>,
    /// The netns of the runtime is not the pod userns' own.
    pub(super) foreign_netns: bool,
    pub(super) end: tokio::sync::Notify,
    /// CNI ADD waits for `proceed`.
    pub(super) slow_add: bool,
    pub(super) proceed: tokio::sync::Notify,
}

impl Recorder {
    fn call(&self, line: &str) -> io::Result<()> {
        self.log.lock().unwrap().push(line.to_owned());
        if *self.fail.lock().unwrap() == Some(line) || self.fail_undo == Some(line) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(())
    }

    pub(super) fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

#[derive(Debug, Clone)]
pub(super) struct Fake(pub(super) Arc<Recorder>);

fn journal_error(source: io::Error) -> JournalError {
    JournalError::Io { action: "write", path: PathBuf::from("pod.json"), source }
}

fn network_error(source: io::Error) -> NetworkError {
    NetworkError::Io { action: "run", path: PathBuf::from("bridge"), source }
}

fn cgroup_error(source: io::Error) -> CgroupError {
    CgroupError::Io { action: "make", path: PathBuf::from("/pod"), source }
}

#[tonic::async_trait]
impl Effects for Fake {
    fn dir(&self, id: &PodId) -> PathBuf {
        Path::new("/state/pods").join(id.as_str())
    }
    fn journal_begin(&self, _: &Pod) -> Result<(), JournalError> {
        self.0.call("journal begin").map_err(journal_error)
    }
    fn journal(&self, _: &Pod, step: StepName) -> Result<(), JournalError> {
        self.0.call(&format!("journal {}", step.name())).map_err(journal_error)
    }
    fn journal_remove(&self, _: &PodId) -> Result<(), JournalError> {
        self.0.call("journal remove").map_err(journal_error)
    }
    fn write_files(&self, _: &Pod) -> Result<PodFiles, PodError> {
        let made = self.0.call("files");
        made.map_err(|source| PodError::Io { action: "write".into(), source })?;
        Ok(PodFiles::default())
    }
    fn default_sysctls(&self, _: &Pod) -> std::collections::BTreeMap<String, String> {
        [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into()
    }
    fn plan_cgroup(&self, pod: &Pod) -> Result<String, CgroupError> {
        Ok(format!("/sandboxd/{}", pod.id))
    }
    async fn create_cgroup(&self, _: &Pod) -> Result<Arc<dyn Cgroup>, CgroupError> {
        self.0.call("cgroup create").map_err(cgroup_error)?;
        Ok(Arc::new(self.clone()))
    }
    async fn update_cgroup(&self, _: &Pod) -> Result<(), CgroupError> {
        self.0.call("cgroup update").map_err(cgroup_error)
    }
    async fn remove_cgroup(&self, _: &Pod) -> Result<(), CgroupError> {
        self.0.call("cgroup remove").map_err(cgroup_error)
    }
    async fn end_processes(&self, _: &Pod) -> Result<(), CgroupError> {
        self.0.call("cgroup kill").map_err(cgroup_error)
    }
    async fn make_netns(&self) -> Result<OwnedFd, PodError> {
        let made = self.0.call("make netns");
        made.map_err(|source| PodError::Io { action: "make".into(), source })?;
        Ok(some_fd())
    }
    fn identify(&self, kind: NsKind, _: BorrowedFd<'_>) -> Result<NamespaceInfo, PodError> {
        let inode = NsInode(if kind == NsKind::User { 7 } else { 8 });
        let owner = Some(NsInode(if self.0.foreign_netns && kind == NsKind::Net { 1 } else { 7 }));
        Ok(NamespaceInfo { kind, inode, owner, host: false, pin: None })
    }
    fn pin(&self, _: BorrowedFd<'_>, path: &Path) -> Result<(), PodError> {
        let made = self.0.call(&format!("pin {}", name(path)));
        made.map_err(|source| PodError::Io { action: "pin".into(), source })
    }
    fn is_pinned(&self, _: &Path) -> bool {
        true
    }
    fn unpin(&self, path: &Path) -> Result<(), PodError> {
        let made = self.0.call(&format!("unpin {}", name(path)));
        made.map_err(|source| PodError::Io { action: "unpin".into(), source })
    }
    async fn lease(&self, _: &Pod) -> Result<Lease, NetworkError> {
        Ok(some_lease())
    }
    async fn loopback_up(&self, _: BorrowedFd<'_>) -> Result<(), NetworkError> {
        self.0.call("lo up").map_err(network_error)
    }
    async fn cni_add(&self, _: &Lease, netns: &Path) -> Result<Attached, NetworkError> {
        assert!(netns.ends_with("ns/net"));
        self.0.call("CNI ADD").map_err(network_error)?;
        if self.0.slow_add {
            self.0.proceed.notified().await;
        }
        Ok(Attached { ips: vec![[10, 0, 0, 2].into()], cni: Duration::from_millis(1) })
    }
    async fn cni_del(&self, _: &PodId, _: Option<&Path>) -> Result<(), NetworkError> {
        self.0.call("CNI DEL").map_err(network_error)
    }
    async fn end_orphans(&self, _: &PodId) {}
    fn observe(&self, _: &Pod) {}
    fn forget(&self, _: &PodId) {}
    async fn explain(&self, _: &Pod, pid: i32, _: i64) -> Option<Explanation> {
        assert_eq!(pid, 43);
        Some(Explanation { headline: "The netns is the host's.".into(), ..Explanation::default() })
    }
}

impl Cgroup for Fake {
    fn fill(&self, pid: i32) -> Result<(), CgroupError> {
        assert_eq!(pid, 42);
        self.0.call("cgroup fill").map_err(cgroup_error)
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn some_lease() -> Lease {
    let network = serde_json::json!({
        "name": "net", "version": "1.0.0", "versions": ["1.0.0"], "disable_check": false, "disable_gc": false,
        "plugins": [], "source": "/etc/cni/net.d/10-net.conflist",
    });
    let lease = serde_json::json!({"pod": "p", "network": network, "args": "", "capabilities": {}});
    serde_json::from_value(lease).unwrap()
}

fn some_fd() -> OwnedFd {
    std::fs::File::open("/dev/null").unwrap().into()
}

#[tonic::async_trait]
impl Runtime for Fake {
    async fn create(
        &self,
        plan: &InfraPlan,
        _: &(dyn Fn(i32) + Send + Sync),
    ) -> Result<Arc<dyn Infra>, RuntimeError> {
        let network = match plan.network {
            NetworkPlan::New => "new netns",
            NetworkPlan::Host => "host netns",
            NetworkPlan::Join(_) => "joined netns",
        };
        let made = self.0.call(&format!("create with {network}"));
        made.map_err(|source| RuntimeError::InPod { step: "mount sysfs on /sys".into(), pid: 43, source })?;
        Ok(Arc::new(FakeInfra(self.clone(), some_fd())))
    }
    async fn adopt(&self, _: &PodId, _: &Path) -> Result<Arc<dyn Infra>, RuntimeError> {
        Ok(Arc::new(FakeInfra(self.clone(), some_fd())))
    }
    fn features(&self) -> HandlerFeatures {
        HandlerFeatures::default()
    }
}

#[derive(Debug)]
struct FakeInfra(Fake, OwnedFd);

#[tonic::async_trait]
impl Infra for FakeInfra {
    fn shim_pid(&self) -> i32 {
        41
    }
    fn infra_pid(&self) -> i32 {
        42
    }
    fn pidfd(&self) -> BorrowedFd<'_> {
        self.1.as_fd()
    }
    fn sysfs(&self) -> Sysfs {
        Sysfs::Mounted
    }
    fn namespace(&self, _: NsKind) -> Result<OwnedFd, RuntimeError> {
        Ok(some_fd())
    }
    async fn start(&self) -> Result<(), RuntimeError> {
        let made = self.0.0.call("start");
        made.map_err(|source| RuntimeError::Io { action: "start".into(), source })
    }
    async fn kill(&self) -> Result<(), RuntimeError> {
        let made = self.0.0.call("kill");
        made.map_err(|source| RuntimeError::Io { action: "kill".into(), source })
    }
    async fn wait(&self) -> Exit {
        self.0.0.end.notified().await;
        Exit::Signal(9)
    }
    async fn create_container(&self, _: TaskPlan) -> Result<Arc<dyn Task>, RuntimeError> {
        Err(RuntimeError::Unsupported { what: "the fake makes no containers".into() })
    }
    async fn adopt_container(&self, _: &ContainerId) -> Result<Option<Adopted>, RuntimeError> {
        Ok(None)
    }
}

pub(super) fn pods(flow: FlowKind, recorder: Recorder) -> (Arc<Pods>, Arc<Recorder>) {
    let fake = Fake(Arc::new(recorder));
    let handler = PodHandler { runtime: Arc::new(fake.clone()), flow };
    (
        Pods::new(
            [("native".to_owned(), handler)].into(),
            std::collections::BTreeMap::new(),
            Arc::new(fake.clone()),
        ),
        fake.0,
    )
}
