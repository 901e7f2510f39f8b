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

fn status_line(lines: &[String], key: &str) -> String {
    let line = lines.iter().find_map(|line| line.strip_prefix(&format!("{key}:")));
    line.unwrap_or_else(|| panic!("no {key} in {lines:#?}")).trim().to_owned()
}

#[tokio::test]
async fn capabilities_as_given_and_ambient_ones_for_users() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let lines = pod.output(Given::shell("grep -E 'Cap|NoNewPrivs' /proc/self/status")).await;
        for set in ["CapBnd", "CapPrm", "CapEff"] {
            assert_eq!(status_line(&lines, set), "00000000a80425fb", "{set}");
        }
        assert_eq!(
            (status_line(&lines, "CapAmb"), status_line(&lines, "NoNewPrivs")),
            ("0".repeat(16), "0".into())
        );
        let net_bind: std::collections::HashSet<_> = [oci_spec::runtime::Capability::NetBindService].into();
        let given = Given::shell("grep -E 'Cap' /proc/self/status").process(|process| {
            process.user_mut().set_uid(1000).set_gid(1000);
            let mut sets = process.capabilities().clone().unwrap();
            sets.set_bounding(Some(net_bind.clone()))
                .set_permitted(Some(net_bind.clone()))
                .set_effective(Some(net_bind.clone()))
                .set_inheritable(Some(net_bind.clone()))
                .set_ambient(Some(net_bind));
            process.set_capabilities(Some(sets));
        });
        let lines = pod.output(given).await;
        for set in ["CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb"] {
            assert_eq!(status_line(&lines, set), "0000000000000400", "{set}");
        }
        pod.end().await;
    }
}

#[tokio::test]
async fn seccomp_filters_with_and_without_no_new_privs() {
    need_root!();
    let profile: oci_spec::runtime::LinuxSeccomp = serde_json::from_str(
        r#"{"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38}]}"#,
    )
    .unwrap();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        for no_new_privs in [true, false] {
            let given = Given::shell(
                "mkdir /tmp/x 2>/dev/null || echo refused; grep -E 'Seccomp:|CapEff|NoNewPrivs' /proc/self/status",
            );
            let given = given
                .linux(|linux| {
                    linux.set_seccomp(Some(profile.clone()));
                })
                .process(|process| {
                    process.set_no_new_privileges(Some(no_new_privs));
                    process.user_mut().set_uid(1000);
                });
            let lines = pod.output(given).await;
            assert_eq!(lines[0], "refused");
            assert_eq!(status_line(&lines, "Seccomp"), "2");
            assert_eq!(status_line(&lines, "CapEff"), "0".repeat(16));
            assert_eq!(status_line(&lines, "NoNewPrivs"), u8::from(no_new_privs).to_string());
        }
        pod.end().await;
    }
}

#[tokio::test]
async fn pid_modes() {
    need_root!();
    use sandboxd::container::spec::PidMode;
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let run = |mode| {
            let mut given = Given::shell("echo $$; cat /proc/1/comm; readlink /proc/self/ns/pid");
            given.pid = mode;
            pod.output(given)
        };
        let own = run(PidMode::Container).await;
        assert_eq!((own[0].as_str(), own[1].as_str()), ("1", "sh"));
        let pods = run(PidMode::Pod).await;
        assert_eq!(pods[1], "pause");
        assert_ne!(pods[0], "1");
        let nodes = run(PidMode::Node).await;
        let host = std::fs::read_link("/proc/self/ns/pid").unwrap();
        assert_eq!(nodes[2], host.to_str().unwrap());
        let mut given = Given::shell("sleep 60");
        given.pid = PidMode::Container;
        let (target, _) = pod.make(given).await;
        target.start().await.unwrap();
        // Its id is known to the test by the log's name only: ask for one that is not there, too.
        let missing = {
            let mut given = Given::shell("true");
            given.pid = PidMode::Target("none".into());
            pod.try_make(given).await.0
        };
        assert!(missing.is_err());
        let targets = run(PidMode::Target(pod.last_id())).await;
        assert_eq!(targets[1], "sleep");
        target.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn hostile_links_of_the_image_stay_inside() {
    need_root!();
    let outside = tempfile::tempdir().unwrap();
    let host = tempfile::tempdir().unwrap();
    std::fs::write(host.path().join("file"), "from the host").unwrap();
    std::fs::write("/tmp/sandboxd-hostile-target", outside.path().to_str().unwrap()).unwrap();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let given = Given::shell("cat /data/vol/file; cat /etc/hosts; ls /tmp/up /run").rootfs(|root| {
            let target = std::fs::read_to_string("/tmp/sandboxd-hostile-target").unwrap();
            std::os::unix::fs::symlink(target, root.join("data")).unwrap();
            std::os::unix::fs::symlink("../../../../../../../../tmp/up", root.join("etc/hosts")).unwrap();
        });
        let source = host.path().to_str().unwrap();
        let file = host.path().join("file");
        let given = given
            .mount("/data/vol", "bind", source, "rbind rw")
            .mount("/etc/hosts", "bind", file.to_str().unwrap(), "bind ro")
            .mount("/run/deep/er", "tmpfs", "tmpfs", "nosuid mode=1777");
        let lines = pod.output(given).await;
        assert_eq!(lines[0], "from the hostfrom the host/tmp/up");
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        pod.end().await;
    }
    std::fs::remove_file("/tmp/sandboxd-hostile-target").unwrap();
}

#[tokio::test]
async fn masked_and_read_only_paths() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let given = Given::shell(
            "wc -c < /etc/secret; ls /sys/firmware | wc -l; \
             (echo 1 > /proc/sys/kernel/shm_rmid_forced) 2>/dev/null || echo kept; \
             touch /x 2>/dev/null || echo ro; touch /dev/shm/y && echo rw; ls /proc/self/fd | wc -l",
        );
        let given = given.process(|process| {
            process.set_cwd("/new/dir".into());
        });
        let mut given = given;
        given.spec.root_mut().as_mut().unwrap().set_readonly(Some(true));
        // The last: 0, 1, 2, and that of the directory which is read.
        assert_eq!(pod.output(given).await, ["0", "0", "kept", "ro", "rw", "4"]);
        pod.end().await;
    }
}

#[tokio::test]
async fn commands_that_cannot_be_executed() {
    need_root!();
    let pod = Box::pod(true).await;
    let before = pod.children();
    for (args, wanted) in [
        (&["nothing"] as &[&str], "exec: \"nothing\": executable file not found in $PATH"),
        (&["/bin/nothing"], "exec: \"/bin/nothing\": stat /bin/nothing: no such file or directory"),
        (&["/bin"], "exec: \"/bin\": is a directory"),
        (&["/etc/secret2"], "exec: \"/etc/secret2\": permission denied"),
    ] {
        let given = Given::args(args).rootfs(|root| std::fs::write(root.join("etc/secret2"), "x").unwrap());
        let (task, _) = pod.make(given).await;
        let error = task.start().await.unwrap_err();
        assert_eq!(error.to_string(), wanted);
        task.wait().await;
        task.remove().await.unwrap();
    }
    // And one that no process can be made for: a mount on a file.
    let (failed, _) = pod.try_make(Given::shell("true").mount("/etc/secret/x", "tmpfs", "tmpfs", "ro")).await;
    let error = failed.expect_err("it was made");
    assert!(super::setup::chain(&error).contains("/etc/secret/x"), "{}", super::setup::chain(&error));
    assert_eq!(pod.children(), before, "processes are left");
    pod.end().await;
}

#[tokio::test]
async fn an_environment_of_megabytes_arrives() {
    need_root!();
    let pod = Box::pod(true).await;
    let given = Given::shell("env | wc -c; echo $LAST").process(|process| {
        let mut env: Vec<String> = (0..15).map(|n| format!("V{n}={}", "x".repeat(100_000))).collect();
        env.extend(["PATH=/bin".to_owned(), "LAST=here".to_owned()]);
        process.set_env(Some(env));
    });
    let lines = pod.output(given).await;
    assert!(lines[0].parse::<usize>().unwrap() > 1_500_000, "{lines:?}");
    assert_eq!(lines[1], "here");
    pod.end().await;
}

#[tokio::test]
async fn shared_memory_is_the_pods() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        pod.output(Given::shell("echo from one > /dev/shm/x")).await;
        assert_eq!(pod.output(Given::shell("cat /dev/shm/x")).await, ["from one"]);
        assert_eq!(pod.pod.read("/dev/shm/x"), "from one\n");
        pod.end().await;
    }
}

#[tokio::test]
async fn devices_are_owned_and_usable_as_asked() {
    need_root!();
    let fuse: oci_spec::runtime::LinuxDevice = serde_json::from_str(
        r#"{"path": "/dev/sub/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 416, "uid": 7, "gid": 8}"#,
    )
    .unwrap();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let given = Given::shell(
            "stat -c '%a %u %g %t:%T %F' /dev/sub/fuse; echo x > /dev/null && head -c 4 /dev/zero | wc -c; \
             readlink /dev/fd; readlink /dev/ptmx",
        );
        let given = given.linux(|linux| {
            linux.set_devices(Some(vec![fuse.clone()]));
        });
        let wanted = ["640 7 8 a:e5 character special file", "4", "/proc/self/fd", "pts/ptmx"];
        assert_eq!(pod.output(given).await, wanted);
        let given = Given::shell("echo x > /dev/null && echo through > /dev/stdout").process(|process| {
            process.user_mut().set_uid(1000).set_gid(1000);
        });
        assert_eq!(pod.output(given).await, ["through"]);
        pod.end().await;
    }
}

#[tokio::test]
async fn a_terminal_is_the_containers_own() {
    need_root!();
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let mut given = Given::shell(
            "tty; stty size; stat -c %u /dev/pts/0; echo into > /dev/console; read x; echo got $x",
        );
        given.tty = true;
        given.stdin = true;
        given = given.process(|process| {
            process.user_mut().set_uid(1000);
            let size: oci_spec::runtime::Box =
                serde_json::from_str(r#"{"width": 101, "height": 33}"#).unwrap();
            process.set_console_size(Some(size));
        });
        let (task, log) = pod.make(given).await;
        let wanted = sandboxd::runtime::task::Wanted { stdin: true, stdout: true, stderr: false };
        let streams = task.attach(wanted).await.unwrap();
        task.start().await.unwrap();
        rustix::io::write(streams.stdin.as_ref().unwrap(), b"word\n").unwrap();
        assert_eq!(task.wait().await.exit, Exit::Code(0));
        let text = log.lines().join("\n");
        for wanted in ["/dev/pts/0", "33 101", "1000", "into", "got word"] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        task.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn limits_beyond_the_machines_are_clamped() {
    need_root!();
    let pod = Box::pod(true).await;
    let limit: oci_spec::runtime::PosixRlimit =
        serde_json::from_str(r#"{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1048576}"#).unwrap();
    let given = Given::shell("grep 'open files' /proc/self/limits; cat /proc/self/oom_score_adj").process(
        |process| {
            process.set_rlimits(Some(vec![limit])).set_oom_score_adj(Some(500));
        },
    );
    let lines = pod.output(given).await;
    let soft = lines[0].split_whitespace().nth(3).unwrap();
    assert_eq!((soft, lines[1].as_str()), ("512", "500"));
    pod.end().await;
}

#[tokio::test]
async fn what_a_task_leaves_in_the_pods_pid_namespace_ends_with_it() {
    need_root!();
    let Some(cgroup) = super::bench_box::Cgroup::new() else { return };
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let mut given = Given::shell("(setsid sleep 61 &) ; (setsid sleep 61 &); exit 0");
        given.cgroup = cgroup.procs();
        let (task, _) = pod.make(given).await;
        task.start().await.unwrap();
        assert_eq!(task.wait().await.exit, Exit::Code(0));
        assert_eq!(cgroup.members(), Vec::<i32>::new());
        task.remove().await.unwrap();
        pod.end().await;
    }
}

#[tokio::test]
async fn cgroup_mounts_are_the_containers_own_and_read_only() {
    need_root!();
    let Some(cgroup) = super::bench_box::Cgroup::new() else { return };
    for user in [true, false] {
        let pod = Box::pod(user).await;
        let mut given = Given::shell(
            "ls /sys/fs/cgroup; for p in /sys/fs/cgroup/pids/cgroup.procs; do wc -l < $p; done; \
             mkdir /sys/fs/cgroup/pids/x 2>/dev/null || echo ro; touch /sys/fs/cgroup/y 2>/dev/null || echo ro; \
             mount -o remount,rw,bind /sys/fs/cgroup/pids 2>/dev/null || echo locked",
        );
        given.cgroup = cgroup.procs();
        let given = given.mount("/sys/fs/cgroup", "cgroup", "cgroup", "nosuid noexec nodev relatime ro");
        let lines = pod.output(given).await;
        let (names, rest) = lines.split_at(lines.len() - 4);
        assert!(names.iter().any(|name| name == "memory"), "{lines:?}");
        assert_eq!(rest[1..], ["ro", "ro", "locked"]);
        assert_ne!(rest[0], "0");
        pod.end().await;
    }
}

#[tokio::test]
async fn a_task_is_found_again_over_a_new_connection() {
    need_root!();
    use sandboxd::runtime::Runtime;
    let pod = Box::pod(true).await;
    let (task, _) = pod.make(Given::shell("sleep 0.3; exit 9")).await;
    task.start().await.unwrap();
    let (waiting, _) = pod.make(Given::shell("true")).await;
    let other = super::setup::runtime().await;
    let infra = other.adopt(&pod.planned.plan.pod, &pod.planned.plan.dir).await.unwrap();
    let ids = pod.ids();
    let adopted = infra.adopt_container(&ids[0]).await.unwrap().unwrap();
    assert!(adopted.started);
    assert_eq!(adopted.task.pid(), task.pid());
    let seen = adopted.task.wait().await;
    assert_eq!((seen.exit, seen), (Exit::Code(9), task.wait().await));
    assert!(!infra.adopt_container(&ids[1]).await.unwrap().unwrap().started);
    let late = infra.adopt_container(&ids[0]).await.unwrap().unwrap();
    assert_eq!(late.task.wait().await, seen);
    let unknown = sandboxd::container::model::ContainerId::random().unwrap();
    assert!(infra.adopt_container(&unknown).await.unwrap().is_none());
    waiting.remove().await.unwrap();
    adopted.task.remove().await.unwrap();
    assert!(infra.adopt_container(&ids[0]).await.unwrap().is_none());
    pod.end().await;
}

#[tokio::test]
async fn containers_die_with_the_pod_and_with_the_shim() {
    need_root!();
    use sandboxd::container::spec::PidMode;
    for kill_shim in [false, true] {
        let pod = Box::pod(true).await;
        let mut tasks = Vec::new();
        for mode in [PidMode::Pod, PidMode::Container, PidMode::Node] {
            let mut given = Given::shell("sleep 60");
            given.pid = mode;
            let (task, _) = pod.make(given).await;
            task.start().await.unwrap();
            tasks.push(task);
        }
        if kill_shim {
            let shim = rustix::process::Pid::from_raw(pod.pod.infra.shim_pid()).unwrap();
            rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        } else {
            pod.pod.infra.kill().await.unwrap();
        }
        for task in tasks {
            let ended = tokio::time::timeout(std::time::Duration::from_secs(5), task.wait()).await;
            assert!(ended.is_ok());
        }
        pod.end().await;
    }
}

#[tokio::test]
async fn many_containers_at_once_with_many_mounts_leave_nothing_in_the_shim() {
    need_root!();
    let pod = Box::pod(true).await;
    let source = tempfile::tempdir().unwrap();
    let fds = || std::fs::read_dir(format!("/proc/{}/fd", pod.pod.infra.shim_pid())).unwrap().count();
    let mounts = || {
        let mountinfo = format!("/proc/{}/mountinfo", pod.pod.infra.shim_pid());
        std::fs::read_to_string(mountinfo).unwrap().lines().count()
    };
    let before = (fds(), mounts(), pod.children());
    let one = |number: usize| {
        let pod = &pod;
        let source = source.path().to_str().unwrap();
        async move {
            let mut given = Given::shell("grep -c ' /m/' /proc/self/mountinfo");
            for n in 0..60 {
                given = given.mount(&format!("/m/b{n}"), "bind", source, "rbind ro rprivate");
                given = given.mount(&format!("/m/t{n}"), "tmpfs", "tmpfs", "size=4k");
            }
            assert_eq!(pod.output(given).await, ["120"], "container {number}");
        }
    };
    tokio::join!(one(0), one(1), one(2), one(3), one(4), one(5));
    assert_eq!((fds(), mounts(), pod.children()), before);
    // More than travel with one message.
    let mut given = Given::shell("true");
    for n in 0..260 {
        given = given.mount(&format!("/m/b{n}"), "bind", source.path().to_str().unwrap(), "rbind ro");
    }
    let error = pod.try_make(given).await.0.expect_err("it was made");
    assert!(error.to_string().contains("mounts"), "{error}");
    assert_eq!((fds(), mounts(), pod.children()), before);
    pod.end().await;
}
