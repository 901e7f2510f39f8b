//! Containers' cgroups on the machine's real hierarchies, and v2's files on a directory that looks like one.

use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};

use super::tests::{FakeV2, exists_anywhere, real, skipped};
use super::*;
use crate::container::model::ContainerId;

fn container(id: &str) -> ContainerId {
    ContainerId::from_string(id.to_owned())
}

fn pod(id: &str) -> PodId {
    PodId::from_string(id.to_owned())
}

/// Removes what a test made, also when it fails.
struct Made<'a>(&'a Cgroups, Planned);

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let _ = self.0.kill(&self.1);
        let _ = self.0.remove(&self.1);
        assert!(std::thread::panicking() || !exists_anywhere(self.0, self.1.path()));
    }
}

/// A shell that first moves itself into the cgroup, as a shim does.
fn shell_in(made: &MadeContainer, script: &str) -> Command {
    let procs = made.procs().unwrap();
    let mut command = Command::new("sh");
    command.args(["-c", script]).stdout(Stdio::piped()).stderr(Stdio::piped());
    // SAFETY: the closure only writes to descriptors that live in it.
    unsafe {
        std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
            for fd in &procs {
                rustix::io::write(fd.as_fd(), b"0")?;
            }
            Ok(())
        });
    }
    command
}

fn controller_dir(cgroups: &Cgroups, planned: &Planned, controller: &str) -> Option<PathBuf> {
    let layout = &cgroups.inner.layout;
    let v1 = layout.v1_of(controller).map(|h| planned.below(&h.mount));
    v1.or_else(|| layout.v2.as_ref().filter(|_| layout.is_v2()).map(|mount| planned.below(mount)))
}

#[test]
fn a_container_may_use_its_devices_and_no_others() {
    let Some(cgroups) = real("container devices") else { return };
    let planned = cgroups.plan_container("", &pod("sntctpod"), &container("sntctdev")).unwrap();
    let made = cgroups.create_container(&planned, &Resources::default(), &Devices::defaults(), None).unwrap();
    let _made = Made(&cgroups, planned.clone());
    let script = "echo x > /dev/null && echo null; head -c1 /dev/zero > /dev/null && echo zero; \
                  (: < /dev/kmsg) 2>/dev/null && echo kmsg; \
                  d=$(mktemp -d) && mknod $d/kmsg c 1 11 && echo mknod; rm -r $d; \
                  cat /proc/self/cgroup";
    let output = shell_in(&made, script).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("null\nzero\nmknod\n"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let outside: Vec<&str> =
        text.lines().filter(|l| l.contains(':') && !l.ends_with(planned.path())).collect();
    assert!(outside.is_empty(), "not in the container's cgroup: {outside:?}");
}

#[test]
fn a_privileged_container_may_use_every_device() {
    let Some(cgroups) = real("container devices of a privileged one") else { return };
    let planned = cgroups.plan_container("", &pod("sntctpod"), &container("sntctpriv")).unwrap();
    let made = cgroups.create_container(&planned, &Resources::default(), &Devices::all(), None).unwrap();
    let _made = Made(&cgroups, planned);
    let output = shell_in(&made, ": < /dev/kmsg").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn what_the_kernel_kills_for_memory_is_counted() {
    let Some(cgroups) = real("container OOM count") else { return };
    if controller_dir(
        &cgroups,
        &cgroups.plan_container("", &pod("sntctpod"), &container("x")).unwrap(),
        "memory",
    )
    .is_none()
    {
        return skipped("container OOM count", "no memory controller here");
    }
    let planned = cgroups.plan_container("", &pod("sntctpod"), &container("sntctoom")).unwrap();
    let limit = 16u64 << 20;
    let resources = Resources {
        memory_limit: Some(limit),
        memory_swap_limit: i64::try_from(limit).ok(),
        ..Resources::default()
    };
    let made = cgroups.create_container(&planned, &resources, &Devices::defaults(), None).unwrap();
    let _made = Made(&cgroups, planned.clone());
    assert_eq!(cgroups.oom_kills(&planned).unwrap(), 0);
    // The shell's own copy of a long string.
    let output = shell_in(&made, "a=0123456789abcdef; while :; do a=$a$a; done").output().unwrap();
    assert!(!output.status.success());
    assert_eq!(cgroups.oom_kills(&planned).unwrap(), 1);
    cgroups.remove(&planned).unwrap();
    assert_eq!(cgroups.oom_kills(&planned).unwrap(), 0, "gone");
}

#[test]
fn an_update_is_whole_or_nothing() {
    let Some(cgroups) = real("container update") else { return };
    let v2 = cgroups.inner.layout.is_v2();
    let planned = cgroups.plan_container("/sntct-up", &pod("sntctpod"), &container("sntctup")).unwrap();
    let first = Resources {
        cpu_shares: Some(512),
        cpu_period: Some(100_000),
        cpu_quota: Some(50_000),
        memory_limit: Some(64 << 20),
        memory_swap_limit: Some(64 << 20),
        ..Resources::default()
    };
    let made = cgroups.create_container(&planned, &first, &Devices::all(), None).unwrap();
    let _made = Made(&cgroups, planned.clone());
    let read = |controller: &str, file: &str| {
        let path = controller_dir(&cgroups, &planned, controller).unwrap().join(file);
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    };
    // Shares or weight, quota, memory, swap.
    let limits = || {
        if v2 {
            let quota = read("cpu", "cpu.max");
            let quota = quota.split(' ').next().unwrap().replace("max", "-1");
            let (memory, swap) = (read("memory", "memory.max"), read("memory", "memory.swap.max"));
            let (memory, swap): (u64, u64) = (memory.parse().unwrap(), swap.parse().unwrap());
            return [read("cpu", "cpu.weight"), quota, (memory >> 20).to_string(), (swap >> 20).to_string()];
        }
        let (memory, both) =
            (read("memory", "memory.limit_in_bytes"), read("memory", "memory.memsw.limit_in_bytes"));
        let (memory, both): (u64, u64) = (memory.parse().unwrap(), both.parse().unwrap());
        let shares: u64 = read("cpu", "cpu.shares").parse().unwrap();
        let weight = limits::weight(shares).to_string();
        [
            weight,
            read("cpu", "cpu.cfs_quota_us"),
            (memory >> 20).to_string(),
            ((both - memory) >> 20).to_string(),
        ]
    };
    let before = limits();
    let none = Resources::default();
    // Memory beyond the old limit of memory and swap, and no quota.
    let more = Resources {
        cpu_quota: Some(-1),
        memory_limit: Some(128 << 20),
        memory_swap_limit: Some(256 << 20),
        ..Resources::default()
    };
    let second = merge(&first, &more);
    cgroups.update(&planned, &second, &none).unwrap();
    assert_eq!(limits(), [before[0].as_str(), "-1", "128", "128"]);
    // Back in one step.
    cgroups.update(&planned, &first, &none).unwrap();
    assert_eq!(limits(), before);
    assert_eq!(before[1..], ["50000", "64", "0"]);
    // One value that the kernel refuses: all the others are what they were.
    let wrong = Resources {
        cpu_shares: Some(100),
        memory_limit: Some(32 << 20),
        memory_swap_limit: Some(32 << 20),
        cpuset_cpus: Some("4000".into()),
        ..Resources::default()
    };
    let error = cgroups.update(&planned, &merge(&first, &wrong), &none).unwrap_err();
    assert!(error.to_string().contains("4000"), "{error}");
    assert_eq!(limits(), before);
    // Less than is in use: a process holds 40 MiB.
    let mut holder = shell_in(&made, "a=$(head -c 20000000 /dev/zero | tr '\\0' x); echo held; read b")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = [0u8; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
    let less = Resources { memory_limit: Some(4 << 20), ..Resources::default() };
    let error = cgroups.update(&planned, &merge(&first, &less), &none).unwrap_err();
    let _ = holder.stdin.take().unwrap().write_all(b"\n");
    holder.wait().unwrap();
    assert!(matches!(&error, CgroupError::MemoryInUse { usage, .. } if *usage > 4 << 20), "{error}");
    drop(_made);
    for mount in cgroups.inner.layout.mounts() {
        // Beside v1 it went with what was in it.
        let _ = std::fs::remove_dir(mount.join("sntct-up"));
    }
}

#[test]
fn what_cannot_be_made_leaves_nothing() {
    let Some(cgroups) = real("container errors") else { return };
    let planned = cgroups.plan_container("", &pod("sntctpod"), &container("sntctwrong")).unwrap();
    let wrong = Resources { cpuset_cpus: Some("4000".into()), ..Resources::default() };
    let error = cgroups.create_container(&planned, &wrong, &Devices::all(), None).unwrap_err();
    assert!(error.to_string().contains("4000"), "{error}");
    assert!(!exists_anywhere(&cgroups, planned.path()));
    assert!(cgroups.procs(&planned).is_err());
}

#[test]
fn the_device_program_loads_and_decides() {
    if !rustix::process::geteuid().is_root() {
        return skipped("device program", "needs root to load BPF programs");
    }
    let dir = Path::new("/sys/fs/cgroup/unified");
    let dir = if dir.is_dir() { dir } else { Path::new("/sys/fs/cgroup") };
    if !dir.join("cgroup.procs").exists() || !dir.join("cgroup.controllers").exists() {
        return skipped("device program", "no cgroup2 is mounted");
    }
    let dir = dir.join("sntctbpf");
    std::fs::create_dir_all(&dir).unwrap();
    let Devices(Some(rules)) = Devices::defaults() else { panic!("defaults") };
    let outcome = bpf::attach(&dir, &rules);
    let seen = outcome.as_ref().ok().map(|()| {
        let procs = std::fs::OpenOptions::new().write(true).open(dir.join("cgroup.procs")).unwrap();
        let mut command = Command::new("sh");
        let script = "echo x > /dev/null && echo null; (: < /dev/kmsg) 2>/dev/null && echo kmsg; \
                      d=$(mktemp -d) && mknod $d/kmsg c 1 11 && echo mknod; rm -r $d";
        command.args(["-c", script]).stderr(Stdio::piped());
        // SAFETY: the closure only writes to a descriptor that lives in it.
        unsafe {
            std::os::unix::process::CommandExt::pre_exec(&mut command, move || {
                rustix::io::write(procs.as_fd(), b"0")?;
                Ok(())
            });
        }
        command.output().map(|o| String::from_utf8_lossy(&o.stdout).into_owned())
    });
    std::fs::remove_dir(&dir).unwrap();
    outcome.unwrap();
    assert_eq!(seen.unwrap().unwrap(), "null\nmknod\n");
}

#[test]
fn a_writable_v2_cgroup_is_given_to_the_pods_root() {
    if !rustix::process::geteuid().is_root() {
        return skipped("v2 delegation", "needs root to change owners");
    }
    let files = ["memory.max", "memory.current", "memory.events", "cgroup.threads"];
    let fake = FakeV2::new("memory", &["kubepods", "kubepods/c1"], &files);
    let planned = fake.cgroups.plan_container("/kubepods", &pod("sntctpod"), &container("c1")).unwrap();
    let resources = Resources { memory_limit: Some(100), ..Resources::default() };
    let made = fake
        .cgroups
        .create_container(&planned, &resources, &Devices::all(), Some((100_000, 100_001)))
        .unwrap();
    assert_eq!(made.procs().unwrap().len(), 1);
    assert!(made.procs().unwrap()[0].as_raw_fd() > 2);
    let owner = |file: &str| {
        let stat = std::fs::metadata(fake.dir.path().join("kubepods/c1").join(file)).unwrap();
        let (uid, gid) =
            (std::os::unix::fs::MetadataExt::uid(&stat), std::os::unix::fs::MetadataExt::gid(&stat));
        (uid, gid)
    };
    for file in ["", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"] {
        assert_eq!(owner(file), (100_000, 100_001), "{file:?}");
    }
    assert_eq!(owner("memory.max"), (0, 0), "its limits are not its own");

    let write = |file: &str, text: &str| std::fs::write(fake.dir.path().join("kubepods/c1").join(file), text);
    write("memory.events", "low 0\nhigh 0\nmax 4\noom 3\noom_kill 2\noom_group_kill 0\n").unwrap();
    assert_eq!(fake.cgroups.oom_kills(&planned).unwrap(), 2);
    write("memory.current", "90\n").unwrap();
    let less = Resources { memory_limit: Some(50), ..Resources::default() };
    let error = fake.cgroups.update(&planned, &less, &Resources::default()).unwrap_err();
    assert!(matches!(error, CgroupError::MemoryInUse { usage: 90, limit: 50, .. }), "{error}");
    assert_eq!(fake.read("kubepods/c1/memory.max"), "100");
}

#[test]
fn what_a_container_uses_is_read() {
    let Some(cgroups) = real("container usage") else { return };
    let planned = cgroups.plan_container("", &pod("sntctpod"), &container("sntctuse")).unwrap();
    let resources = Resources { memory_limit: Some(256 << 20), ..Resources::default() };
    let made = cgroups.create_container(&planned, &resources, &Devices::defaults(), None).unwrap();
    let _made = Made(&cgroups, planned.clone());
    let script = "a=$(head -c 8000000 /dev/zero | tr '\\0' x); i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; \
                  echo held; read b";
    let mut holder = shell_in(&made, script).stdin(Stdio::piped()).spawn().unwrap();
    let mut said = [0u8; 5];
    std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut said).unwrap();
    let begun = std::time::Instant::now();
    let usage = cgroups.usage(planned.path()).unwrap();
    eprintln!("{} usage read in {:?}: {usage:?}", cgroups.describe(), begun.elapsed());
    let _ = holder.stdin.take().unwrap().write_all(b"\n");
    holder.wait().unwrap();
    let (cpu, memory) = (usage.cpu.unwrap(), usage.memory.unwrap());
    assert!(cpu.total > 10_000_000 && cpu.user.unwrap() > 0, "{cpu:?}");
    assert!(memory.rss > 7_000_000 && memory.usage >= memory.rss && memory.faults > 0, "{memory:?}");
    assert_eq!((usage.processes, memory.limit, memory.oom_kills), (1, Some(256 << 20), Some(0)));
    cgroups.remove(&planned).unwrap();
    assert!(cgroups.usage(planned.path()).is_none());
}
