//! The order of side effects, against a kernel that only records.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use sandboxd_shim::plan::{
    Attrs, Capabilities, Device, File, IdMaps, Mount, Namespaces, Net, Plan, Process, Rlimit, Rootfs, Source,
    SysfsKind,
};

use super::{fork, process, rootfs};
use crate::kernel::Forked;
use crate::kernel::fake::Fake;
use crate::root;

const HOST_ROOT: u32 = 4_221_435_904;

fn plan() -> Plan {
    let lines = vec![(0, HOST_ROOT, 65536)];
    let mount = |destination: &str, fs: &str, attrs| Mount {
        destination: destination.into(),
        source: Source::New { fs: fs.into(), options: Vec::new() },
        attrs,
    };
    let read_only = Attrs { read_only: true, ..Attrs::default() };
    Plan {
        pod: "p".into(),
        dir: "/run/p".into(),
        namespaces: Namespaces {
            user: Some(IdMaps { uids: lines.clone(), gids: lines, owner: (HOST_ROOT, HOST_ROOT) }),
            net: Net::New,
            pid: true,
            ipc: true,
            uts: true,
            cgroup: true,
        },
        hostname: Some("web-0".into()),
        rootfs: Rootfs { size_bytes: 65536, read_only: true },
        mounts: vec![
            mount("/proc", "proc", Attrs::default()),
            mount("/sys", "sysfs", read_only),
            mount("/dev", "tmpfs", Attrs::default()),
        ],
        devices: vec![Device { path: "/dev/null".into(), major: 1, minor: 3 }],
        links: Vec::new(),
        files: vec![File { path: "/etc/hostname".into(), mode: 0o644, data: b"web-0\n".to_vec() }],
        masked: vec![
            "/proc/kcore".into(),
            "/sys/firmware".into(),
            "/proc/scsi".into(),
            "/proc/absent".into(),
        ],
        read_only: vec!["/proc/sys".into()],
        sysctls: vec![
            ("net.ipv4.ip_forward".into(), "1".into()),
            ("net/ipv4/conf/eth0.1/forwarding".into(), "0".into()),
        ],
        process: Process {
            uid: 1000,
            gid: 1001,
            groups: vec![2000],
            capabilities: Capabilities { bounding: 0xff, ..Capabilities::default() },
            no_new_privs: true,
            seccomp: Some(vec![0; 8]),
            rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: 4096 }],
            oom_score_adj: Some(-998),
            umask: 0o022,
        },
        sysfs: SysfsKind::Mounted,
    }
}

/// The calls appear once each, in this order.
fn in_order(kernel: &Fake, calls: &[&str]) {
    let positions: Vec<usize> = calls.iter().map(|call| kernel.position(call)).collect();
    assert!(positions.is_sorted(), "{calls:?} at {positions:?} of {:#?}", kernel.calls());
}

#[test]
fn one_clone3_makes_all_namespaces_as_the_mapped_root() {
    let kernel = Fake { hard_limit: 4096, ..Fake::default() };
    assert!(matches!(fork::fork(&kernel, &plan(), &[]), Ok(Forked::Parent { pid: 4711, .. })));
    let flags = libc::CLONE_NEWNS
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS;
    assert_eq!(
        kernel.calls(),
        [
            "keep_capabilities true".to_owned(),
            format!("effective {HOST_ROOT}:{HOST_ROOT}"),
            format!("clone3 {flags:#x}"),
            "effective 0:0".to_owned(),
            "keep_capabilities false".to_owned(),
        ]
    );
}

#[test]
fn the_shim_becomes_root_again_when_clone3_fails() {
    let kernel = Fake::failing("clone3", Errno::NOSPC);
    let error = fork::fork(&kernel, &plan(), &[]).unwrap_err();
    assert_eq!(error.errno, Errno::NOSPC);
    in_order(&kernel, &["clone3", "effective 0:0", "keep_capabilities false"]);
}

#[test]
fn an_older_network_namespace_is_joined_before_the_user_namespace_is_made() {
    let kernel = Fake::default();
    let mut plan = plan();
    plan.namespaces.net = Net::Join(0);
    let netns = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    fork::fork(&kernel, &plan, &[netns]).unwrap();
    let calls = kernel.calls();
    let joins: Vec<usize> =
        calls.iter().enumerate().filter(|(_, call)| call.starts_with("join")).map(|(at, _)| at).collect();
    let clone3 = kernel.position("clone3");
    assert!(joins.len() == 2 && joins[0] < clone3 && clone3 < joins[1], "{calls:#?}");
    let flags = u64::from_str_radix(calls[clone3].trim_start_matches("clone3 0x"), 16).unwrap();
    assert_eq!(flags & u64::from(libc::CLONE_NEWNET.unsigned_abs()), 0);
    assert!(fork::fork(&Fake::default(), &plan, &[]).is_err(), "a missing descriptor");
}

#[test]
fn maps_are_written_whole_and_a_refused_oom_score_is_a_warning() {
    let kernel = Fake::failing("write /proc/7/oom_score_adj", Errno::ACCESS);
    let warnings = fork::configure(&kernel, &plan(), 7).unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("-998"), "{warnings:?}");
    let map = format!("0 {HOST_ROOT} 65536");
    assert_eq!(
        kernel.calls()[..2],
        [format!("write /proc/7/uid_map {map}"), format!("write /proc/7/gid_map {map}")]
    );
}

#[test]
fn the_new_process_becomes_root_before_anything_else_and_drops_the_callers_groups() {
    let kernel = Fake::default();
    process::settle(&kernel, &plan()).unwrap();
    in_order(&kernel, &["setsid", "groups []", "gid 0", "uid 0", "pdeathsig"]);
}

#[test]
fn sysctls_come_before_proc_sys_is_read_only_and_the_pivot_last() {
    let kernel = Fake { missing: vec!["proc/absent"], ..Fake::default() };
    rootfs::build(&kernel, &plan()).unwrap();
    in_order(
        &kernel,
        &[
            "hostname web-0",
            "attach /mnt",
            "mount proc",
            "mount sysfs ro",
            "copy /dev/null",
            "file etc/hostname",
            "file pause 555",
            "write proc/sys/net/ipv4/ip_forward 1",
            "write proc/sys/net/ipv4/conf/eth0.1/forwarding 0",
            "copy dev/null",
            "copy sys/firmware",
            "attach proc/sys",
            "pivot",
            "restrict / ro",
        ],
    );
    let calls = kernel.calls();
    assert!(!calls.iter().any(|call| call.contains("absent") || call.starts_with("mknod")), "{calls:#?}");
    assert!(calls.contains(&"mount tmpfs ro nosuid nodev noexec".to_owned()), "one empty mount for masks");
}

#[test]
fn a_failing_step_names_its_object_and_ends_the_making() {
    for (call, step) in [
        ("mount sysfs", "mount sysfs on /sys"),
        ("write proc/sys/net/ipv4/ip_forward", "set the sysctl net.ipv4.ip_forward to \"1\""),
        ("hostname", "set the hostname \"web-0\""),
        ("attach proc/sys", "make /proc/sys read-only"),
        ("copy /dev/null", "bind the device /dev/null"),
    ] {
        let kernel = Fake::failing(call, Errno::PERM);
        let error = rootfs::build(&kernel, &plan()).unwrap_err();
        assert_eq!((error.step.as_str(), error.errno), (step, Errno::PERM));
        assert!(kernel.calls().last().unwrap().starts_with(call));
    }
}

#[test]
fn without_a_user_namespace_devices_are_made() {
    let kernel = Fake::default();
    let mut plan = plan();
    plan.namespaces.user = None;
    rootfs::build(&kernel, &plan).unwrap();
    kernel.position("mknod dev/null 1:3");
}

#[test]
fn rights_go_in_the_one_order_that_works_and_the_filter_comes_last() {
    let kernel = Fake::default();
    let link = std::fs::File::open("/dev/null").unwrap();
    let Err(error) = process::enter(&kernel, &plan(), link.as_fd());
    assert_eq!(error.errno, Errno::NOEXEC);
    in_order(
        &kernel,
        &[
            &format!("unshare {:#x}", libc::CLONE_NEWCGROUP),
            "bounding 0xff",
            "groups [2000]",
            "gid 1001",
            "uid 1000",
            "capabilities 0x0 0x0 0x0",
            "pdeathsig",
            "no_new_privs",
            "only_fds 2",
            "seccomp 8",
            "exec /pause",
        ],
    );
    let calls = kernel.calls();
    assert!(calls[calls.len() - 2].starts_with("seccomp"), "{calls:#?}");
}

#[test]
fn limits_are_clamped_with_a_warning_that_names_both() {
    let kernel = Fake { hard_limit: 2048, ..Fake::failing("limit 7 1024 4096", Errno::PERM) };
    let warnings = process::limits(&kernel, &plan()).unwrap();
    assert_eq!(kernel.calls().last().unwrap(), "limit 7 1024 2048");
    assert!(warnings[0].contains("1024:4096") && warnings[0].contains("1024:2048"), "{warnings:?}");
}

#[test]
fn the_shims_root_is_private_first_and_the_hosts_mounts_are_restricted_before_they_are_attached() {
    let kernel = Fake::default();
    let mount = std::fs::File::open("/proc").unwrap();
    let attrs = Attrs { read_only: true, recursive: true, ..Attrs::default() };
    root::leave_host(&kernel).unwrap();
    root::enter(&kernel, &plan().devices, &[(mount.as_fd(), attrs)]).unwrap();
    root::drop_host(&kernel, 1).unwrap();
    in_order(
        &kernel,
        &[
            "unshare",
            "private",
            "attach /proc",
            "mount proc",
            "mount sysfs",
            "mknod dev/null",
            "restrict  ro recursive",
            "attach host/0",
            "pivot",
            "detach /host/0",
        ],
    );
}
