//! A shim with a pod, spoken to as the daemon does.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::OpenTreeFlags;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use sandboxd_shim::plan::container::{
    Command, ContainerPlan, ExecPlan, Mount, MountAttrs, Node, NodeKind, PidNs, Propagation, Rootfs, Source,
};
use sandboxd_shim::plan::{self, Capabilities, Namespaces, Net, Plan, Process, SysfsKind};
use sandboxd_shim::proto::{
    ContainerState, ExecVerb, Reply, Request, SOCKET_NAME, Verb, Wanted, decode, encode,
};
use sandboxd_shim::wire;

/// Far longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(20);
pub const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true };

pub struct Pod {
    shim: Child,
    link: Option<OwnedFd>,
    dir: tempfile::TempDir,
    rootfs: tempfile::TempDir,
    count: u32,
}

/// A client's ends.
#[derive(Debug, Default)]
pub struct Streams {
    pub stdin: Option<OwnedFd>,
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// What a container is to have, beside its shell script.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wants {
    pub stdin: bool,
    pub stdin_once: bool,
    pub terminal: bool,
}

impl Pod {
    pub fn shim(&self) -> rustix::process::Pid {
        rustix::process::Pid::from_child(&self.shim)
    }

    pub fn new() -> Self {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let shim = Program::new(env!("CARGO_BIN_EXE_sandboxd-shim"))
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let temporary = || tempfile::Builder::new().prefix("sandboxd-streams-").tempdir().unwrap();
        let (dir, rootfs) = (temporary(), temporary());
        for name in ["bin", "dev", "proc", "tmp"] {
            std::fs::create_dir(rootfs.path().join(name)).unwrap();
        }
        std::fs::copy("/bin/busybox", rootfs.path().join("bin/busybox")).unwrap();
        for name in ["sh", "cat", "sleep", "seq", "stty", "dd", "head", "true", "yes", "tr"] {
            std::os::unix::fs::symlink("busybox", rootfs.path().join("bin").join(name)).unwrap();
        }
        let pod = Self { shim, link: Some(ours), dir, rootfs, count: 0 };
        let create = Request::Create(Box::new(infra(pod.dir.path())));
        let reply = pod.ask(&create, &[]);
        assert!(matches!(reply.0, Reply::Created { .. }), "{:?}", reply.0);
        assert_eq!(pod.ask(&Request::Start, &[]).0, Reply::Started);
        pod
    }

    pub fn ask(&self, request: &Request, fds: &[OwnedFd]) -> (Reply, Vec<OwnedFd>) {
        let link = self.link.as_ref().unwrap();
        let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        wire::send(link.as_fd(), &encode(request).unwrap(), &fds).unwrap();
        let received = wire::receive(link.as_fd()).unwrap().expect("the shim is gone");
        (decode(&received.bytes).unwrap(), received.fds)
    }

    /// The daemon goes, without a word, and another one comes.
    pub fn restart_daemon(&mut self) {
        self.link = None;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None);
        let socket = socket.unwrap();
        let address = SocketAddrUnix::new(self.dir.path().join(SOCKET_NAME)).unwrap();
        rustix::net::connect(&socket, &address).unwrap();
        self.link = Some(socket);
    }

    /// A container that runs a script: its id, and its log.
    pub fn create(&mut self, script: &str, wants: Wants) -> (String, File) {
        self.count += 1;
        let id = format!("container-{}", self.count);
        let (log, reader) = self.log(&id);
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let rootfs = rustix::mount::open_tree(rustix::fs::CWD, self.rootfs.path(), flags).unwrap();
        let plan = container(&id, script, wants);
        let (reply, _) = self.ask(&Request::CreateContainer(Box::new(plan)), &[rootfs, log]);
        assert!(matches!(reply, Reply::ContainerCreated { .. }), "{reply:?}");
        (id, reader)
    }

    /// A new log file, open for appending, and for reading.
    pub fn log(&self, name: &str) -> (OwnedFd, File) {
        let path = self.log_path(name);
        let log = File::options().create_new(true).append(true).open(&path).unwrap();
        (log.into(), File::open(&path).unwrap())
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    pub fn verb(&self, id: &str, verb: Verb) -> (Reply, Vec<OwnedFd>) {
        self.ask(&Request::Container { id: id.into(), verb }, &[])
    }

    pub fn start(&self, id: &str) {
        assert_eq!(self.verb(id, Verb::Start).0, Reply::Done);
    }

    pub fn run(&mut self, script: &str, wants: Wants) -> (String, File) {
        let (id, log) = self.create(script, wants);
        self.start(&id);
        (id, log)
    }

    pub fn remove(&self, id: &str) {
        let (reply, _) = self.verb(id, Verb::Remove);
        assert!(matches!(reply, Reply::Removed { .. }), "{reply:?}");
    }

    pub fn state(&self, id: &str) -> ContainerState {
        match self.verb(id, Verb::State).0 {
            Reply::ContainerState(state) => state,
            other => panic!("{other:?}"),
        }
    }

    /// Waits for the container's end, as the daemon does.
    pub fn wait(&self, id: &str) -> ContainerState {
        let (_, fds) = self.verb(id, Verb::State);
        readable(&fds[0]);
        let state = self.state(id);
        assert!(state.exit.is_some(), "{state:?}");
        state
    }

    pub fn attach(&self, id: &str, wanted: Wanted) -> Streams {
        match self.verb(id, Verb::Attach(wanted)) {
            (Reply::Attached(which), fds) => streams(which, fds),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Executes a script: the exec's number, its pidfd, its streams.
    pub fn exec(&self, id: &str, script: &str, wanted: Wanted, terminal: bool) -> (u64, OwnedFd, Streams) {
        let plan = ExecPlan {
            container: id.into(),
            command: command(script, terminal),
            stdin: wanted.stdin,
            stdout: wanted.stdout,
            stderr: wanted.stderr,
        };
        match self.ask(&Request::Exec(Box::new(plan)), &[]) {
            (Reply::Executed { exec, streams: which, .. }, mut fds) => {
                let pidfd = fds.remove(0);
                (exec, pidfd, streams(which, fds))
            }
            (other, _) => panic!("{other:?}"),
        }
    }

    pub fn exec_verb(&self, exec: u64, verb: ExecVerb) -> Reply {
        self.ask(&Request::Process { exec, verb }, &[]).0
    }

    /// Processor time of the shim so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.shim.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    /// The shim's share of memory in kB.
    pub fn memory(&self) -> u64 {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.shim.id())).unwrap();
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap();
        pss.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// The shim's open descriptors.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.shim.id())).unwrap().count()
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if let Some(link) = &self.link
            && let Ok(bytes) = encode(&Request::Kill)
        {
            let _ = wire::send(link.as_fd(), &bytes, &[]);
            let _ = wire::receive(link.as_fd());
        }
        let _ = self.shim.kill();
        let _ = self.shim.wait();
    }
}

fn streams(which: Wanted, fds: Vec<OwnedFd>) -> Streams {
    let mut fds = fds.into_iter();
    let mut next = |there: bool| if there { fds.next() } else { None };
    Streams { stdin: next(which.stdin), stdout: next(which.stdout), stderr: next(which.stderr) }
}

fn process() -> Process {
    Process {
        uid: 0,
        gid: 0,
        groups: Vec::new(),
        capabilities: Capabilities::default(),
        no_new_privs: true,
        seccomp: None,
        rlimits: Vec::new(),
        oom_score_adj: None,
        umask: 0o022,
    }
}

fn infra(dir: &Path) -> Plan {
    Plan {
        pod: "pod".into(),
        dir: dir.to_str().unwrap().into(),
        namespaces: Namespaces { user: None, net: Net::New, pid: true, ipc: true, uts: true, cgroup: false },
        hostname: Some("streams".into()),
        rootfs: plan::Rootfs { size_bytes: 65536, read_only: true },
        mounts: ["/proc", "/dev"]
            .map(|at| plan::Mount {
                destination: at.into(),
                source: plan::Source::New {
                    fs: if at == "/proc" { "proc" } else { "tmpfs" }.into(),
                    options: Vec::new(),
                },
                attrs: plan::Attrs::default(),
            })
            .into(),
        devices: vec![plan::Device { path: "/dev/null".into(), major: 1, minor: 3 }],
        links: Vec::new(),
        files: Vec::new(),
        masked: Vec::new(),
        read_only: Vec::new(),
        sysctls: Vec::new(),
        process: process(),
        sysfs: SysfsKind::None,
    }
}

fn command(script: &str, terminal: bool) -> Command {
    Command {
        args: ["/bin/sh", "-c", script].map(String::from).into(),
        env: vec![c"PATH=/bin".into()],
        cwd: "/".into(),
        terminal,
        size: terminal.then_some((80, 24)),
        process: process(),
        label: None,
    }
}

fn container(id: &str, script: &str, wants: Wants) -> ContainerPlan {
    let mount = |destination: &str, fs: &str, options: &[(&str, &str)]| Mount {
        destination: destination.into(),
        source: Source::New {
            fs: fs.into(),
            options: options.iter().map(|(key, value)| ((*key).into(), Some((*value).into()))).collect(),
        },
        attrs: MountAttrs::default(),
        propagation: Propagation::Private,
    };
    ContainerPlan {
        id: id.into(),
        pid: PidNs::New,
        cgroup_namespace: false,
        cgroup: Vec::new(),
        exec_cgroups: None,
        rootfs: Rootfs { mount: 0, read_only: true, propagation: Propagation::Private },
        mounts: vec![
            mount("/proc", "proc", &[]),
            mount("/dev", "tmpfs", &[("mode", "755")]),
            mount("/dev/pts", "devpts", &[("mode", "620"), ("ptmxmode", "666")]),
            mount("/tmp", "tmpfs", &[]),
        ],
        devices: [("/dev/null", 3), ("/dev/zero", 5)]
            .map(|(path, minor)| Node {
                path: path.into(),
                kind: NodeKind::Char,
                major: 1,
                minor,
                mode: 0o666,
                uid: 0,
                gid: 0,
            })
            .into(),
        links: vec![
            ("/dev/fd".into(), "/proc/self/fd".into()),
            ("/dev/stdout".into(), "/proc/self/fd/1".into()),
            ("/dev/ptmx".into(), "pts/ptmx".into()),
        ],
        masked: Vec::new(),
        read_only: Vec::new(),
        command: command(script, wants.terminal),
        stdin: wants.stdin,
        stdin_once: wants.stdin_once,
        log: Some(1),
    }
}

/// Waits until there is something to read, or the end.
pub fn readable(fd: &OwnedFd) {
    let wait = Timespec { tv_sec: 20, tv_nsec: 0 };
    assert_ne!(poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&wait)).unwrap(), 0, "nothing came");
}

/// Reads until `enough` or the end. The second: whether it was the end. A terminal's end is an error.
pub fn read_until(fd: &OwnedFd, enough: impl Fn(&[u8]) -> bool) -> (Vec<u8>, bool) {
    let (mut all, mut room) = (Vec::new(), vec![0; 64 * 1024]);
    while !enough(&all) {
        readable(fd);
        match rustix::io::read(fd, &mut room[..]) {
            Ok(0) | Err(rustix::io::Errno::IO) => return (all, true),
            Ok(count) => all.extend_from_slice(&room[..count]),
            Err(rustix::io::Errno::AGAIN) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
    (all, false)
}

pub fn read_to_end(fd: &OwnedFd) -> Vec<u8> {
    let (all, ended) = read_until(fd, |_| false);
    assert!(ended);
    all
}

pub fn write_all(fd: &OwnedFd, mut bytes: &[u8]) {
    let until = Instant::now() + PATIENCE;
    while !bytes.is_empty() {
        assert!(Instant::now() < until, "it takes no more");
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(rustix::io::Errno::AGAIN) => std::thread::sleep(Duration::from_millis(1)),
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// What follows in a log: (stream, tag, text) of each record.
pub fn records(log: &mut File) -> Vec<(String, String, String)> {
    let mut text = String::new();
    log.read_to_string(&mut text).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "a torn end");
    let words = |line: &str| {
        let mut words = line.splitn(4, ' ').skip(1).map(String::from);
        (words.next().unwrap(), words.next().unwrap(), words.next().unwrap())
    };
    text.split_terminator('\n').map(words).collect()
}
