//! The observer against the running kernel: real processes, real namespaces, real denials. As root on a
//! kernel where the program loads; elsewhere each test says on stderr why it was skipped.
#![cfg(feature = "observer")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on")]

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use sandboxd::container::model::ContainerId;
use sandboxd::observer::check::INIT;
use sandboxd::observer::{
    Attribution, Check, CheckFilter, Covering, Degradation, Explanation, Observer, ObserverSettings, PodKeys,
    ProcessKey, Reason, ResultsThrough, Rung, State, Status, SyscallResults, Verdict,
};
use sandboxd::pod::model::{FlowKind, NsInode, PodId};

mod cost;
mod failures;
mod flood;
/// Shared with the end-to-end tests, which run it in containers.
#[path = "../../../tests/src/provoke.rs"]
mod provoke;

const PATIENCE: Duration = Duration::from_secs(5);

struct Live {
    observer: Observer,
    pods: Arc<Attribution>,
    since_ns: i64,
    dir: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

/// The rung that `SANDBOXD_TEST_RUNG` names and no other, so that each can be tried on a kernel that has a better
/// one; else whatever loads.
fn settings() -> ObserverSettings {
    let results = SyscallResults::On;
    let Ok(name) = std::env::var("SANDBOXD_TEST_RUNG") else {
        return ObserverSettings { results, ..ObserverSettings::default() };
    };
    let rung = Rung::LADDER.into_iter().find(|rung| rung.name() == name).expect("no such rung");
    ObserverSettings { rungs: vec![rung], results, ..ObserverSettings::default() }
}

/// Every observer sees the whole machine: a burst in one test would push the checks of another one out.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// One for all tests: its start reads all the kernel's types.
static SHARED: OnceLock<(Observer, Arc<Attribution>)> = OnceLock::new();

/// Something that ran and ended.
struct Ran {
    pid: i32,
    success: bool,
    stdout: String,
    stderr: String,
}

impl Live {
    fn start() -> Option<Self> {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (observer, pods) = SHARED
            .get_or_init(|| {
                let pods = Arc::new(Attribution::default());
                (Observer::start(&settings(), pods.clone()), pods)
            })
            .clone();
        let status = observer.status();
        if !matches!(status.state, State::Running(_)) {
            // Where it is known what works, nothing is skipped.
            assert!(std::env::var_os("SANDBOXD_TEST_RUNG").is_none(), "{:#?}", status.degradations);
            eprintln!("SKIPPED: {}", status.message);
            return None;
        }
        if !nix::unistd::geteuid().is_root() {
            eprintln!("SKIPPED: not root");
            return None;
        }
        // Trampolines may be forbidden where the tracepoints are not.
        let fine = |step: &Degradation| {
            status.results == Some(ResultsThrough::SysExit)
                && matches!(step, Degradation::ResultsRefused { through: ResultsThrough::Fexit, .. })
        };
        assert!(status.degradations.iter().all(fine), "{:#?}", status.degradations);
        // Where it is known what works.
        if let Ok(through) = std::env::var("SANDBOXD_TEST_RESULTS") {
            assert_eq!(status.results.map(ResultsThrough::name), Some(through.as_str()));
        }
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos();
        let dir = tempfile::tempdir().unwrap();
        Some(Self { observer, pods, since_ns: i64::try_from(now).unwrap(), dir, _alone: alone })
    }

    /// Runs a script in a mount namespace of its own. `$D` is an empty directory to mount on. The script's
    /// last command is exec'd, so that its pid is the one returned; `is_pod` makes it a pod's infra process.
    fn run(&self, script: &str, is_pod: bool) -> Ran {
        let child = self.spawn(script);
        let pid = i32::try_from(child.id()).unwrap();
        if is_pod {
            self.pods.upsert(PodKeys {
                id: PodId::from_string("cafe".repeat(16)),
                name: "test/pod".to_string(),
                created_at_ns: self.since_ns,
                flow: FlowKind::NetworkFirst,
                namespaces: Vec::new(),
                processes: vec![ProcessKey { pid, role: "infra".to_string() }],
                netns_made: None,
            });
        }
        let mut child = child;
        // The script waits for a line, so that attribution is known first.
        use std::io::Write as _;
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let out = child.wait_with_output().unwrap();
        Ran {
            pid,
            success: out.status.success(),
            stdout: String::from_utf8_lossy(&out.stdout).trim().to_string(),
            stderr: String::from_utf8_lossy(&out.stderr).trim().to_string(),
        }
    }

    fn spawn(&self, script: &str) -> Child {
        Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-ec", &format!("read go; {script}")])
            .env("D", self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    async fn failure(&self, ran: &Ran) -> (Arc<Check>, Explanation) {
        assert!(!ran.success, "the script was to fail; it said {:?}", ran.stdout);
        let found = self.observer.explain_failure(ran.pid, self.since_ns, PATIENCE).await;
        found.unwrap_or_else(|| panic!("no check explains: {}", ran.stderr))
    }

    async fn checks_of(&self, ran: &Ran) -> Vec<Arc<Check>> {
        assert!(self.observer.caught_up(PATIENCE).await, "the ring was not read in time");
        self.observer.history(&CheckFilter { pid: Some(ran.pid), ..Default::default() })
    }
}

fn own_netns() -> NsInode {
    NsInode(std::fs::metadata("/proc/self/ns/net").unwrap().ino())
}

#[tokio::test]
async fn sysfs_with_a_netns_of_the_same_userns_passes_three_checks() {
    let Some(live) = Live::start() else { return };
    let ran = live.run(
        "exec unshare --user --map-root-user --net --mount sh -c \
         'readlink /proc/self/ns/user; exec mount -t sysfs sysfs $D'",
        true,
    );
    assert!(ran.success, "{}", ran.stderr);
    let userns: u64 = ran.stdout.trim_start_matches("user:[").trim_end_matches(']').parse().unwrap();
    let sysfs: Vec<_> = live
        .checks_of(&ran)
        .await
        .into_iter()
        .filter(|c| c.new_fs_type() == Some("sysfs") && c.target_userns == Some(NsInode(userns)))
        .collect();
    assert_eq!(sysfs.len(), 3, "{sysfs:#?}");
    for check in &sysfs {
        assert_eq!(check.verdict, Verdict::Allowed);
        assert_eq!(check.caller_userns, Some(NsInode(userns)));
        assert_eq!((check.net.owner, check.mnt.owner), (Some(NsInode(userns)), Some(NsInode(userns))));
        assert_eq!(check.pidns.owner, Some(INIT), "the pid namespace is the host's");
        assert_eq!(check.pod.as_ref().map(|p| (&*p.name, &*p.container)), Some(("test/pod", "infra")));
        assert_eq!(check.comm.as_ref(), "mount");
        assert_eq!(check.result, Some(0));
    }
}

#[tokio::test]
async fn a_netns_older_than_the_userns_is_named() {
    let Some(live) = Live::start() else { return };
    let ran = live.run(
        "exec unshare --net sh -c 'readlink /proc/self/ns/net; \
         exec unshare --user --map-root-user --mount mount -t sysfs sysfs $D'",
        true,
    );
    let netns: u64 = ran.stdout.trim_start_matches("net:[").trim_end_matches(']').parse().unwrap();
    let (check, told) = live.failure(&ran).await;
    let Some(Reason::NetnsOwnedByOtherUserns { netns: named, owner, caller }) = &check.reason else {
        panic!("{check:#?}");
    };
    assert_eq!((named.0, *owner), (netns, INIT));
    assert_ne!(*caller, INIT);
    assert_eq!(check.target_userns, Some(INIT));
    assert_eq!(check.result, Some(libc::EPERM));
    assert_eq!(told.code, "netns-owned-by-other-userns");
    assert!(told.headline.contains(&netns.to_string()), "{}", told.headline);
}

#[tokio::test]
async fn setns_into_a_netns_of_the_host_is_named() {
    let Some(live) = Live::start() else { return };
    let ran = live.run(
        "exec 9</proc/self/ns/net; exec unshare --user --map-root-user --net nsenter --net=/proc/self/fd/9 true",
        true,
    );
    let (check, told) = live.failure(&ran).await;
    assert_eq!(check.call(), "setns(net)");
    assert_eq!(check.result, Some(libc::EPERM));
    assert!(matches!(check.reason, Some(Reason::SetnsForeignNamespace { owner: INIT, .. })), "{check:#?}");
    assert_ne!(check.net.inode, Some(own_netns()), "the caller was in a netns of its own");
    assert!(told.headline.contains("network namespace"), "{}", told.headline);
}

#[tokio::test]
async fn proc_without_a_pidns_of_its_own_is_named() {
    let Some(live) = Live::start() else { return };
    let ran = live.run("exec unshare --user --map-root-user --mount mount -t proc proc $D", true);
    let (check, _) = live.failure(&ran).await;
    let Some(Reason::ProcWithoutOwnPidns { pidns, owner, .. }) = check.reason else { panic!("{check:#?}") };
    assert_eq!(owner, INIT);
    assert_eq!(pidns.0, std::fs::metadata("/proc/self/ns/pid").unwrap().ino());
}

#[tokio::test]
async fn a_covered_sysfs_is_refused_and_the_cover_named() {
    let Some(live) = Live::start() else { return };
    // The mount is done by a child: the shell stays, with the same mounts, to be looked at.
    let mut child = live.spawn(
        "mount -t tmpfs cover /sys/class; exec unshare --user --map-root-user --net --mount sh -c \
         'mount -t sysfs sysfs $D && echo mounted; echo done; read end'",
    );
    use std::io::{BufRead as _, BufReader, Write as _};
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"go\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "done", "the mount was to be refused");

    let pid = i32::try_from(child.id()).unwrap();
    let (check, told) = live.observer.explain_failure(pid, live.since_ns, PATIENCE).await.unwrap();
    drop(stdin);
    child.wait().unwrap();
    assert_eq!(check.verdict, Verdict::Refused);
    let Some(Reason::TooRevealing { fs_type, covering: Covering::Mounts(mounts) }) = &check.reason else {
        panic!("{check:#?}");
    };
    assert_eq!(&**fs_type, "sysfs");
    assert!(mounts.iter().any(|(path, kind)| path.ends_with("sys/class") && kind == "tmpfs"), "{mounts:?}");
    assert!(told.headline.contains("/sys/class (tmpfs)"), "{}", told.headline);
    let kept = live.observer.check(check.seq).expect("it is in the history");
    assert_eq!(
        (kept.verdict, kept.reason.as_ref().map(Reason::kernels)),
        (check.verdict, check.reason.as_ref())
    );
    // Nobody had to ask: it was recorded when the mount returned, with its result.
    assert_eq!(check.result, Some(libc::EPERM));
    let filter = CheckFilter { pid: Some(pid), denied_only: true, ..Default::default() };
    let refused: Vec<_> = live.observer.history(&filter);
    let refused = refused.iter().filter(|c| c.verdict == Verdict::Refused).count();
    assert_eq!(refused, 1, "once, whoever asks");
}

#[tokio::test]
async fn a_dropped_capability_is_named() {
    let Some(live) = Live::start() else { return };
    let ran = live.run(
        "exec unshare --user --map-root-user --net --mount \
         setpriv --bounding-set=-sys_admin --inh-caps=-sys_admin mount -t tmpfs none $D",
        true,
    );
    let (check, told) = live.failure(&ran).await;
    let Some(Reason::CapabilityDropped { userns, .. }) = check.reason else { panic!("{check:#?}") };
    assert_eq!((check.caller_userns, check.target_userns), (Some(userns), Some(userns)));
    assert!(told.fix.contains("CAP_SYS_ADMIN"), "{}", told.fix);
}

/// One script, one reason: what each call of the mounting and joining kind fails with.
#[tokio::test]
async fn each_failure_has_a_reason_of_its_own() {
    let Some(live) = Live::start() else { return };
    let inside = "exec unshare --user --map-root-user --mount";
    let cases = [
        (format!("{inside} mount -t mqueue mqueue $D"), "mqueue-without-own-ipcns"),
        (format!("{inside} mount -t cgroup2 none $D"), "cgroup-without-own-cgroupns"),
        (format!("{inside} mount -t bpf -o delegate_cmds=any none $D"), "option-not-for-userns"),
        (format!("mount -t tmpfs theirs $D; {inside} mount -o remount,size=1m $D"), "remount-of-others"),
        (format!("{inside} mount -t ext4 /dev/null $D"), "filesystem-not-for-userns"),
        ("exec unshare --user --map-root-user mount -t tmpfs none $D".to_string(), "mntns-owned-by-other-userns"),
        (
            "exec 9</proc/self/ns/user; exec unshare --user --map-root-user nsenter --user=/proc/self/fd/9 true"
                .to_string(),
            "setns-foreign-userns",
        ),
        (
            format!("{inside} --net setpriv --bounding-set=-sys_chroot --inh-caps=-sys_chroot \
                     nsenter --mount=/proc/self/ns/mnt true"),
            "capability-dropped",
        ),
    ];
    for (script, code) in cases {
        let ran = live.run(&script, true);
        assert!(!ran.success, "{script}: was to fail");
        let (check, told) = live.failure(&ran).await;
        assert_eq!(told.code, code, "{script}: {}\n{check:#?}", ran.stderr);
    }
}

#[tokio::test]
async fn strangers_are_told_apart() {
    let Some(live) = Live::start() else { return };
    let ran = live.run("exec unshare --user --map-root-user --mount mount -t proc proc $D", false);
    assert!(!ran.success);
    let denied: Vec<_> =
        live.checks_of(&ran).await.into_iter().filter(|c| c.verdict == Verdict::Denied).collect();
    let stranger = denied.iter().find(|c| c.new_fs_type() == Some("proc")).unwrap();
    let reason = stranger.reason.as_ref().unwrap();
    assert_eq!(reason.code(), "not-a-pod-process");
    assert_eq!(reason.kernels().code(), "proc-without-own-pidns");
}

#[tokio::test]
async fn forks_are_not_recorded_and_namespaces_made_are() {
    let Some(live) = Live::start() else { return };
    let ran = live.run("for i in 1 2 3 4 5; do /bin/true; done; exec unshare --user --net true", true);
    assert!(ran.success, "{}", ran.stderr);
    let checks = live.checks_of(&ran).await;
    assert!(checks.iter().all(|c| c.syscall.name() != "clone"), "{checks:#?}");
    assert!(checks.iter().any(|c| c.call() == "unshare(user|net)"), "{checks:#?}");
}

/// Copying a process asks for CAP_SYS_ADMIN once for each mapping; only the check for the namespaces counts.
#[tokio::test]
async fn a_clone_with_namespaces_is_one_check() {
    let Some(live) = Live::start() else { return };
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::SIGCHLD;
    // SAFETY: like fork(2), without a stack of its own; the child calls nothing but _exit.
    let child = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    if child == 0 {
        // SAFETY: ends the child at once.
        unsafe { libc::_exit(0) };
    }
    let child = i32::try_from(child).unwrap();
    assert!(child > 0, "{}", std::io::Error::last_os_error());
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(child), None).unwrap();
    assert!(live.observer.caught_up(PATIENCE).await);
    let tid = nix::unistd::gettid().as_raw();
    let checks = live.observer.history(&CheckFilter { pid: Some(tid), ..Default::default() });
    let clones: Vec<_> = checks.iter().filter(|c| c.tid == tid && c.call() == "clone(user|net)").collect();
    assert_eq!(clones.len(), 1, "{checks:#?}");
    assert_ne!(clones[0].target_userns, Some(INIT), "asked in the new user namespace");
    // The other rungs are on the function itself, which a compiler may inline into the memory's accounting.
    if live.observer.status().state == State::Running(Rung::TpBtf) {
        assert!(live.observer.status().kernel.filtered > 0, "the memory's checks were counted");
    }
}

impl Live {
    /// Waits until every check is accounted for.
    async fn quiet(&self) -> Status {
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let status = self.observer.status();
            let accounted = status.seen + status.sampled_out + status.kernel.lost;
            if accounted == status.kernel.produced || std::time::Instant::now() > deadline {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Whatever this kernel has: each rung above the one that works is named, with what the kernel said.
#[test]
fn each_step_down_the_ladder_is_named() {
    let status = Observer::start(&ObserverSettings::default(), Arc::default()).status();
    let State::Running(rung) = status.state else {
        eprintln!("SKIPPED: {}", status.message);
        return;
    };
    let steps: Vec<_> = status
        .degradations
        .iter()
        .filter_map(|step| match step {
            Degradation::Refused { rung, problem } => Some((*rung, problem.as_str())),
            _ => None,
        })
        .collect();
    let above: Vec<_> = Rung::LADDER.into_iter().take_while(|above| *above != rung).collect();
    assert_eq!(steps.iter().map(|(rung, _)| *rung).collect::<Vec<_>>(), above);
    assert!(steps.iter().all(|(_, problem)| !problem.is_empty()), "{steps:?}");
    assert!(status.message.contains(rung.name()), "{}", status.message);
    eprintln!("{}; {steps:?}", status.message);
}

#[test]
fn a_disabled_observer_says_so() {
    let settings = ObserverSettings { enabled: false, ..Default::default() };
    let status = Observer::start(&settings, Arc::default()).status();
    assert_eq!(status.state, State::Disabled);
    assert!(status.message.contains("configuration"), "{}", status.message);
}
