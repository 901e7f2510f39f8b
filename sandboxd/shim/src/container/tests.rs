//! The order of side effects, against a kernel that only records.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use sandboxd_shim::plan::container::{
    Command, ContainerPlan, Mount, MountAttrs, Node, NodeKind, PidNs, Propagation, Rootfs, Source,
};
use sandboxd_shim::plan::{Capabilities, IdMaps, Process, Rlimit};

use super::launch::{Launch, enter};
use super::rootfs::{View, build};
use super::{Surroundings, namespaces, process, stage};
use crate::kernel::fake::Fake;

const CAP_SYS_ADMIN: u64 = 1 << 21;

fn fd() -> OwnedFd {
    rustix::fs::memfd_create("fake", rustix::fs::MemfdFlags::CLOEXEC).unwrap()
}

fn command() -> Command {
    Command {
        args: vec!["sleep".into(), "1".into()],
        env: vec![c"PATH=/a:/b".into()],
        cwd: "/work".into(),
        terminal: false,
        size: None,
        process: Process {
            uid: 1000,
            gid: 1001,
            groups: vec![2000],
            capabilities: Capabilities {
                bounding: 0xff,
                permitted: 0x3,
                effective: 0x3,
                inheritable: 0x1,
                ambient: 0x1,
            },
            no_new_privs: false,
            seccomp: Some(vec![0; 8]),
            rlimits: vec![Rlimit { resource: 7, soft: 1024, hard: 4096 }],
            oom_score_adj: Some(100),
            umask: 0o022,
        },
        label: None,
    }
}

fn plan() -> ContainerPlan {
    let mount = |destination: &str, source, propagation| Mount {
        destination: destination.into(),
        source,
        attrs: MountAttrs { set: libc::MOUNT_ATTR_RDONLY, ..MountAttrs::default() },
        propagation,
    };
    ContainerPlan {
        id: "c".into(),
        pid: PidNs::Pod,
        cgroup_namespace: true,
        cgroup: vec![0],
        exec_cgroups: None,
        rootfs: Rootfs { mount: 1, read_only: true, propagation: Propagation::Private },
        mounts: vec![
            mount("/proc", Source::New { fs: "proc".into(), options: Vec::new() }, Propagation::Private),
            mount("/data", Source::Detached(2), Propagation::Private),
            mount("/both", Source::Detached(3), Propagation::Shared),
            mount("/dev/shm", Source::PodShm, Propagation::Private),
        ],
        devices: vec![Node {
            path: "/dev/null".into(),
            kind: NodeKind::Char,
            major: 1,
            minor: 3,
            mode: 0o666,
            uid: 0,
            gid: 0,
        }],
        links: Vec::new(),
        masked: vec!["/proc/kcore".into(), "/proc/absent".into()],
        read_only: vec!["/proc/sys".into()],
        command: command(),
        stdin: false,
        stdin_once: false,
        log: None,
    }
}

/// The calls appear once each, in this order.
fn in_order(kernel: &Fake, calls: &[&str]) {
    let positions: Vec<usize> = calls.iter().map(|call| kernel.position(call)).collect();
    assert!(positions.is_sorted(), "{calls:?} at {positions:?} of {:#?}", kernel.calls());
}

#[test]
fn what_takes_the_hosts_privileges_comes_before_the_join() {
    let kernel = Fake { hard_limit: 100, ..Fake::default() };
    let (procs, infra) = (fd(), fd());
    let command = command();
    let launch = Launch {
        cgroups: vec![procs.as_fd()],
        born: None,
        oom_score_adj: Some(100),
        limits: &command.process.rlimits,
        join: vec![(infra.as_fd(), libc::CLONE_NEWUSER | libc::CLONE_NEWNET)],
        new: libc::CLONE_NEWNS,
    };
    enter(&kernel, &launch, None).unwrap();
    in_order(
        &kernel,
        &[
            "put 0",
            "write /proc/self/oom_score_adj 100",
            "limit 7 4096 4096",
            "join 0x50000000",
            "clone3 0x28000",
        ],
    );
}

#[test]
fn a_score_that_may_not_be_set_is_a_warning_and_a_cgroup_that_cannot_be_joined_an_error() {
    let (procs, infra) = (fd(), fd());
    let launch = Launch {
        cgroups: vec![procs.as_fd()],
        born: None,
        oom_score_adj: Some(-998),
        limits: &[],
        join: vec![(infra.as_fd(), libc::CLONE_NEWUSER)],
        new: 0,
    };
    let kernel = Fake::failing("write /proc/self/oom_score_adj", Errno::ACCESS);
    let (_, warnings) = enter(&kernel, &launch, None).unwrap();
    assert!(warnings[0].contains("-998"), "{warnings:?}");
    let error = enter(&Fake::failing("put", Errno::BUSY), &launch, None).unwrap_err();
    assert_eq!((error.step.as_str(), error.errno), ("join the container's cgroup", Errno::BUSY));
}

#[test]
fn namespaces_of_each_pid_mode() {
    let (infra, target) = (fd(), fd());
    let all = libc::CLONE_NEWUSER | libc::CLONE_NEWNET | libc::CLONE_NEWPID;
    let pod = Surroundings { join: all, maps: None };
    let joins = |pid: PidNs| {
        let (join, new) = namespaces(&pod, infra.as_fd(), Some(target.as_fd()), &pid);
        (join.into_iter().map(|(_, flags)| flags).collect::<Vec<_>>(), new)
    };
    assert_eq!(joins(PidNs::Pod), (vec![all], 0));
    let without = all & !libc::CLONE_NEWPID;
    assert_eq!(joins(PidNs::New), (vec![without], libc::CLONE_NEWPID));
    assert_eq!(joins(PidNs::Node), (vec![without], 0));
    assert_eq!(joins(PidNs::Target("t".into())), (vec![libc::CLONE_NEWPID, without], 0));
}

#[test]
fn ids_are_mapped_and_those_beyond_are_not() {
    let lines = vec![(0, 100_000, 10), (20, 200_000, 5)];
    let maps = IdMaps { uids: lines.clone(), gids: lines, owner: (100_000, 100_000) };
    let pod = Surroundings { join: 0, maps: Some(maps) };
    assert_eq!(pod.host_ids(0, 24), Some((100_000, 200_004)));
    assert_eq!(pod.host_ids(10, 0), None);
    assert_eq!(pod.host_ids(0, 25), None);
}

#[test]
fn staged_mounts_are_restricted_before_they_are_attached_and_shared_ones_are_handed_in() {
    let kernel = Fake::default();
    let fds = [fd(), fd(), fd(), fd()];
    let ids = |uid, gid| Some((uid + 1000, gid + 1000));
    let staged = stage::stage(&kernel, &plan(), &fds, Some(&ids)).unwrap();
    in_order(&kernel, &["change  +0x0 -0x0 0x40000 recursive", "attach /host/d2"]);
    assert!(!kernel.calls().contains(&"attach /host/d3".to_owned()));
    in_order(&kernel, &["node /host/n0 Char 666 1:3", "own /host/n0 1000:Some(1000)"]);
    staged.clear(&kernel);
    in_order(&kernel, &["change /host/d2 +0x0 -0x0 0x40000 recursive", "detach /host/d2"]);
    kernel.position("unlink /host/n0");
}

#[test]
fn what_cannot_be_staged_leaves_nothing_staged() {
    let kernel = Fake::failing("node", Errno::PERM);
    let fds = [fd(), fd(), fd(), fd()];
    let ids = |uid, gid| Some((uid, gid));
    let error = stage::stage(&kernel, &plan(), &fds, Some(&ids)).unwrap_err();
    assert_eq!(error.step, "make the device /dev/null");
    kernel.position("detach /host/d2");
}

#[test]
fn the_view_is_built_in_order() {
    let kernel = Fake { missing: vec!["proc/absent"], ..Fake::default() };
    let fds = [fd(), fd(), fd(), fd()];
    let plan = plan();
    let view = View { plan: &plan, fds: &fds, user: true, net: true, pid: true, ipc: true };
    build(&kernel, view).unwrap();
    in_order(
        &kernel,
        &[
            "attach /mnt",
            "mount proc",
            "copy /host/d2 recursive",
            "copy /shm recursive",
            "copy /host/n0",
            "resolve proc/kcore",
            "resolve proc/sys",
            "pivot",
            "change / +0x1",
        ],
    );
    assert!(!kernel.calls().contains(&"mknod /dev/null 1:3".to_owned()));
}

#[test]
fn a_filter_without_no_new_privs_is_installed_with_the_capability_and_that_is_given_up() {
    let kernel = Fake { held: u64::MAX, ..Fake::default() };
    let command = command();
    process::enter(&kernel, &command, Some(&[0; 8])).unwrap_err();
    in_order(
        &kernel,
        &[
            "umask 22",
            "bounding 0xff",
            "keep_once",
            "groups [2000]",
            "gid 1001",
            "uid 1000",
            &format!("capabilities {:#x}", 0x3 | CAP_SYS_ADMIN),
            "ambient 0x1",
            "pdeathsig",
            "executable /a/sleep",
            "limit 7 1024 4096",
            "seccomp 8",
            "drop_to 0x3",
            "run /a/sleep",
        ],
    );
}

#[test]
fn a_filter_under_no_new_privs_is_the_last_thing() {
    let kernel = Fake { held: u64::MAX, ..Fake::default() };
    let mut command = command();
    command.process.no_new_privs = true;
    process::enter(&kernel, &command, Some(&[0; 8])).unwrap_err();
    in_order(&kernel, &["capabilities 0x3 0x3 0x1", "no_new_privs", "seccomp 8", "run /a/sleep"]);
    assert!(!kernel.calls().iter().any(|call| call.starts_with("drop_to")));
}

#[test]
fn limits_and_capabilities_are_clamped_with_a_word() {
    let kernel = Fake { hard_limit: 2000, held: 0x3, ..Fake::default() };
    let mut command = command();
    let warnings = process::clamp(&kernel, &mut command).unwrap();
    assert_eq!(command.process.rlimits[0], Rlimit { resource: 7, soft: 1024, hard: 2000 });
    assert_eq!(command.process.capabilities.bounding, 0x3);
    assert!(warnings[0].contains("1024:4096") && warnings[0].contains("1024:2000"), "{warnings:?}");
    assert!(warnings[1].contains("0xff") && warnings[1].contains("0x3"), "{warnings:?}");
}

#[test]
fn a_command_is_found_in_a_directory_whose_name_is_not_text() {
    let path = super::lookup::command(&Fake::default(), "x", &[c"PATH=/\xff".into()]).unwrap();
    assert_eq!(path.as_c_str(), c"/\xff/x");
}

#[test]
fn a_command_that_is_not_there_is_told_in_the_usual_words() {
    let find = |errno, name: &str| {
        let kernel = Fake::failing("executable", errno);
        super::lookup::command(&kernel, name, &[c"PATH=/a".into()]).unwrap_err().step
    };
    assert_eq!(find(Errno::NOENT, "x"), "exec: \"x\": executable file not found in $PATH");
    assert_eq!(find(Errno::ACCESS, "x"), "exec: \"x\": permission denied");
    assert_eq!(find(Errno::NOENT, "/x"), "exec: \"/x\": stat /x: no such file or directory");
    assert_eq!(find(Errno::ISDIR, "/x"), "exec: \"/x\": is a directory");
    assert_eq!(find(Errno::ACCESS, "/x"), "exec: \"/x\": permission denied");
}
