//! Containers in a pod: what they run, see and may do.

use std::os::fd::AsFd;

use sandboxd::pod::model::NsKind;
use sandboxd::runtime::{Exit, namespaces};

use super::bench_box::{Box, Given};
use super::setup::need_root;

#[tokio::test]
async fn hello_and_its_exit_code() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let (task, log) = pod.make(Given::shell("echo hello; echo oops >&2; exit 7")).await;
        task.start().await.unwrap();
        let ended = task.wait().await;
        assert_eq!(ended.exit, Exit::Code(7));
        assert_eq!(log.lines(), ["stdout F hello", "stderr F oops"]);
        task.remove().await.unwrap();
        task.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn environment_directory_and_ids() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let given = Given::shell("echo $GREETING; pwd; id -u; id -g; id -G; umask; stat -c %u:%g .");
        let given = given.process(|process| {
            process.set_env(Some(vec!["GREETING=hi there".into(), "PATH=/bin".into()]));
            process.set_cwd("/made/for/it".into());
            process.user_mut().set_uid(1000).set_gid(1001).set_additional_gids(Some(vec![2000, 3000]));
        });
        let lines = pod.output(given).await;
        let wanted = ["hi there", "/made/for/it", "1000", "1001", "1001 2000 3000", "0022", "1000:1001"];
        assert_eq!(lines, wanted);
        pod.end().await;
    }
}

#[tokio::test]
async fn the_namespaces_are_the_pods_but_for_mnt_and_cgroup() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let (task, _) = pod.make(Given::shell("sleep 60")).await;
        task.start().await.unwrap();
        for kind in [NsKind::User, NsKind::Net, NsKind::Ipc, NsKind::Uts, NsKind::Pid] {
            let own = namespaces::of_process(task.pidfd(), kind).unwrap();
            assert_eq!(namespaces::inode(own.as_fd()).unwrap(), pod.pod.inode(kind), "{kind:?}");
        }
        for kind in [NsKind::Mnt, NsKind::Cgroup] {
            let own = namespaces::of_process(task.pidfd(), kind).unwrap();
            assert_ne!(namespaces::inode(own.as_fd()).unwrap(), pod.pod.inode(kind), "{kind:?}");
        }
        task.signal(libc::SIGKILL, false).await.unwrap();
        assert_eq!(task.wait().await.exit, Exit::Signal(libc::SIGKILL));
        task.remove().await.unwrap();
        pod.end().await;
    }
}
