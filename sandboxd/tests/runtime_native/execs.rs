//! Processes executed in containers.

use std::os::fd::AsFd;

use sandboxd::pod::model::NsKind;
use sandboxd::runtime::{Exit, namespaces};

use super::bench_box::{Box, Given, exec, read_all};
use super::setup::need_root;

#[tokio::test]
async fn an_exec_has_streams_and_an_exit_code() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let (task, _) = pod.make(Given::shell("sleep 60")).await;
        task.start().await.unwrap();
        let process = exec(&*task, "cat; echo done >&2; exit 3").await;
        let streams = process.take_streams();
        let stdin = streams.stdin.unwrap();
        rustix::io::write(&stdin, b"through\n").unwrap();
        drop(stdin);
        assert_eq!(read_all(streams.stdout).await, "through\n");
        assert_eq!(read_all(streams.stderr).await, "done\n");
        assert_eq!(process.wait().await.exit, Exit::Code(3));
        task.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn an_exec_is_in_every_namespace_of_the_container() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let (task, _) = pod.make(Given::shell("sleep 60")).await;
        task.start().await.unwrap();
        let process = exec(&*task, "sleep 60").await;
        let pid = rustix::process::Pid::from_raw(process.pid()).unwrap();
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
        let inode =
            |pidfd, kind| namespaces::inode(namespaces::of_process(pidfd, kind).unwrap().as_fd()).unwrap();
        for kind in
            [NsKind::User, NsKind::Mnt, NsKind::Net, NsKind::Pid, NsKind::Ipc, NsKind::Uts, NsKind::Cgroup]
        {
            assert_eq!(inode(pidfd.as_fd(), kind), inode(task.pidfd(), kind), "{kind:?}");
        }
        let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid())).unwrap();
        let uid = if user { pod.planned.base() } else { 0 };
        assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
        process.kill().await.unwrap();
        assert_eq!(process.wait().await.exit, Exit::Signal(libc::SIGKILL));
        task.remove().await.unwrap();
        pod.end().await;
    }
}
