//! Processes executed in containers.

use std::os::fd::AsFd;

use sandboxd::container::env::RawEnv;
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
    use sandboxd::container::spec::PidMode;
    for (user, mode) in [
        (true, PidMode::Pod),
        (false, PidMode::Pod),
        (true, PidMode::Container),
        (false, PidMode::Container),
        (false, PidMode::Node),
    ] {
        let pod = Box::pod(user).await;
        let mut given = Given::shell("sleep 60");
        given.pid = mode;
        let (task, _) = pod.make(given).await;
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

#[tokio::test]
async fn an_exec_has_the_containers_filter_and_no_more_capabilities() {
    need_root!();
    let pod = Box::pod(true).await;
    let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_str(
        r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO"}]}"#,
    )
    .unwrap();
    let given = Given::shell("sleep 60").linux(|linux| {
        linux.set_seccomp(Some(profile));
    });
    let given = given.process(|process| {
        process.set_no_new_privileges(Some(true));
    });
    let (task, _) = pod.make(given).await;
    task.start().await.unwrap();
    let process =
        exec(&*task, "mkdir /tmp/x || grep -E 'Seccomp:|NoNew|CapEff' /proc/self/status; id -G").await;
    let streams = process.take_streams();
    drop(streams.stdin);
    let out = read_all(streams.stdout).await;
    let words: Vec<&str> = out.split_whitespace().collect();
    assert_eq!(words, ["CapEff:", "00000000a80425fb", "NoNewPrivs:", "1", "Seccomp:", "2", "0"]);
    assert_eq!(process.wait().await.exit, Exit::Code(0));
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn killing_an_exec_takes_its_whole_tree() {
    need_root!();
    let Some(cgroup) = super::bench_box::Cgroup::new() else { return };
    for (user, unified) in [(true, true), (false, true), (true, false)] {
        let pod = Box::pod(user).await;
        let mut given = Given::shell("sleep 60");
        given.cgroup = if unified { cgroup.procs() } else { cgroup.procs_of_v1() };
        if given.cgroup.is_empty() {
            continue;
        }
        let (task, _) = pod.make(given).await;
        task.start().await.unwrap();
        let alone = cgroup.members();
        // One that leaves the tree and the session, one that stays.
        let process = exec(&*task, "(setsid sleep 62 &); sleep 63 & echo up; wait").await;
        let streams = process.take_streams();
        drop(streams.stdin);
        let mut up = [0u8; 3];
        rustix::io::ioctl_fionbio(streams.stdout.as_ref().unwrap(), false).unwrap();
        rustix::io::read(streams.stdout.as_ref().unwrap(), &mut up).unwrap();
        assert_eq!(cgroup.members().len(), alone.len() + 3);
        process.kill().await.unwrap();
        process.kill().await.unwrap();
        assert_eq!(process.wait().await.exit, Exit::Signal(libc::SIGKILL));
        for _ in 0..100 {
            if cgroup.members() == alone {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        assert_eq!(cgroup.members(), alone);
        task.remove().await.unwrap();
        assert_eq!(cgroup.children(), 0, "cgroups of execs are left");
        pod.end().await;
    }
}

#[tokio::test]
async fn commands_that_are_not_there_and_containers_that_are_not_started() {
    need_root!();
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("sleep 60")).await;
    let plan = |args: &[&str]| sandboxd::runtime::task::ExecPlan {
        process: Given::args(args).spec.process().clone().unwrap(),
        raw_env: RawEnv::new(),
        wanted: sandboxd::runtime::task::Wanted::default(),
    };
    assert!(task.exec(plan(&["true"])).await.is_err());
    task.start().await.unwrap();
    let error = task.exec(plan(&["nothing"])).await.unwrap_err();
    assert_eq!(error.to_string(), "exec: \"nothing\": executable file not found in $PATH");
    assert_eq!(task.exec(plan(&["true"])).await.unwrap().wait().await.exit, Exit::Code(0));
    task.signal(libc::SIGKILL, true).await.unwrap();
    task.wait().await;
    assert!(task.exec(plan(&["true"])).await.is_err());
    task.signal(libc::SIGTERM, false).await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn an_exec_with_a_terminal() {
    need_root!();
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("sleep 60")).await;
    task.start().await.unwrap();
    let mut given = Given::shell("tty; stty size; read x; echo got $x").process(|process| {
        process.set_terminal(Some(true));
        process.user_mut().set_uid(1000);
    });
    let process = given.spec.process_mut().take().unwrap();
    let wanted = sandboxd::runtime::task::Wanted { stdin: true, stdout: true, stderr: true };
    let process = task
        .exec(sandboxd::runtime::task::ExecPlan { process, raw_env: RawEnv::new(), wanted })
        .await
        .unwrap();
    process.resize(sandboxd::runtime::task::Size { columns: 90, rows: 20 }).await.unwrap();
    let streams = process.take_streams();
    assert!(streams.stderr.is_none());
    rustix::io::write(streams.stdin.as_ref().unwrap(), b"w\n").unwrap();
    assert_eq!(process.wait().await.exit, Exit::Code(0));
    // What a terminal has left when its last user goes, and then EIO.
    let mut text = String::new();
    let mut bytes = [0u8; 4096];
    while let Ok(count) = rustix::io::read(streams.stdout.as_ref().unwrap(), &mut bytes) {
        text.push_str(&String::from_utf8_lossy(&bytes[..count]));
    }
    assert!(text.contains("/dev/pts/0") && text.contains("got w"), "{text}");
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn an_exec_outlives_the_daemon_that_asked_for_it() {
    need_root!();
    use sandboxd::runtime::Runtime;
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("while [ ! -e /tmp/done ]; do sleep 0.05; done; exit 4")).await;
    task.start().await.unwrap();
    // Another daemon's: its connection ends with it.
    let other = super::setup::runtime().await;
    let infra = other.adopt(&pod.planned.plan.pod, &pod.planned.plan.dir).await.unwrap();
    let theirs = infra.adopt_container(&pod.ids()[0]).await.unwrap().unwrap().task;
    let process = exec(&*theirs, "sleep 0.2; head -c 300000 /dev/zero; touch /tmp/done").await;
    let streams = process.take_streams();
    drop(streams);
    std::mem::forget(process);
    drop((theirs, infra));
    // The handle that was forgotten holds the connection: the other daemon is gone when its process is, which a
    // test cannot play. What it can: nobody reads, and the process waits instead of dying.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(!pod.children().is_empty());
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn many_execs_leave_nothing_in_the_shim() {
    need_root!();
    let Some(cgroup) = super::bench_box::Cgroup::new() else { return };
    let pod = Box::pod(true).await;
    let mut given = Given::shell("sleep 60");
    given.cgroup = cgroup.procs();
    let (task, _) = pod.make(given).await;
    task.start().await.unwrap();
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", pod.pod.infra.shim_pid())).unwrap().count();
    let before = (fds(), pod.children());
    for _ in 0..10 {
        let three = (exec(&*task, "true"), exec(&*task, "exit 1"), exec(&*task, "cat"));
        let (first, second, third) = tokio::join!(three.0, three.1, three.2);
        drop(third.take_streams());
        for (process, code) in [(first, 0), (second, 1), (third, 0)] {
            assert_eq!(process.wait().await.exit, Exit::Code(code));
        }
    }
    for _ in 0..200 {
        if (fds(), pod.children(), cgroup.children()) == (before.0, before.1.clone(), 0) {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!((fds(), pod.children(), cgroup.children()), (before.0, before.1, 0));
    task.remove().await.unwrap();
    pod.end().await;
}

#[tokio::test]
async fn a_descendant_that_outlives_its_exec_can_still_be_killed() {
    need_root!();
    let Some(cgroup) = super::bench_box::Cgroup::new() else { return };
    let pod = Box::pod(true).await;
    let mut given = Given::shell("sleep 60");
    given.cgroup = cgroup.procs();
    let (task, _) = pod.make(given).await;
    task.start().await.unwrap();
    let process = exec(&*task, "setsid sleep 64 & exit 0").await;
    let streams = process.take_streams();
    drop(streams.stdin);
    assert_eq!(process.wait().await.exit, Exit::Code(0));
    assert_eq!(cgroup.members().len(), 2);
    process.kill().await.unwrap();
    // It held the stream open.
    let read = tokio::time::timeout(std::time::Duration::from_secs(5), read_all(streams.stdout)).await;
    assert_eq!(read.unwrap(), "");
    assert_eq!(cgroup.members().len(), 1);
    task.remove().await.unwrap();
    assert_eq!(cgroup.children(), 0);
    pod.end().await;
}

#[tokio::test]
async fn a_terminal_that_is_none_is_refused() {
    need_root!();
    let pod = Box::pod(true).await;
    let mut given = Given::shell("sleep 60").rootfs(|root| {
        std::fs::create_dir_all(root.join("dev/pts")).unwrap();
        std::fs::write(root.join("dev/pts/ptmx"), "").unwrap();
    });
    given.spec.mounts_mut().as_mut().unwrap().retain(|mount| !mount.destination().starts_with("/dev"));
    let (task, _) = pod.make(given).await;
    task.start().await.unwrap();
    let process = Given::shell("true").process(|process| {
        process.set_terminal(Some(true));
    });
    let process = process.spec.process().clone().unwrap();
    let plan = sandboxd::runtime::task::ExecPlan {
        process,
        raw_env: RawEnv::new(),
        wanted: sandboxd::runtime::task::Wanted::default(),
    };
    let error = task.exec(plan).await.unwrap_err();
    assert!(super::setup::chain(&error).contains("terminal"), "{}", super::setup::chain(&error));
    task.remove().await.unwrap();
    pod.end().await;
}

/// The first process of a pid namespace does not end before the shim has waited for all in it.
#[tokio::test]
async fn removing_a_container_and_killing_a_pod_do_not_wait_for_execs() {
    need_root!();
    use sandboxd::container::spec::PidMode;
    for mode in [PidMode::Pod, PidMode::Container] {
        let pod = Box::pod(true).await;
        let begun = std::time::Instant::now();
        for keep in [false, true] {
            let mut given = Given::shell("sleep 60");
            given.pid = mode.clone();
            let (task, _) = pod.make(given).await;
            task.start().await.unwrap();
            let held = exec(&*task, "sleep 60").await;
            drop(exec(&*task, "sleep 60").await);
            if keep {
                std::mem::forget((task, held));
            } else {
                task.remove().await.unwrap();
                assert_eq!(task.wait().await.exit, Exit::Signal(libc::SIGKILL));
                held.wait().await;
            }
        }
        pod.end().await;
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
