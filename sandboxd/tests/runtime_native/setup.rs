//! A runtime, plans, and ways to look into a pod.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sandboxd::pod::model::{NsInode, NsKind, PodId};
use sandboxd::pod::spec::{
    Dns, IdMap, IdMappings, IpcMode, Metadata, Namespaces, NetworkMode, PidMode, PodSpec, Resources, Security,
};
use sandboxd::runtime::native::NativeRuntime;
use sandboxd::runtime::{Infra, InfraPlan, NetworkPlan, namespaces};
use std::os::fd::AsFd;

/// As kubelet chooses it without a subuid file: above i32.
pub const BASE: u32 = 4_221_435_904;
static COUNT: AtomicU32 = AtomicU32::new(0);

/// Skips a test that needs root, with words that the test runner looks for.
macro_rules! need_root {
    () => {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: not root: the native runtime makes namespaces and mounts");
            return;
        }
    };
}
pub(crate) use need_root;

/// The shim beside the tests: built by the workspace, or `cargo build -p sandboxd-shim`.
pub fn shim() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let shim = std::env::var_os("SANDBOXD_SHIM")
        .map_or_else(|| own.parent().unwrap().parent().unwrap().join("sandboxd-shim"), PathBuf::from);
    assert!(shim.is_file(), "{} is missing: cargo build -p sandboxd-shim", shim.display());
    shim
}

pub async fn runtime() -> NativeRuntime {
    NativeRuntime::new(Some(shim())).await.unwrap()
}

/// A plan with a directory of its own, which goes with it.
pub struct Planned {
    pub plan: InfraPlan,
    dir: Option<tempfile::TempDir>,
}

impl Planned {
    /// A userns pod as kubelet asks for it.
    pub fn userns() -> Self {
        let map = |host_id| vec![IdMap { container_id: 0, host_id, length: 65536 }];
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let base = BASE + count * 65536;
        Self::with(Some(IdMappings { uids: map(base), gids: map(base) }), NetworkPlan::New)
    }

    /// A pod without a user namespace.
    pub fn plain() -> Self {
        Self::with(None, NetworkPlan::New)
    }

    pub fn with(user: Option<IdMappings>, network: NetworkPlan) -> Self {
        let dir = tempfile::Builder::new().prefix("sandboxd-native-").tempdir().unwrap();
        let pod = PodId::random().unwrap();
        let mode = if matches!(network, NetworkPlan::Host) { NetworkMode::Node } else { NetworkMode::Pod };
        let spec = PodSpec {
            metadata: Metadata { name: "p".into(), uid: "u".into(), namespace: "n".into(), attempt: 0 },
            hostname: "pod-host".into(),
            log_directory: None,
            dns: Dns::default(),
            port_mappings: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            handler: "native".into(),
            runtime_handler: String::new(),
            cgroup_parent: String::new(),
            sysctls: BTreeMap::new(),
            resources: Resources::default(),
            overhead: Resources::default(),
            namespaces: Namespaces { network: mode, pid: PidMode::Pod, ipc: IpcMode::Pod, user },
            security: Security::default(),
        };
        let plan = InfraPlan {
            pod,
            spec,
            dir: dir.path().to_owned(),
            network,
            resolv_conf: b"nameserver 192.0.2.1\n".to_vec(),
            hostname: "pod-host".into(),
        };
        Self { plan, dir: Some(dir) }
    }

    /// In a directory of somebody else's.
    pub fn in_dir(mut self, dir: PathBuf) -> Self {
        self.plan.dir = dir;
        self.dir = None;
        self
    }

    pub fn base(&self) -> u32 {
        self.plan.spec.namespaces.user.as_ref().unwrap().host_root().0
    }
}

/// A made pod, looked at through /proc. Killed by `end`.
pub struct Pod {
    pub infra: Arc<dyn Infra>,
}

impl Pod {
    pub fn root(&self, path: &str) -> PathBuf {
        Path::new("/proc")
            .join(self.infra.infra_pid().to_string())
            .join("root")
            .join(path.trim_start_matches('/'))
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// A file of /proc/PID of the infra container.
    pub fn proc(&self, name: &str) -> String {
        fs::read_to_string(format!("/proc/{}/{name}", self.infra.infra_pid())).unwrap()
    }

    /// A line of /proc/PID/status.
    pub fn status(&self, key: &str) -> String {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(&format!("{key}:")));
        line.unwrap_or_else(|| panic!("no {key} in {status}")).trim().to_owned()
    }

    pub fn inode(&self, kind: NsKind) -> NsInode {
        namespaces::inode(self.infra.namespace(kind).unwrap().as_fd()).unwrap()
    }

    pub fn owner(&self, kind: NsKind) -> NsInode {
        let owner = namespaces::owner(self.infra.namespace(kind).unwrap().as_fd()).unwrap().unwrap();
        namespaces::inode(owner.as_fd()).unwrap()
    }

    /// Whether a mount's line in the pod's mountinfo has an option.
    pub fn mount_has(&self, path: &str, option: &str) -> bool {
        let mountinfo = self.proc("mountinfo");
        let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(path));
        let line = line.unwrap_or_else(|| panic!("{path} is no mount in\n{mountinfo}"));
        line.split(' ').nth(5).unwrap().split(',').any(|word| word == option)
    }

    pub async fn end(self) {
        self.infra.kill().await.unwrap();
    }
}

impl Drop for Pod {
    /// A test that fails leaves nothing either: the infra container dies with its shim.
    fn drop(&mut self) {
        let alive =
            rustix::process::pidfd_send_signal(self.infra.pidfd(), rustix::process::Signal::KILL).is_ok();
        if let Some(shim) = rustix::process::Pid::from_raw(self.infra.shim_pid()).filter(|_| alive) {
            let _ = rustix::process::kill_process(shim, rustix::process::Signal::KILL);
        }
    }
}

/// Makes and starts a pod.
pub async fn started(runtime: &NativeRuntime, planned: &Planned) -> Pod {
    let pod = created(runtime, planned).await;
    pod.infra.start().await.unwrap_or_else(|error| panic!("{}", chain(&error)));
    pod
}

/// Makes a pod.
pub async fn created(runtime: &NativeRuntime, planned: &Planned) -> Pod {
    use sandboxd::runtime::Runtime;
    let infra = runtime.create(&planned.plan, &|_| ()).await;
    Pod { infra: infra.unwrap_or_else(|error| panic!("{}", chain(&error))) }
}

/// An error with its causes.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

pub fn host(kind: NsKind) -> NsInode {
    namespaces::inode(namespaces::own(kind).unwrap().as_fd()).unwrap()
}

/// Whether a process is there, as a zombie or alive.
pub fn exists(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// The pids of processes with this name (as far as the kernel keeps it, 15 bytes).
pub fn processes(name: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
        if fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim() == name) {
            found.push(pid);
        }
    }
    found
}
