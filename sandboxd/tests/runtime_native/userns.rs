//! A pod with a user namespace of its own.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use sandboxd::pod::model::{NsKind, Sysfs};
use sandboxd::pod::spec::PidMode;
use sandboxd::runtime::{Runtime, namespaces};

use super::setup::{Planned, created, host, need_root, runtime, started};

#[tokio::test]
async fn the_pods_user_namespace_owns_the_rest_and_the_mapped_root_owns_it() {
    need_root!();
    let planned = Planned::userns();
    let pod = started(&runtime().await, &planned).await;
    let userns = pod.inode(NsKind::User);
    assert_ne!(userns, host(NsKind::User));
    for kind in [NsKind::Net, NsKind::Mnt, NsKind::Pid, NsKind::Ipc, NsKind::Uts, NsKind::Cgroup] {
        assert_ne!(pod.inode(kind), host(kind), "{kind:?}");
        assert_eq!(pod.owner(kind), userns, "{kind:?}");
    }
    let fd = pod.infra.namespace(NsKind::User).unwrap();
    assert_eq!(namespaces::owner_uid(fd.as_fd()).unwrap(), planned.base());
    let parent = namespaces::parent(fd.as_fd()).unwrap().unwrap();
    assert_eq!(namespaces::inode(parent.as_fd()).unwrap(), host(NsKind::User));
    let map: Vec<u32> = pod.proc("uid_map").split_whitespace().map(|n| n.parse().unwrap()).collect();
    assert_eq!(map, [0, planned.base(), 65536]);
    let ids = format!("{0}\t{0}\t{0}\t{0}", planned.base());
    assert_eq!(
        (pod.status("Uid"), pod.status("Gid"), pod.status("Groups")),
        (ids.clone(), ids, String::new())
    );
    pod.end().await;
}

#[tokio::test]
async fn sysfs_is_the_pods_own_and_read_only() {
    need_root!();
    let planned = Planned::userns();
    let pod = started(&runtime().await, &planned).await;
    assert_eq!(pod.infra.sysfs(), Sysfs::Mounted);
    let names: Vec<_> =
        fs::read_dir(pod.root("/sys/class/net")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["lo"]);
    for (path, options) in [
        ("/sys", ["ro", "nosuid", "nodev", "noexec"].as_slice()),
        ("/proc", &["rw", "nosuid", "nodev", "noexec"]),
        ("/proc/sys", &["ro", "nosuid", "nodev", "noexec"]),
        ("/dev/shm", &["rw", "nosuid", "nodev", "noexec"]),
        ("/dev/pts", &["rw", "nosuid", "noexec"]),
        ("/dev/mqueue", &["nosuid", "nodev", "noexec"]),
        ("/", &["rw"]),
    ] {
        for option in options {
            assert!(pod.mount_has(path, option), "{path} {option}");
        }
    }
    // Masked: a directory is empty, a file is /dev/null's.
    assert_eq!(fs::read_dir(pod.root("/sys/firmware")).unwrap().count(), 0);
    for file in ["/proc/kcore", "/proc/keys", "/proc/timer_list"] {
        if let Ok(stat) = fs::metadata(pod.root(file)) {
            assert_eq!(stat.rdev(), fs::metadata("/dev/null").unwrap().rdev(), "{file}");
        }
    }
    pod.end().await;
}

#[tokio::test]
async fn devices_files_and_names_are_there() {
    need_root!();
    let mut planned = Planned::userns();
    planned.plan.spec.sysctls =
        [("net.ipv4.ip_unprivileged_port_start", "80"), ("kernel.shm_rmid_forced", "1")]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into();
    let pod = started(&runtime().await, &planned).await;
    for device in ["null", "zero", "full", "random", "urandom", "tty"] {
        let (inside, outside) = (pod.root(&format!("/dev/{device}")), format!("/dev/{device}"));
        assert_eq!(fs::metadata(inside).unwrap().rdev(), fs::metadata(outside).unwrap().rdev(), "{device}");
    }
    fs::write(pod.root("/dev/null"), b"x").unwrap();
    assert_eq!(fs::read_link(pod.root("/dev/fd")).unwrap().to_str(), Some("/proc/self/fd"));
    assert_eq!(pod.read("/etc/resolv.conf"), "nameserver 192.0.2.1\n");
    assert_eq!(pod.read("/etc/hostname"), "pod-host\n");
    assert_eq!(fs::metadata(pod.root("/etc")).unwrap().uid(), planned.base());
    assert_eq!(fs::metadata(pod.root("/dev/shm")).unwrap().mode() & 0o7777, 0o1777);
    let pid = pod.infra.infra_pid();
    let inside = |args: &[&str]| {
        let target = pid.to_string();
        let mut nsenter = std::process::Command::new("nsenter");
        let output = nsenter.args(["-t", &target, "-U", "-n", "-u", "-i"]).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(inside(&["uname", "-n"]), "pod-host");
    assert_eq!(inside(&["cat", "/proc/sys/net/ipv4/ip_unprivileged_port_start"]), "80");
    pod.end().await;
}

#[tokio::test]
async fn the_pause_may_do_little() {
    need_root!();
    let planned = Planned::userns();
    let pod = started(&runtime().await, &planned).await;
    assert_eq!(pod.status("Seccomp"), "2");
    assert_eq!(pod.status("NoNewPrivs"), "1");
    for (set, mask) in [
        ("CapBnd", "00000000a80425fb"),
        ("CapPrm", "00000000a80425fb"),
        ("CapEff", "00000000a80425fb"),
        ("CapInh", "0000000000000000"),
        ("CapAmb", "0000000000000000"),
    ] {
        assert_eq!(pod.status(set), mask, "{set}");
    }
    assert_eq!(pod.status("Umask"), "0022");
    let limits = pod.proc("limits");
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().collect::<Vec<_>>()[3..5], ["1024", "1024"]);
    let pid = pod.infra.infra_pid();
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let mut fds: Vec<_> = fds.map(|e| fs::read_link(e.unwrap().path()).unwrap()).collect();
    fds.dedup();
    assert_eq!(fds, [std::path::Path::new("/dev/null")]);
    // A session of its own: neither the shim's nor the daemon's.
    let stat = pod.proc("stat");
    let session: i32 = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap().parse().unwrap();
    assert_eq!(session, pid);
    pod.end().await;
}

#[tokio::test]
async fn zombies_are_reaped_and_term_ends_it_with_0() {
    need_root!();
    for mode in [PidMode::Pod, PidMode::Container] {
        let mut planned = Planned::userns();
        planned.plan.spec.namespaces.pid = mode;
        let pod = started(&runtime().await, &planned).await;
        let target = pod.infra.infra_pid().to_string();
        // A child that outlives its parent is the pause's.
        let status = std::process::Command::new("nsenter")
            .args([
                "-t",
                &target,
                "-U",
                "-p",
                "--",
                "sh",
                "-c",
                "(sleep 0.05 & sleep 0.05 & sleep 0.05 &) ; exit 0",
            ])
            .status()
            .unwrap();
        assert!(status.success());
        tokio::time::sleep(std::time::Duration::from_millis(400)).await;
        let left = pod.proc(&format!("task/{target}/children"));
        assert_eq!(left.trim(), "", "children left");
        let signalled = rustix::process::pidfd_send_signal(pod.infra.pidfd(), rustix::process::Signal::TERM);
        signalled.unwrap();
        let ended = tokio::time::timeout(std::time::Duration::from_secs(5), pod.infra.wait()).await;
        assert_eq!(ended, Ok(sandboxd::runtime::Exit::Code(0)));
        pod.end().await;
    }
}

#[tokio::test]
async fn run_as_user_has_no_capabilities_and_only_its_groups() {
    need_root!();
    let mut planned = Planned::userns();
    let security = &mut planned.plan.spec.security;
    security.run_as_user = Some(1000);
    security.run_as_group = Some(1001);
    security.supplemental_groups = vec![2000, 2001];
    security.readonly_rootfs = true;
    let pod = started(&runtime().await, &planned).await;
    let base = planned.base();
    let four = |id: u32| [id; 4].map(|id| id.to_string()).join("\t");
    assert_eq!(pod.status("Uid"), four(base + 1000));
    assert_eq!(pod.status("Gid"), four(base + 1001));
    assert_eq!(pod.status("Groups"), format!("{} {}", base + 2000, base + 2001));
    assert_eq!(pod.status("CapEff"), "0000000000000000");
    assert_eq!(pod.status("CapPrm"), "0000000000000000");
    assert!(pod.mount_has("/", "ro"));
    pod.end().await;
}

#[tokio::test]
async fn privileged_stays_within_the_pods_user_namespace() {
    need_root!();
    let mut planned = Planned::userns();
    planned.plan.spec.security.privileged = true;
    let pod = started(&runtime().await, &planned).await;
    assert_eq!(pod.status("Seccomp"), "0");
    assert!(pod.mount_has("/sys", "rw"));
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim().to_owned();
    assert_eq!(pod.status("CapEff"), own);
    assert!(!pod.proc("mountinfo").contains(" /proc/sys "));
    pod.end().await;
}

#[tokio::test]
async fn a_created_pod_can_be_looked_at_and_pinned_before_it_starts() {
    need_root!();
    let planned = Planned::userns();
    let pod = created(&runtime().await, &planned).await;
    assert_eq!(pod.owner(NsKind::Net), pod.inode(NsKind::User));
    let pin = planned.plan.dir.join("net");
    namespaces::pin(pod.infra.namespace(NsKind::Net).unwrap().as_fd(), &pin).unwrap();
    let pinned = pod.inode(NsKind::Net);
    pod.end().await;
    let file = fs::File::open(&pin).unwrap();
    assert_eq!(namespaces::inode(file.as_fd()).unwrap(), pinned);
    assert_eq!(namespaces::kind(file.as_fd()).unwrap(), NsKind::Net);
    drop(file);
    namespaces::unpin(&pin).unwrap();
    namespaces::unpin(&pin).unwrap();
    assert!(!pin.exists());
}

#[tokio::test]
async fn the_self_test_sees_what_works_here() {
    need_root!();
    let runtime = runtime().await;
    assert!(runtime.features().user_namespaces, "{:?}", runtime.self_test());
    assert!(runtime.features().recursive_read_only_mounts, "{:?}", runtime.self_test());
}
