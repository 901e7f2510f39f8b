//! The inventory of namespaces against the running kernel: real processes, real pins, real descriptors. As root;
//! elsewhere each test says on stderr why it was skipped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on")]

use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sandboxd::observer::inventory::{Context, Found, Hold, Inventory, Pin, State};
use sandboxd::observer::{Attribution, PodKeys, ProcessKey};
use sandboxd::pod::model::{FlowKind, NamespaceInfo, NsInode, NsKind, PodId};

/// `None` where the test cannot run. One test at a time: a new mount namespace has a copy of every pin.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: not root");
        return None;
    }
    Some(ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A process that prints one line when it is ready, and waits until it is dropped.
struct Waits(Child);

impl Waits {
    /// A script; what it execs last must wait on standard input.
    fn run(script: &str) -> Self {
        let mut child = Command::new("sh")
            .args(["-ec", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{script}");
        Self(child)
    }

    fn pid(&self) -> i32 {
        i32::try_from(self.0.id()).unwrap()
    }

    /// The inode of a namespace that the process is in (it execs all the way, and does not fork).
    fn inode(&self, kind: &str) -> NsInode {
        inode(Path::new(&format!("/proc/{}/ns/{kind}", self.pid())))
    }
}

impl Drop for Waits {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn inode(path: &Path) -> NsInode {
    NsInode(std::fs::metadata(path).unwrap().ino())
}

/// A bind mount of a namespace, in this mount namespace.
struct Pinned(PathBuf);

impl Pinned {
    fn new(namespace: &str, path: PathBuf) -> Self {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(Command::new("mount").args(["--bind", namespace]).arg(&path).status().unwrap().success());
        Self(path)
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A network namespace with a pin and nobody in it.
fn pinned_netns(path: PathBuf) -> (Pinned, NsInode) {
    let process = Waits::run("exec unshare --net sh -c 'echo ready; read x'");
    let inode = process.inode("net");
    let pin = Pinned::new(&format!("/proc/{}/ns/net", process.pid()), path);
    drop(process);
    (pin, inode)
}

fn read() -> Inventory {
    Inventory::read(&Context::default())
}

fn found(inventory: &Inventory, inode: NsInode) -> &Found {
    inventory.get(inode).unwrap_or_else(|| panic!("{inode} was not found"))
}

#[test]
fn a_process_is_in_its_namespaces_and_its_userns_owns_them() {
    let Some(_alone) = alone() else { return };
    let process =
        Waits::run("exec unshare --user --map-root-user --net --uts --ipc sh -c 'echo ready; read x'");
    let inventory = read();
    let user = found(&inventory, process.inode("user"));
    assert_eq!((user.kind, user.state, user.owner), (NsKind::User, State::InUse, Some(NsInode(0xEFFF_FFFD))));
    assert_eq!((user.owner_uid, user.uid_map.first().copied()), (Some(0), Some((0, 0, 1))));
    assert!(user.processes.iter().any(|p| p.pid == process.pid() && p.comm == "sh"), "{user:?}");
    for kind in ["net", "uts", "ipc"] {
        let owned = found(&inventory, process.inode(kind));
        assert_eq!((owned.owner, owned.process_count, owned.state), (Some(user.inode), 1, State::InUse));
        assert!(!owned.host && owned.message.is_empty());
    }
}

#[test]
fn a_userns_without_a_process_is_held_by_what_it_owns() {
    let Some(_alone) = alone() else { return };
    // The outer user namespace is left at once: only the inner one, its child, keeps it.
    let inner = "unshare --user --map-root-user sh -c 'echo ready; read x'";
    let process = Waits::run(&format!("exec unshare --user --map-root-user {inner}"));
    let inventory = read();
    let inner = found(&inventory, process.inode("user"));
    let outer = found(&inventory, inner.owner.unwrap());
    assert_eq!((outer.kind, outer.process_count, outer.state), (NsKind::User, 0, State::Held));
    let child = Hold::Child { kind: NsKind::User, inode: inner.inode };
    assert_eq!((&outer.holds[..], outer.message.as_str()), (&[child][..], ""));
    let order = |inode| inventory.namespaces.iter().position(|found| found.inode == inode);
    assert!(order(outer.inode) < order(inner.inode));
}

#[test]
fn a_bind_mount_that_somebody_made_is_a_pin_and_no_leak() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (pin, inode) = pinned_netns(dir.path().join("with space"));
    let inventory = read();
    let namespace = found(&inventory, inode);
    assert_eq!(
        (namespace.state, namespace.process_count, namespace.message.as_str()),
        (State::Pinned, 0, "")
    );
    let [Hold::Pin(seen)] = &namespace.holds[..] else { panic!("{namespace:?}") };
    assert_eq!((&seen.path, seen.here, seen.deleted), (&pin.0, true, false));
    assert_eq!(namespace.owner, Some(NsInode(0xEFFF_FFFD)), "through the pin");
}

#[test]
fn a_pin_in_another_mount_namespace_is_found_and_opened_there() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("net");
    std::fs::write(&path, "").unwrap();
    let script = format!(
        "exec unshare --mount --propagation private sh -ec 'unshare --net=\"$1\" true; echo ready; read x' - {}",
        path.display()
    );
    let process = Waits::run(&script);
    let inode = inode(Path::new(&format!("/proc/{}/root{}", process.pid(), path.display())));
    let inventory = read();
    let namespace = found(&inventory, inode);
    assert_eq!((namespace.kind, namespace.state), (NsKind::Net, State::Pinned));
    assert_eq!(namespace.owner, Some(NsInode(0xEFFF_FFFD)), "through the root of its witness");
    let [Hold::Pin(pin)] = &namespace.holds[..] else { panic!("{namespace:?}") };
    assert_eq!((&pin.path, pin.here, pin.mntns), (&path, false, process.inode("mnt")));
}

#[test]
fn a_descriptor_of_a_stranger_is_a_leak_that_says_what_ends_it() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let (pin, inode) = pinned_netns(dir.path().join("net"));
    let holder = Waits::run(&format!("exec 7<{}; echo ready; read x", pin.0.display()));
    drop(pin);
    let inventory = read();
    let namespace = found(&inventory, inode);
    assert_eq!((namespace.state, namespace.process_count), (State::Leaked, 0), "{namespace:?}");
    let expected = format!("Descriptor 7 of sh (pid {}) keeps it", holder.pid());
    assert!(namespace.message.contains(&expected), "{}", namespace.message);
    assert!(inventory.leaked().any(|leaked| leaked.inode == inode));
    drop(holder);
    assert!(read().get(inode).is_none(), "it ended as it was said to");
}

#[test]
fn what_a_leaked_userns_owns_leaks_with_it() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("run");
    let process = Waits::run("exec unshare --user --map-root-user --net sh -c 'echo ready; read x'");
    let (user, net) = (process.inode("user"), process.inode("net"));
    let id = "ab".repeat(32);
    let path = state.join("pods").join(&id).join("ns/net");
    let pin = Pinned::new(&format!("/proc/{}/ns/net", process.pid()), path.clone());
    drop(process);

    // No daemon has this state directory.
    let inventory = read();
    let (userns, netns) = (found(&inventory, user), found(&inventory, net));
    assert_eq!((netns.state, userns.state), (State::Leaked, State::Leaked), "{netns:?} {userns:?}");
    assert_eq!(netns.pod_id.as_ref().map(PodId::as_str), Some(id.as_str()));
    for words in
        [&path.display().to_string(), "of a sandboxd that does not run", "umount", "sandboxd serve --state"]
    {
        assert!(netns.message.contains(words), "{words:?}: {}", netns.message);
    }
    assert!(
        userns.message.contains(&format!("It owns net {net}, which is leaked, too")),
        "{}",
        userns.message
    );

    // A daemon has it, and knows the pod; or does not.
    let pods = Attribution::default();
    let context = Context { pods: Some(&pods), state: Some(&state), ..Context::default() };
    let inventory = Inventory::read(&context);
    let netns = found(&inventory, net);
    assert_eq!(netns.state, State::Leaked);
    assert!(netns.message.contains("which sandboxd does not know"), "{}", netns.message);
    let keys = PodKeys {
        id: PodId::from_string(id),
        name: "default/web".to_owned(),
        flow: FlowKind::RuntimeFirst,
        created_at_ns: 0,
        namespaces: Vec::new(),
        processes: Vec::new(),
        netns_made: None,
    };
    pods.upsert(keys);
    let inventory = Inventory::read(&context);
    assert_eq!(found(&inventory, net).state, State::Pinned);
    assert_eq!(found(&inventory, user).state, State::Held);

    // The lock of a daemon that runs, even if its pods are not known here.
    let lock = std::fs::File::create(state.join("sandboxd.lock")).unwrap();
    lock.lock().unwrap();
    assert_eq!(found(&read(), net).state, State::Pinned);
    drop(lock);
    assert_eq!(found(&read(), net).state, State::Leaked);

    drop(pin);
    let inventory = read();
    assert!(inventory.get(net).is_none() && inventory.get(user).is_none(), "it ended as it was said to");
}

#[test]
fn a_netns_older_than_its_pods_userns_has_the_wrong_owner() {
    let Some(_alone) = alone() else { return };
    let process = Waits::run("exec unshare --net unshare --user --map-root-user sh -c 'echo ready; read x'");
    let (user, net) = (process.inode("user"), process.inode("net"));
    let own = |kind, inode| NamespaceInfo { kind, inode, owner: None, host: false, pin: None };
    let pods = Attribution::default();
    pods.upsert(PodKeys {
        id: PodId::from_string("cd".repeat(32)),
        name: "default/old".to_owned(),
        flow: FlowKind::NetworkFirst,
        created_at_ns: 0,
        namespaces: vec![own(NsKind::User, user), own(NsKind::Net, net)],
        processes: vec![ProcessKey { pid: process.pid(), role: "infra".to_owned() }],
        netns_made: None,
    });
    let inventory = Inventory::read(&Context { pods: Some(&pods), ..Context::default() });
    let netns = found(&inventory, net);
    assert!(netns.wrong_owner && netns.state == State::InUse && netns.pod_name == "default/old", "{netns:?}");
    assert!(
        netns.message.contains(&format!("not by the pod's own user namespace {user}")),
        "{}",
        netns.message
    );
    let userns = found(&inventory, user);
    assert!(!userns.wrong_owner && userns.processes[0].role == "infra", "{userns:?}");
}

#[test]
fn a_thread_that_went_elsewhere_is_in_there() {
    let Some(_alone) = alone() else { return };
    let (told, tell) = std::sync::mpsc::channel();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || {
        // SAFETY: only this thread leaves the network namespace, and it ends right after.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
        told.send(inode(Path::new("/proc/thread-self/ns/net"))).unwrap();
        let _ = ended.recv();
    });
    let netns = tell.recv().unwrap();
    let inventory = read();
    let namespace = found(&inventory, netns);
    assert_eq!((namespace.state, namespace.process_count), (State::InUse, 1));
    assert_eq!(namespace.processes[0].pid.unsigned_abs(), std::process::id());
    drop(end);
    thread.join().unwrap();
}

#[test]
fn a_process_holds_the_pid_namespace_of_its_children() {
    let Some(_alone) = alone() else { return };
    // unshare without --fork: its first child is the first process in there, and ends with our end of the pipe.
    let process = Waits::run("exec unshare --pid sh -c 'exec 3<&0; (read y <&3) & echo ready; read x <&3'");
    let link = format!("/proc/{}/ns/pid_for_children", process.pid());
    let children = inode(Path::new(&link));
    assert_ne!(children, process.inode("pid"));
    let inventory = read();
    let namespace = found(&inventory, children);
    assert_eq!((namespace.state, namespace.process_count), (State::InUse, 1));
    assert!(matches!(&namespace.holds[..], [Hold::ForChildren { holder }] if holder.pid == process.pid()));
}

/// Of this thread, which reads.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Prints what a read costs on a node with a hundred network namespaces more.
#[test]
fn a_hundred_namespaces_are_read_in_one_go() {
    let Some(_alone) = alone() else { return };
    let dir = tempfile::tempdir().unwrap();
    let script = format!(
        "cd {}; exec unshare --mount --propagation private sh -ec 'for i in $(seq 100); do : >$i; \
         unshare --net=$PWD/$i true; done; echo ready; read x'",
        dir.path().display()
    );
    let process = Waits::run(&script);
    let (mut best, mut least) = (Duration::MAX, Duration::MAX);
    let mut inventory = read();
    for _ in 0..5 {
        let (started, before) = (Instant::now(), cpu_time());
        inventory = read();
        best = best.min(started.elapsed());
        least = least.min(cpu_time().saturating_sub(before));
    }
    let own = |found: &&Found| {
        let is_own = |pin: &Pin| pin.mntns == process.inode("mnt") && pin.path.starts_with(dir.path());
        found.holds.iter().any(|hold| matches!(hold, Hold::Pin(pin) if is_own(pin)))
    };
    let pinned: Vec<_> = inventory.namespaces.iter().filter(own).collect();
    assert_eq!(pinned.len(), 100);
    assert!(pinned.iter().all(|found| found.state == State::Pinned && found.owner.is_some()));
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let processes =
        processes.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok()).count();
    eprintln!(
        "a read of {} namespaces (100 pinned) with {processes} processes: {:.1} ms, of them {:.1} ms of CPU",
        inventory.namespaces.len(),
        best.as_secs_f64() * 1e3,
        least.as_secs_f64() * 1e3
    );
}
