//! Pods that share namespaces with the node.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sandboxd::pod::model::{NsKind, Sysfs};
use sandboxd::pod::spec::{IdMap, IdMappings, IpcMode, PidMode};
use sandboxd::runtime::NetworkPlan;

use super::setup::{BASE, Planned, host, need_root, runtime, started};

#[tokio::test]
async fn a_pod_on_the_nodes_network_sees_the_nodes_sys_read_only() {
    need_root!();
    let planned = Planned::with(None, NetworkPlan::Host);
    let pod = started(&runtime().await, &planned).await;
    assert_eq!(pod.infra.sysfs(), Sysfs::BindReadOnly);
    for kind in [NsKind::User, NsKind::Net, NsKind::Uts] {
        assert_eq!(pod.inode(kind), host(kind), "{kind:?}");
    }
    for kind in [NsKind::Mnt, NsKind::Pid, NsKind::Ipc, NsKind::Cgroup] {
        assert_ne!(pod.inode(kind), host(kind), "{kind:?}");
    }
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(&pod.root("/sys/class/net")), names(Path::new("/sys/class/net")));
    let mountinfo = pod.proc("mountinfo");
    let mut mounts = 0;
    for line in mountinfo.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        if fields[4] == "/sys" || fields[4].starts_with("/sys/") {
            mounts += 1;
            assert!(fields[5].split(',').any(|option| option == "ro"), "{line}");
        }
    }
    assert!(mounts > 0);
    pod.end().await;
}

#[tokio::test]
async fn a_user_namespace_on_the_nodes_network_gets_the_nodes_sys_locked_read_only() {
    need_root!();
    let map = |host_id| vec![IdMap { container_id: 0, host_id, length: 65536 }];
    let planned = Planned::with(
        Some(IdMappings { uids: map(BASE - 65536), gids: map(BASE - 65536) }),
        NetworkPlan::Host,
    );
    let pod = started(&runtime().await, &planned).await;
    assert_eq!(pod.infra.sysfs(), Sysfs::BindReadOnly);
    assert_eq!(pod.inode(NsKind::Net), host(NsKind::Net));
    assert_ne!(pod.inode(NsKind::User), host(NsKind::User));
    assert!(pod.mount_has("/sys", "ro"));
    // Even root of the pod cannot take the read-only flag off: it is locked.
    assert_eq!(remount_writable(pod.infra.infra_pid()), Some(libc::EPERM));
    pod.end().await;
}

/// Tries, in a pod's user and mount namespaces, to make /sys writable; the errno.
fn remount_writable(pid: i32) -> Option<i32> {
    let script = format!(
        "import ctypes,os\n\
         l=ctypes.CDLL(None,use_errno=True)\n\
         p=os.pidfd_open({pid})\n\
         assert l.setns(p,0x10000000|0x20000)==0,os.strerror(ctypes.get_errno())\n\
         r=l.mount(None,b'/sys',None,32|4096,None)\n\
         print(ctypes.get_errno() if r else 0)"
    );
    let output = std::process::Command::new("python3").args(["-c", &script]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}

#[tokio::test]
async fn the_nodes_pids_and_ipc_can_be_shared() {
    need_root!();
    let runtime = runtime().await;
    for mut planned in [Planned::plain(), Planned::userns()] {
        planned.plan.spec.namespaces.pid = PidMode::Node;
        planned.plan.spec.namespaces.ipc = IpcMode::Node;
        let pod = started(&runtime, &planned).await;
        for kind in [NsKind::Pid, NsKind::Ipc] {
            assert_eq!(pod.inode(kind), host(kind), "{kind:?}");
        }
        assert!(pod.mount_has("/proc/sys", "ro"));
        assert_eq!(pod.read("/proc/1/comm"), fs::read_to_string("/proc/1/comm").unwrap());
        let device = |path: &Path| fs::metadata(path).unwrap().dev();
        assert_eq!(device(&pod.root("/dev/shm")), device(Path::new("/dev/shm")));
        pod.end().await;
    }
}

#[tokio::test]
async fn without_a_user_namespace_everything_else_is_new() {
    need_root!();
    let planned = Planned::plain();
    let pod = started(&runtime().await, &planned).await;
    assert_eq!(pod.inode(NsKind::User), host(NsKind::User));
    for kind in [NsKind::Net, NsKind::Mnt, NsKind::Pid, NsKind::Ipc, NsKind::Uts, NsKind::Cgroup] {
        assert_ne!(pod.inode(kind), host(kind), "{kind:?}");
        assert_eq!(pod.owner(kind), host(NsKind::User), "{kind:?}");
    }
    assert_eq!(pod.infra.sysfs(), Sysfs::Mounted);
    assert_eq!(pod.status("CapEff"), "00000000a80425fb");
    assert_eq!(pod.status("Groups"), "");
    let null = fs::metadata("/dev/null").unwrap().rdev();
    assert_eq!(fs::metadata(pod.root("/dev/null")).unwrap().rdev(), null);
    pod.end().await;
}
