//! Containers that an OCI runtime's command line carries out.
//!
//! ```text
//! this shim ── create ──▶ runtime, in a mount namespace of its own: a copy of the host's, the stage on top
//!     ▲                      └─▶ the container's process, which becomes a child of this shim's when the
//!     └── pid file ──────────────  runtime ends (a subreaper)
//!           start, exec, delete ──▶ runtime, as anybody would run it
//! ```
//!
//! The mount namespace ends with `create`: neither this shim nor the host's mount table keeps what was attached
//! there. Streams, log, terminals and exits are those of every other container.

use std::cell::Cell;
use std::fs;
use std::io;
use std::os::fd::{AsFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sandboxd_shim::plan::Attrs;
use sandboxd_shim::plan::oci::{OciExecPlan, OciPlan, OciRuntime};
use sandboxd_shim::proto::{Failure, SAID};
use sandboxd_shim::wire;

use super::child::{Child, readable};
use super::exec::{Cgroups, Exec, Executed};
use super::rootfs::descriptor;
use super::{Container, Gate};
use crate::io::{ChildFds, ContainerIo, ExecIo, Settings, Wanted};
use crate::kernel::{Change, Guest, Kernel, Kind, Linux, here};
use crate::step::{Step, StepError};

/// For one run of the runtime: tenths of a second, on a machine that swaps seconds. So long nothing else of the
/// container is served.
const DEADLINE: Duration = Duration::from_secs(20);
/// Of what the runtime logged, its end.
const LOG_BYTES: usize = 8 * 1024;
/// Orphans that are waited for before anything else is served.
const AT_ONCE: usize = 256;
const LOG: &str = "log.json";
const PID: &str = "pid";
/// The root file system, under the stage.
const ROOT: &str = "rootfs";
const CONSOLE: &str = "console.sock";
/// What hooks and helpers of the runtime find programs in.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The command line, for one container.
#[derive(Debug)]
pub struct Carrier {
    runtime: OciRuntime,
    dir: PathBuf,
    stage: String,
    /// Before the name of an exec's cgroup.
    prefix: String,
    runs: Cell<u32>,
}

/// The eventfd that [`on_child`] writes to; -1: none yet.
static ENDED: AtomicI32 = AtomicI32::new(-1);

/// A handler of SIGCHLD.
extern "C" fn on_child(_: libc::c_int) {
    // SAFETY: async-signal-safe calls (signal-safety(7)) on a descriptor that is never closed; errno is put back for
    // what was interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let before = *errno;
        let one = 1u64;
        libc::write(ENDED.load(Ordering::Relaxed), (&raw const one).cast(), size_of_val(&one));
        *errno = before;
    }
}

/// Makes this process the one that orphans of the runtime's come to. What is given is readable when a child ends: an
/// orphan that nobody waits for, as a runtime leaves of an exec that failed, would keep the first process of its pid
/// namespace from ending (zap_pid_ns_processes).
pub fn settle() -> Result<OwnedFd, StepError> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own)).step(|| "become a subreaper".into())?;
    let flags = EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC;
    let words = || "be told of the ends of children".to_owned();
    let ended = eventfd(0, flags).step(words)?;
    // The handler's own copy.
    let copy = fcntl_dupfd_cloexec(&ended, 3).step(words)?;
    ENDED.store(copy.into_raw_fd(), Ordering::Relaxed);
    // SAFETY: all zeroes is a sigaction, and the handler makes async-signal-safe calls alone. What is executed has the
    // default action again.
    let set = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_child as *const () as usize;
        action.sa_flags = libc::SA_RESTART | libc::SA_NOCLDSTOP;
        libc::sigaction(libc::SIGCHLD, &raw const action, std::ptr::null_mut())
    };
    if set == 0 { Ok(ended) } else { Err(Errno::INVAL).step(words) }
}

/// Makes a container, up to the point before exec; `root`: the host's ids of its user namespace's root. On an error
/// nothing is left of it.
pub fn create(plan: OciPlan, root: Option<(u32, u32)>, fds: Vec<OwnedFd>) -> Result<Container, Failure> {
    let outside = |error: StepError| error.failure(None);
    let copy = |index: u8| descriptor(&fds, index).and_then(|fd| fcntl_dupfd_cloexec(fd, 3));
    let taken = || "take the container's descriptors".to_owned();
    let log = plan.log.map(copy).transpose().step(taken).map_err(outside)?;
    let cgroups = plan.cgroup.iter().map(|index| copy(*index)).collect::<Result<Vec<_>, _>>();
    let cgroups = cgroups.step(taken).map_err(outside)?;
    let mounts = plan.mounts.iter().map(|(name, index)| Ok((name.clone(), copy(*index)?)));
    let mounts = mounts.collect::<Result<Vec<_>, Errno>>().step(taken).map_err(outside)?;
    let (dir, prefix) = plan.exec_cgroups.map(|place| (copy(place.dir), place.prefix)).unzip();
    let exec_cgroups = dir.transpose().step(taken).map_err(outside)?;
    drop(fds);
    let streams = || "make the container's streams".to_owned();
    let settings = Settings { stdin: plan.stdin, stdin_once: plan.stdin_once, tty: plan.terminal, log };
    let (mut io, theirs) = ContainerIo::new(settings).step(streams).map_err(outside)?;
    give(&theirs, root).step(streams).map_err(outside)?;
    let carrier = Carrier {
        runtime: plan.runtime,
        dir: plan.dir.into(),
        stage: plan.stage,
        prefix: prefix.unwrap_or_default(),
        runs: Cell::new(0),
    };
    let console = carrier.console(plan.terminal, CONSOLE).map_err(outside)?;
    let mut command = carrier.command();
    command.arg("create").arg("--bundle").arg(&carrier.dir).args(["--pid-file", PID]);
    if console.is_some() {
        command.args(["--console-socket", CONSOLE]);
    }
    command.arg(&plan.id);
    streams_of(&mut command, theirs);
    let stage = carrier.stage.clone();
    // SAFETY: this process has one thread, so what is forked may do anything.
    unsafe { command.pre_exec(move || cover(&stage, &mounts).map_err(io::Error::from)) };
    let made = carrier.run(command, "create").and_then(|()| {
        let child = carrier.born(PID).map_err(outside)?;
        if let Some(master) =
            console.as_ref().map(OwnedFd::as_fd).map(received).transpose().step(streams).map_err(outside)?
        {
            io.set_terminal(master).step(streams).map_err(outside)?;
        }
        Ok(child)
    });
    let _ = fs::remove_file(carrier.dir.join(CONSOLE));
    match made {
        Ok(child) => Ok(Container {
            id: plan.id,
            child,
            gate: Some(Gate::Oci),
            cgroups,
            // The runtime puts them there: nothing that this shim would have to join instead.
            exec_cgroups: exec_cgroups.map(|dir| Cgroups::new(dir, usize::MAX)),
            seccomp: None,
            no_new_privs: false,
            user: false,
            io,
            oci: Some(carrier),
        }),
        Err(failure) => {
            carrier.delete(&plan.id);
            Err(failure)
        }
    }
}

/// In the process that becomes the runtime: the mount namespace, with the stage.
fn cover(stage: &str, mounts: &[(String, OwnedFd)]) -> Result<(), Errno> {
    Linux.unshare(libc::CLONE_NEWNS)?;
    // What comes and goes on the host does so here; nothing of this gets there.
    Linux.change(
        here(),
        "/",
        Change { propagation: libc::MS_SLAVE, recursive: true, ..Change::default() },
    )?;
    let options = [("size", "64k"), ("mode", "0755")].map(|(key, value)| (key.into(), Some(value.into())));
    let tmpfs = Linux.new_mount("tmpfs", &options, Attrs { nosuid: true, ..Attrs::default() })?;
    Linux.umask(0o022);
    Linux.make_dir(tmpfs.as_fd(), ROOT)?;
    for (name, mount) in mounts.iter().filter(|(name, _)| name != ROOT) {
        match Linux.kind(mount.as_fd(), "")? {
            Kind::Directory => Linux.make_dir(tmpfs.as_fd(), name)?,
            Kind::Other => Linux.make_file(tmpfs.as_fd(), name, 0o444, &[])?,
        }
    }
    Linux.attach(tmpfs.as_fd(), here(), stage)?;
    for (name, mount) in mounts {
        Linux.attach(mount.as_fd(), here(), &format!("{stage}/{name}"))?;
    }
    // Ignored by the shim, and else by the container too.
    Linux.default_signals()
}

/// Executes a process in a container. On an error nothing is left of it.
pub fn execute(container: &Container, plan: OciExecPlan, id: u64, client: u64) -> Result<Executed, Failure> {
    let outside = |error: StepError| error.failure(None);
    let carrier = container.oci.as_ref().ok_or(Errno::NOSYS);
    let carrier = carrier.step(|| "find the container's runtime".into()).map_err(outside)?;
    let streams = || "make the process's streams".to_owned();
    let wanted = Wanted { stdin: plan.stdin, stdout: plan.stdout, stderr: plan.stderr };
    let (mut io, theirs, mut ours) = ExecIo::new(wanted, plan.terminal).step(streams).map_err(outside)?;
    give(&theirs, root_of(container.child.pid)).step(streams).map_err(outside)?;
    let run = carrier.runs.replace(carrier.runs.get().wrapping_add(1));
    let [json, pid, socket] = ["json", "pid", "sock"].map(|end| format!("exec-{run}.{end}"));
    let cgroup = container.exec_cgroups.as_ref().and_then(Cgroups::make);
    let written = carrier.write(&json, &plan.process).step(|| format!("write {json}")).map_err(outside);
    let executed = written.and_then(|()| {
        let console = carrier.console(plan.terminal, &socket).map_err(outside)?;
        let mut command = carrier.command();
        command.args(["exec", "--detach", "--pid-file", &pid, "--process", &json]);
        if let Some(cgroup) = &cgroup {
            command.arg("--cgroup").arg(format!("{}{}", carrier.prefix, cgroup.name));
        }
        if console.is_some() {
            command.args(["--console-socket", &socket]);
        }
        command.arg(&container.id);
        streams_of(&mut command, theirs);
        let stage = carrier.stage.clone();
        let score = fs::read(format!("/proc/{}/oom_score_adj", container.child.pid));
        let prepare = move || {
            // crun (1.8) gives a process none of its own. Where this is out of reach the runtime says so.
            let _ = score.as_ref().map(|score| fs::write("/proc/self/oom_score_adj", score));
            // runc enters the root's path before it leaves for the container.
            cover(&stage, &[]).map_err(io::Error::from)
        };
        // SAFETY: this process has one thread, so what is forked may do anything.
        unsafe { command.pre_exec(prepare) };
        carrier.run(command, "exec")?;
        let mut child = carrier.born(&pid).map_err(outside)?;
        let terminal = console.as_ref().map(OwnedFd::as_fd).map(received).transpose();
        match terminal.and_then(|master| master.map(|master| io.set_terminal(master)).transpose()) {
            Ok(terminal) => Ok((child, terminal)),
            Err(errno) => {
                child.kill();
                Err(outside(StepError { step: streams(), errno }))
            }
        }
    });
    for name in [&json, &pid, &socket] {
        let _ = fs::remove_file(carrier.dir.join(name));
    }
    let (child, terminal) = match executed {
        Ok(executed) => executed,
        Err(failure) => {
            drop(cgroup);
            container.sweep();
            return Err(failure);
        }
    };
    ours = terminal.unwrap_or(ours);
    let exec = Exec::of_runtime(id, plan.container, child, client, io, cgroup);
    Ok(Executed { exec, streams: ours, warnings: Vec::new() })
}

/// The host's ids of the root of a process' user namespace. It waits to be reaped here: its pid is nobody else's.
fn root_of(pid: i32) -> Option<(u32, u32)> {
    let id = |file: &str| {
        let map = fs::read_to_string(format!("/proc/{pid}/{file}")).ok()?;
        map.lines().find_map(|line| {
            let mut words = line.split_ascii_whitespace();
            (words.next()? == "0").then(|| words.next()?.parse::<u32>().ok()).flatten()
        })
    };
    id("uid_map").zip(id("gid_map"))
}

/// Gives the ends of pipes to a user namespace's root, so that the runtime, which is inside by then, can give them to
/// the process' user: it opens them again as /dev/stdout.
fn give(ends: &ChildFds, root: Option<(u32, u32)>) -> Result<(), Errno> {
    let Some((uid, gid)) = root else { return Ok(()) };
    let mut ends = [&ends.stdin, &ends.stdout, &ends.stderr].into_iter().flatten();
    ends.try_for_each(|end| Linux.own(end.as_fd(), "", uid, Some(gid)))
}

/// What is not there is /dev/null.
fn streams_of(command: &mut Command, ends: ChildFds) {
    let stdio = |end: Option<OwnedFd>| end.map_or_else(Stdio::null, Stdio::from);
    command.stdin(stdio(ends.stdin)).stdout(stdio(ends.stdout)).stderr(stdio(ends.stderr));
}

/// The terminal's master, which the runtime has sent by the time it ends.
fn received(listener: std::os::fd::BorrowedFd<'_>) -> Result<OwnedFd, Errno> {
    let sender = accept_with(listener, SocketFlags::CLOEXEC)?;
    let received = wire::receive(sender.as_fd())?;
    received.and_then(|mut received| received.fds.pop()).ok_or(Errno::NOTTY)
}

impl Carrier {
    /// Lets the container exec its command.
    pub fn start(&self, id: &str) -> Result<(), Failure> {
        let mut command = self.command();
        command.arg("start").arg(id);
        self.run(command, "start")
    }

    /// Kills what is left and has the runtime forget it; whoever looks for its state sees whether it did.
    pub fn delete(&self, id: &str) {
        let mut command = self.command();
        command.args(["delete", "--force"]).arg(id);
        let _ = self.run(command, "delete");
    }

    /// In the container's directory: names of files there are given without it, for a socket's address is short.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.runtime.binary);
        command
            .args(["--root", &self.runtime.root, "--log", LOG, "--log-format", "json"])
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs it to its end. A failure says what the runtime logged, for the daemon to read.
    fn run(&self, mut command: Command, verb: &str) -> Result<(), Failure> {
        let _ = fs::remove_file(self.dir.join(LOG));
        let failed = |step: String, errno: i32| Failure { step, errno, pid: None };
        let binary = &self.runtime.binary;
        let spawned = command.spawn();
        // Its copies of the container's streams and mounts.
        drop(command);
        let mut child = spawned.map_err(|error| {
            failed(format!("start {binary} {verb}"), error.raw_os_error().unwrap_or(libc::EIO))
        })?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH);
        let ended = pid
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()))
            .and_then(|pidfd| readable(pidfd.as_fd(), Instant::now() + DEADLINE));
        if ended != Ok(true) {
            let _ = child.kill();
        }
        let status = child.wait();
        match (ended, status) {
            (Ok(true), Ok(status)) if status.success() => Ok(()),
            (Ok(true), Ok(status)) => {
                Err(failed(format!("{binary} {verb}: {status}\n{}", self.logged()), SAID))
            }
            _ => Err(failed(format!("{binary} {verb} took too long\n{}", self.logged()), SAID)),
        }
    }

    /// The end of what the runtime logged.
    fn logged(&self) -> String {
        let text = fs::read(self.dir.join(LOG)).unwrap_or_default();
        let end = text.get(text.len().saturating_sub(LOG_BYTES)..).unwrap_or_default();
        String::from_utf8_lossy(end).into_owned()
    }

    /// The process that a pid file names: a child of this shim's by now, so that the pid is its own until it is
    /// waited for here.
    fn born(&self, name: &str) -> Result<Child, StepError> {
        let words = || format!("take over the process of {name}");
        let text = fs::read_to_string(self.dir.join(name)).map_err(|error| errno_of(&error)).step(words)?;
        let pid = text.trim().parse::<i32>().ok().filter(|pid| *pid > 1).ok_or(Errno::SRCH).step(words)?;
        let known = Pid::from_raw(pid).ok_or(Errno::SRCH).step(words)?;
        let pidfd = pidfd_open(known, PidfdFlags::empty()).step(words)?;
        Ok(Child::new(pid, pidfd))
    }

    /// For the user alone: an environment may hold secrets.
    fn write(&self, name: &str, data: &[u8]) -> Result<(), Errno> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(self.dir.join(name))
            .map_err(|error| errno_of(&error))?;
        io::Write::write_all(&mut file, data).map_err(|error| errno_of(&error))
    }

    /// Where the runtime sends the master of a terminal to.
    fn console(&self, wanted: bool, name: &str) -> Result<Option<OwnedFd>, StepError> {
        if !wanted {
            return Ok(None);
        }
        let make = || {
            let flags = SocketFlags::CLOEXEC;
            let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
            Linux.change_dir(&self.dir.to_string_lossy())?;
            Linux.umask(0o177);
            let bound = SocketAddrUnix::new(Path::new(name)).and_then(|address| bind(&socket, &address));
            Linux.umask(0o022);
            Linux.change_dir("/")?;
            bound?;
            listen(&socket, 1)?;
            // Nobody may have come.
            rustix::io::ioctl_fionbio(&socket, true)?;
            Ok(socket)
        };
        make().map(Some).step(|| "make a socket for the terminal".into())
    }
}

fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Waits for orphans of the runtime's that nobody asks for; true: there may be more. They may come as fast as they
/// are waited for, from a container that shares the node's pid namespace.
pub fn reap_strangers(asked_for: impl Fn(i32) -> bool) -> bool {
    for _ in 0..AT_ONCE {
        // SAFETY: all zeroes is a siginfo_t.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: the kernel writes one siginfo_t, which outlives the call.
        let found = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) } == 0;
        // SAFETY: waitid fills the fields of SIGCHLD, or leaves the zeroes.
        let pid = unsafe { info.si_pid() };
        if !found || pid == 0 || asked_for(pid) {
            return false;
        }
        // SAFETY: takes no pointers but the null one.
        unsafe { libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) };
    }
    true
}
