//! A pod with a busybox: containers with the rootfs and spec of a plain image.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use oci_spec::runtime::{
    Capability, Linux, LinuxCapabilities, LinuxIdMappingBuilder, LinuxNamespace, LinuxNamespaceType, Mount,
    Process as OciProcess, Root, Spec,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use sandboxd::container::env::RawEnv;
use sandboxd::container::model::ContainerId;
use sandboxd::container::spec::PidMode;
use sandboxd::pod::model::NsKind;
use sandboxd::runtime::task::{ExecPlan, Process, Task, TaskPlan, Wanted};
use sandboxd::runtime::{Exit, RuntimeError};

use super::setup::{Planned, Pod, runtime, started};

/// A started pod and where its logs are.
pub struct Box {
    pub pod: Pod,
    pub planned: Planned,
    logs: tempfile::TempDir,
    ids: std::sync::Mutex<Vec<ContainerId>>,
}

/// A log in CRI's format.
pub struct Log(PathBuf);

impl Log {
    /// Its lines without their times.
    pub fn lines(&self) -> Vec<String> {
        let text = fs::read_to_string(&self.0).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
    }
}

/// A container to make.
pub struct Given {
    pub spec: Spec,
    pub pid: PidMode,
    pub cgroup: Vec<OwnedFd>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub sources: Vec<(usize, OwnedFd)>,
    /// Changes to the rootfs, made before it is mapped.
    pub rootfs: fn(&std::path::Path),
}

fn mount(destination: &str, typ: &str, source: &str, options: &str) -> Mount {
    let mut mount = Mount::default();
    mount
        .set_destination(destination.into())
        .set_typ(Some(typ.into()))
        .set_source(Some(source.into()))
        .set_options(Some(options.split_whitespace().map(str::to_owned).collect()));
    mount
}

impl Given {
    pub fn args(args: &[&str]) -> Self {
        let mut sets = LinuxCapabilities::default();
        let all = |names: &[Capability]| Some(names.iter().copied().collect());
        let default = &sandboxd::runtime::capabilities::DEFAULT;
        sets.set_bounding(all(default)).set_permitted(all(default)).set_effective(all(default));
        sets.set_inheritable(None).set_ambient(None);
        let mut process = OciProcess::default();
        process
            .set_args(Some(args.iter().map(|arg| (*arg).to_owned()).collect()))
            .set_env(Some(vec!["PATH=/bin:/sbin".into()]))
            .set_cwd("/".into())
            .set_rlimits(None)
            .set_no_new_privileges(Some(false))
            .set_capabilities(Some(sets));
        process.user_mut().set_additional_gids(Some(Vec::new()));
        let mut root = Root::default();
        root.set_path("rootfs".into()).set_readonly(Some(false));
        let mut linux = Linux::default();
        let namespaces = [LinuxNamespaceType::Mount, LinuxNamespaceType::Cgroup].map(|typ| {
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(typ).set_path(None);
            namespace
        });
        linux
            .set_namespaces(Some(namespaces.into()))
            .set_masked_paths(Some(vec!["/proc/kcore".into(), "/sys/firmware".into(), "/etc/secret".into()]))
            .set_readonly_paths(Some(vec!["/proc/sys".into()]));
        let mut spec = Spec::default();
        spec.set_process(Some(process)).set_root(Some(root)).set_linux(Some(linux)).set_mounts(Some(vec![
            mount("/proc", "proc", "proc", "nosuid noexec nodev"),
            mount("/dev", "tmpfs", "tmpfs", "nosuid mode=755 size=64k"),
            mount("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620"),
            mount("/dev/shm", "bind", "pod:shm", "nosuid noexec nodev"),
            mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
            mount("/sys", "sysfs", "sysfs", "nosuid noexec nodev ro"),
        ]));
        Self {
            spec,
            pid: PidMode::Pod,
            cgroup: Vec::new(),
            stdin: false,
            stdin_once: false,
            tty: false,
            sources: Vec::new(),
            rootfs: |_| (),
        }
    }

    pub fn shell(script: &str) -> Self {
        Self::args(&["sh", "-c", script])
    }

    pub fn process(mut self, change: impl FnOnce(&mut OciProcess)) -> Self {
        change(self.spec.process_mut().as_mut().unwrap());
        self
    }

    pub fn linux(mut self, change: impl FnOnce(&mut Linux)) -> Self {
        change(self.spec.linux_mut().as_mut().unwrap());
        self
    }

    pub fn mount(mut self, destination: &str, typ: &str, source: &str, options: &str) -> Self {
        self.spec.mounts_mut().as_mut().unwrap().push(mount(destination, typ, source, options));
        self
    }

    pub fn rootfs(mut self, change: fn(&std::path::Path)) -> Self {
        self.rootfs = change;
        self
    }
}

impl Box {
    pub async fn pod(user: bool) -> Self {
        Self::with(if user { Planned::userns() } else { Planned::plain() }).await
    }

    pub async fn with(planned: Planned) -> Self {
        let pod = started(&runtime().await, &planned).await;
        Self { pod, planned, logs: tempfile::tempdir().unwrap(), ids: std::sync::Mutex::default() }
    }

    pub fn has_user(&self) -> bool {
        self.planned.plan.spec.namespaces.user.is_some()
    }

    /// A tmpfs with a busybox, mapped for the pod, attached nowhere.
    fn rootfs(&self, change: fn(&std::path::Path)) -> OwnedFd {
        let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
        rustix::mount::fsconfig_set_string(context.as_fd(), "mode", "0755").unwrap();
        fsconfig_create(context.as_fd()).unwrap();
        let root = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty()).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
        fs::create_dir(path.join("bin")).unwrap();
        fs::create_dir(path.join("etc")).unwrap();
        fs::create_dir(path.join("tmp")).unwrap();
        fs::write(path.join("etc/secret"), "secret").unwrap();
        fs::copy("/bin/busybox", path.join("bin/busybox")).expect("busybox-static is needed");
        for name in [
            "sh", "sleep", "true", "false", "id", "pwd", "cat", "echo", "stat", "ls", "touch", "mount",
            "umount", "kill", "ps", "setsid", "tty", "stty", "mkdir", "chmod", "head", "dd", "grep",
            "readlink", "env", "ipcs", "wc",
        ] {
            std::os::unix::fs::symlink("busybox", path.join("bin").join(name)).unwrap();
        }
        change(&path);
        if self.has_user() {
            let user = self.pod.infra.namespace(NsKind::User).unwrap();
            idmap(&root, &user);
        }
        root
    }

    /// Makes a container, and a log for it.
    pub async fn make(&self, given: Given) -> (Arc<dyn Task>, Log) {
        let (task, log) = self.try_make(given).await;
        (task.unwrap_or_else(|error| panic!("{}", super::setup::chain(&error))), log)
    }

    pub async fn try_make(&self, given: Given) -> (Result<Arc<dyn Task>, RuntimeError>, Log) {
        let plan = self.plan(given);
        let log = Log(self.logs.path().join(plan.id.as_str()));
        (self.pod.infra.create_container(plan).await, log)
    }

    /// A log to go on in.
    pub fn another_log(&self) -> (Log, OwnedFd) {
        let path = self.logs.path().join(format!("log-{}", self.ids().len()));
        let log = fs::OpenOptions::new().append(true).create_new(true).open(&path).unwrap();
        (Log(path), log.into())
    }

    /// As the daemon would plan it.
    pub fn plan(&self, mut given: Given) -> TaskPlan {
        let id = ContainerId::random().unwrap();
        self.ids.lock().unwrap().push(id.clone());
        let path = self.logs.path().join(id.as_str());
        let log = fs::OpenOptions::new().append(true).create(true).open(&path).unwrap();
        if self.has_user() {
            let base = self.planned.base();
            let line = LinuxIdMappingBuilder::default().container_id(0u32).host_id(base).size(65536u32);
            let lines = vec![line.build().unwrap()];
            let linux = given.spec.linux_mut().as_mut().unwrap();
            linux.set_uid_mappings(Some(lines.clone())).set_gid_mappings(Some(lines));
            let mut namespace = LinuxNamespace::default();
            namespace.set_typ(LinuxNamespaceType::User).set_path(None);
            linux.namespaces_mut().as_mut().unwrap().push(namespace);
        }
        TaskPlan {
            host_root: None,
            id,
            spec: given.spec,
            raw_env: RawEnv::new(),
            pid: given.pid,
            rootfs: self.rootfs(given.rootfs),
            sources: given.sources,
            stdin: given.stdin,
            stdin_once: given.stdin_once,
            tty: given.tty,
            log: Some(log.into()),
            cgroup: given.cgroup,
        }
    }

    /// Runs a container to its end: the lines of its log, without times and streams.
    pub async fn output(&self, given: Given) -> Vec<String> {
        let (task, log) = self.make(given).await;
        task.start().await.unwrap_or_else(|error| panic!("{}", super::setup::chain(&error)));
        let ended = task.wait().await;
        let lines: Vec<String> =
            log.lines().iter().map(|line| line.splitn(3, ' ').nth(2).unwrap().to_owned()).collect();
        assert_eq!(ended.exit, Exit::Code(0), "{lines:#?}");
        task.remove().await.unwrap();
        lines
    }

    /// Ids of all that were made, in order.
    pub fn ids(&self) -> Vec<ContainerId> {
        self.ids.lock().unwrap().clone()
    }

    pub fn last_id(&self) -> String {
        let ids = self.ids();
        // The one before the one that was refused.
        ids[ids.len() - 2].as_str().to_owned()
    }

    /// The shim's children.
    pub fn children(&self) -> Vec<String> {
        let shim = self.pod.infra.shim_pid();
        let children = fs::read_to_string(format!("/proc/{shim}/task/{shim}/children")).unwrap();
        children.split_whitespace().map(str::to_owned).collect()
    }

    pub async fn end(self) {
        self.pod.end().await;
    }
}

/// A cgroup of a test in each hierarchy of this machine. Removed when dropped.
pub struct Cgroup {
    dirs: Vec<PathBuf>,
}

impl Cgroup {
    pub fn new() -> Option<Self> {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("sandboxd-native-{}-{count}", std::process::id());
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let hierarchies = mountinfo.lines().filter(|line| line.contains(" - cgroup"));
        let mut dirs: Vec<PathBuf> =
            hierarchies.map(|line| PathBuf::from(line.split(' ').nth(4).unwrap()).join(&name)).collect();
        // An empty cpuset takes no process.
        dirs.retain(|dir| !dir.to_str().unwrap().contains("cpuset") && fs::create_dir(dir).is_ok());
        if dirs.is_empty() {
            println!("SKIPPED: no cgroup hierarchy can be written to");
            return None;
        }
        Some(Self { dirs })
    }

    pub fn procs(&self) -> Vec<OwnedFd> {
        self.open(|_| true)
    }

    /// Without the v2 hierarchy.
    pub fn procs_of_v1(&self) -> Vec<OwnedFd> {
        self.open(|dir| !dir.join("cgroup.kill").exists())
    }

    fn open(&self, which: fn(&PathBuf) -> bool) -> Vec<OwnedFd> {
        let open =
            |dir: &PathBuf| fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs")).unwrap().into();
        self.dirs.iter().filter(|dir| which(dir)).map(open).collect()
    }

    /// Processes in it, as its first hierarchy has them.
    pub fn members(&self) -> Vec<i32> {
        let procs = fs::read_to_string(self.dirs[0].join("cgroup.procs")).unwrap();
        procs.lines().map(|pid| pid.parse().unwrap()).collect()
    }

    /// Cgroups in it, in all hierarchies.
    pub fn children(&self) -> usize {
        let count = |dir: &PathBuf| {
            fs::read_dir(dir).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
        };
        self.dirs.iter().map(count).sum()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            for _ in 0..50 {
                if fs::remove_dir(dir).is_ok() {
                    break;
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
        }
    }
}

/// Executes a shell script, all streams wanted.
pub async fn exec(task: &dyn Task, script: &str) -> Arc<dyn Process> {
    let given = Given::shell(script);
    let process = given.spec.process().clone().unwrap();
    let wanted = Wanted { stdin: true, stdout: true, stderr: true };
    let made = task.exec(ExecPlan { process, raw_env: RawEnv::new(), wanted }).await;
    made.unwrap_or_else(|error| panic!("{}", super::setup::chain(&error)))
}

/// All that comes out of a stream that does not block.
pub async fn read_all(stream: Option<OwnedFd>) -> String {
    let stream = stream.expect("the stream was asked for");
    rustix::io::ioctl_fionbio(&stream, false).unwrap();
    tokio::task::spawn_blocking(move || std::io::read_to_string(fs::File::from(stream)).unwrap())
        .await
        .unwrap()
}

fn idmap(tree: &OwnedFd, user: &OwnedFd) {
    let attr = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user.as_raw_fd()).unwrap(),
    };
    for _ in 0..100 {
        // SAFETY: path and attr outlive the call, which reads them.
        let result = unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const attr,
                size_of::<libc::mount_attr>(),
            )
        };
        let error = std::io::Error::last_os_error();
        if result == 0 {
            return;
        }
        // A process forked by another test still has what was written open, until it execs.
        assert_eq!(error.raw_os_error(), Some(libc::EBUSY), "{error}");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    panic!("the rootfs stays busy");
}
