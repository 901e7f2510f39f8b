//! The order of side effects and of each undo, with a recording fake for everything outside.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::configured::PodFiles;
use super::effects::Cgroup;
use super::*;
use crate::cgroup::CgroupError;
use crate::journal::JournalError;
use crate::network::{Attached, Lease, NetworkError};
use crate::observer::Explanation;
use crate::pod::PodHandler;
use crate::pod::model::{NamespaceInfo, NsInode, PodId, Sysfs, test_pod};
use crate::pod::pods::Pods;
use crate::pod::spec::NetworkMode;
use crate::runtime::{Exit, HandlerFeatures, Infra, InfraPlan, NetworkPlan, RuntimeError};

/// Writes down what is asked of it, and fails where it is told to.
#[derive(Debug, Default)]
struct Recorder {
    log: Mutex<Vec<String>>,
    /// The call to fail at, by its line in the log.
    fail: Mutex<Option<&'static str>>,
    /// A second one: an undo.
    fail_undo: Option<&'static str>,
    /// The netns of the runtime is not the pod userns' own.
    foreign_netns: bool,
    end: tokio::sync::Notify,
    /// CNI ADD waits for `proceed`.
    slow_add: bool,
    proceed: tokio::sync::Notify,
}

impl Recorder {
    fn call(&self, line: &str) -> io::Result<()> {
        self.log.lock().unwrap().push(line.to_owned());
        if *self.fail.lock().unwrap() == Some(line) || self.fail_undo == Some(line) {
            return Err(io::Error::from_raw_os_error(libc::EPERM));
        }
        Ok(())
    }

    fn lines(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap())
    }
}

#[derive(Debug, Clone)]
struct Fake(Arc<Recorder>);

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
}

fn pods(flow: FlowKind, recorder: Recorder) -> (Arc<Pods>, Arc<Recorder>) {
    let fake = Fake(Arc::new(recorder));
    let handler = PodHandler { runtime: Arc::new(fake.clone()), flow };
    (Pods::new([("native".to_owned(), handler)].into(), Arc::new(fake.clone())), fake.0)
}

const MADE: [&str; 14] = [
    "journal begin",
    "journal Configured",
    "files",
    "cgroup create",
    "journal Created",
    "create with new netns",
    "pin user",
    "pin net",
    "journal Networked",
    "lo up",
    "CNI ADD",
    "journal Started",
    "start",
    "journal Ready",
];

/// The undo of each effect, in the order in which undos come.
fn expected_undo(failed_at: &str) -> Vec<&'static str> {
    let at = MADE.iter().position(|l| *l == failed_at).expect("a line of the flow");
    let reached = |line: &str| MADE.iter().position(|l| *l == line).expect("a line") <= at;
    let mut undo = Vec::new();
    if reached("journal Networked") {
        undo.push("CNI DEL");
    }
    if reached("pin user") {
        undo.push("kill");
    }
    for (pin, unpin) in [("pin user", "unpin user"), ("pin net", "unpin net")] {
        // What failed to be pinned is not listed; what was pinned before it is.
        if reached(pin) && failed_at != pin {
            undo.push(unpin);
        }
    }
    // A lease written before the network was reached is given back with what was configured.
    if reached("files") && !reached("journal Networked") {
        undo.push("CNI DEL");
    }
    if reached("files") {
        undo.push("cgroup remove");
    }
    undo.push("journal remove");
    undo
}

#[tokio::test]
async fn the_runtime_makes_all_namespaces_before_cni() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    let mut lines = log.lines();
    // It runs beside CNI: anywhere between the namespaces and the start.
    let filled = lines.iter().position(|l| l == "cgroup fill").unwrap();
    assert!(
        lines[..filled].contains(&"pin net".to_owned()) && !lines[..filled].contains(&"start".to_owned())
    );
    lines.remove(filled);
    assert_eq!(lines, MADE);
    let pod = pods.find(id.as_str()).unwrap().unwrap();
    assert_eq!((pod.state, pod.ips.len(), pod.sysfs.clone()), (PodState::Ready, 1, Sysfs::Mounted));
    let steps: Vec<_> = pod.steps.iter().map(|s| s.name.name()).collect();
    assert_eq!(steps, ["Reserved", "Configured", "Created", "Networked", "Started", "Ready"]);
}

#[tokio::test]
async fn each_failure_is_undone_last_first() {
    for failed_at in MADE {
        let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
        *log.fail.lock().unwrap() = Some(failed_at);
        pods.run(test_pod("web").spec).await.unwrap_err();
        let lines: Vec<_> = log.lines().into_iter().filter(|l| l != "cgroup fill").collect();
        let at = lines.iter().position(|l| l == failed_at).unwrap();
        assert_eq!(lines[at + 1..], expected_undo(failed_at), "after {failed_at:?} failed");
        // The name is free again, and the record tells why.
        *log.fail.lock().unwrap() = None;
        let failed = pods.list();
        assert!(failed.iter().all(|p| p.state == PodState::Failed && p.error.is_some()));
        pods.run(test_pod("web").spec).await.unwrap();
    }
}

#[tokio::test]
async fn a_netns_of_another_owner_never_reaches_cni() {
    let recorder = Recorder { foreign_netns: true, ..Recorder::default() };
    let (pods, log) = pods(FlowKind::RuntimeFirst, recorder);
    let error = pods.run(test_pod("web").spec).await.unwrap_err();
    assert!(matches!(error, PodError::WrongOwner { owner: NsInode(1), userns: NsInode(7), .. }), "{error}");
    let lines = log.lines();
    assert!(!lines.iter().any(|l| l == "CNI ADD"));
    assert!(lines.iter().any(|l| l == "unpin net") && lines.iter().any(|l| l == "kill"));
}

#[tokio::test]
async fn network_first_fails_on_sysfs_and_gives_the_network_back() {
    let (pods, log) = pods(FlowKind::NetworkFirst, Recorder::default());
    *log.fail.lock().unwrap() = Some("create with joined netns");
    let error = pods.run(test_pod("web").spec).await.unwrap_err();
    let text = chain(&error);
    assert!(text.contains("The netns is the host's.") && text.contains("mount sysfs on /sys"), "{text}");
    let lines = log.lines();
    let at =
        |line: &str| lines.iter().position(|l| l == line).unwrap_or_else(|| panic!("{line} in {lines:?}"));
    assert!(at("CNI ADD") < at("create with joined netns"), "the old order");
    assert!(at("create with joined netns") < at("CNI DEL") && at("CNI DEL") < at("unpin net"));
    assert_eq!(lines.last().map(String::as_str), Some("journal remove"));
    assert_eq!(lines.iter().filter(|l| *l == "CNI DEL").count(), 1);
    assert_eq!(lines.iter().filter(|l| *l == "unpin net").count(), 1);
    let pod = &pods.list()[0];
    assert!(pod.explanation.is_some() && matches!(pod.sysfs, Sysfs::Denied(_)));
}

#[tokio::test]
async fn a_pod_on_the_hosts_network_has_no_cni() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let mut spec = test_pod("web").spec;
    spec.namespaces.network = NetworkMode::Node;
    spec.namespaces.user = None;
    pods.run(spec).await.unwrap();
    let lines = log.lines();
    assert!(
        lines.contains(&"create with host netns".to_owned()) && lines.contains(&"cgroup fill".to_owned())
    );
    assert!(!lines.iter().any(|l| l.contains("CNI") || l == "lo up"), "{lines:?}");
}

#[tokio::test]
async fn stop_and_remove_go_back_in_order_and_may_be_repeated() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    log.lines();
    *log.fail.lock().unwrap() = Some("CNI DEL");
    assert!(matches!(pods.stop(id.as_str()).await, Err(PodError::Teardown(_))));
    assert_eq!(pods.list()[0].state, PodState::NotReady);
    assert_eq!(log.lines(), ["kill", "CNI DEL", "journal Ready"], "pins stay for the next try");
    *log.fail.lock().unwrap() = None;
    pods.stop(id.as_str()).await.unwrap();
    let back = ["CNI DEL", "unpin user", "unpin net", "cgroup remove", "journal Ready"];
    assert_eq!(log.lines(), back);
    pods.stop(id.as_str()).await.unwrap();
    assert!(log.lines().is_empty(), "a second stop has nothing to do");
    pods.remove(id.as_str()).await.unwrap();
    assert_eq!(log.lines(), ["journal remove"]);
    assert!(pods.list().is_empty());
    pods.remove(id.as_str()).await.unwrap();
    pods.stop("unknown").await.unwrap();
    pods.run(test_pod("web").spec).await.unwrap();
}

#[tokio::test]
async fn an_infra_container_that_ends_makes_the_pod_not_ready() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let mut changes = pods.store().subscribe();
    let id = pods.run(test_pod("web").spec).await.unwrap();
    log.end.notify_one();
    loop {
        if let crate::pod::PodChange::Upsert(pod) = changes.recv().await.unwrap()
            && pod.state == PodState::NotReady
        {
            assert!(pod.error.as_deref().is_some_and(|e| e.contains("signal 9")), "{:?}", pod.error);
            break;
        }
    }
    pods.remove(id.as_str()).await.unwrap();
}

#[tokio::test]
async fn names_are_unique_and_unknown_handlers_are_refused() {
    let (pods, _log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let id = pods.run(test_pod("web").spec).await.unwrap();
    let again = pods.run(test_pod("web").spec).await.unwrap_err();
    assert!(matches!(again, PodError::NameReserved { by, .. } if by == id));
    let mut spec = test_pod("other").spec;
    spec.handler = "kata".into();
    let error = pods.run(spec).await.unwrap_err().to_string();
    assert!(error.contains("\"kata\"") && error.contains("native"), "{error}");
}

#[tokio::test]
async fn a_pod_on_its_way_is_waited_for_and_then_stopped() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder { slow_add: true, ..Recorder::default() });
    let mut changes = pods.store().subscribe();
    let run = tokio::spawn({
        let pods = Arc::clone(&pods);
        async move { pods.run(test_pod("web").spec).await }
    });
    let id = loop {
        if let crate::pod::PodChange::Upsert(pod) = changes.recv().await.unwrap()
            && pod.steps.iter().any(|s| s.name == StepName::Created)
        {
            break pod.id.clone();
        }
    };
    let early = tokio::time::timeout(Duration::from_millis(50), pods.stop(id.as_str())).await;
    assert!(early.is_err(), "not stopped while it is being made: {early:?}");
    let stop = tokio::spawn({
        let (pods, id) = (Arc::clone(&pods), id.clone());
        async move { pods.stop(id.as_str()).await }
    });
    tokio::task::yield_now().await;
    log.proceed.notify_one();
    assert_eq!(run.await.unwrap().unwrap(), id);
    stop.await.unwrap().unwrap();
    assert_eq!(pods.find(id.as_str()).unwrap().unwrap().state, PodState::NotReady);
    assert!(log.lines().iter().any(|l| l == "CNI DEL"));
}

#[tokio::test]
async fn an_adopted_pod_on_the_hosts_network_is_torn_down() {
    let (pods, log) = pods(FlowKind::RuntimeFirst, Recorder::default());
    let mut pod = test_pod("web");
    pod.spec.namespaces.network = NetworkMode::Node;
    pod.state = PodState::NotReady;
    pod.netns_path = None;
    let fake: Arc<dyn Effects> = Arc::new(Fake(Arc::clone(&log)));
    let base = Base {
        effects: fake,
        runtime: Arc::new(Fake(Arc::clone(&log))),
        store: Arc::clone(pods.store()),
        name: pods.store().reserve(&pod.spec.metadata, &pod.id).unwrap(),
        pod,
        unfinished: false,
    };
    Ready::adopted(base, None).remove().await.unwrap();
    let lines = log.lines();
    assert!(lines.iter().any(|l| l == "cgroup remove"), "{lines:?}");
}

#[tokio::test]
async fn what_could_not_be_undone_stays_in_the_journal() {
    for undo in ["kill", "cgroup remove"] {
        let fail = Mutex::new(Some("CNI ADD"));
        let recorder = Recorder { fail, fail_undo: Some(undo), ..Recorder::default() };
        let (pods, log) = pods(FlowKind::RuntimeFirst, recorder);
        pods.run(test_pod("web").spec).await.unwrap_err();
        let lines = log.lines();
        assert!(lines.iter().any(|l| l == undo), "{lines:?}");
        assert!(!lines.iter().any(|l| l == "journal remove"), "{undo}: {lines:?}");
    }
}

/// Neither the state NOTREADY nor a missing netns says that a pod of the node's network was given back.
#[tokio::test]
async fn a_pod_whose_infra_container_is_lost_is_given_back_processes_first() {
    let log = Arc::new(Recorder::default());
    let fake = Fake(Arc::clone(&log));
    let mut pod = test_pod("web");
    pod.spec.namespaces.network = NetworkMode::Node;
    pod.state = PodState::Ready;
    let store = Arc::<Store>::default();
    let name = store.reserve(&pod.spec.metadata, &pod.id).unwrap();
    let base = Base { effects: Arc::new(fake.clone()), runtime: Arc::new(fake), store, pod, name, unfinished: false };
    let mut ready = Ready::adopted(base, None);
    assert_eq!(ready.pod().state, PodState::NotReady);
    ready.stop().await.unwrap();
    assert_eq!(log.lines(), ["cgroup kill", "CNI DEL", "cgroup remove", "journal Ready"]);
    ready.stop().await.unwrap();
    assert_eq!(log.lines(), [""; 0]);
}
