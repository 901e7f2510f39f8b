//! Handlers that are OCI runtimes: `runc`, and `crun` where it works.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_api::cri::{ContainerState, ExecSyncRequest, StatusRequest};
use sandboxd_tests::bins;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::{Node, Options};
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, log};
use tonic::Code;

use crate::support::{Stage, both_on_oci, oci, refused};

/// What runtimes keep under the node's state directory: nothing, once all containers are removed.
fn kept(node: &Node) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for handler in ["runc", "crun"] {
        let Ok(entries) = std::fs::read_dir(node.path("run/oci").join(handler)) else { continue };
        for entry in entries {
            found.push(entry?.path().display().to_string());
        }
    }
    Ok(found)
}

/// The shim of a container: the parent of its process.
async fn shim_of(stage: &Stage<'_>, id: &str) -> Result<i32> {
    let info = stage.kube.verbose(id, true).await?.info;
    let info = info.get("info").context("no info")?;
    let pid = serde_json::from_str::<serde_json::Value>(info)?["pid"].as_i64().context("no pid")?;
    Ok(sandboxd_tests::proc::read(i32::try_from(pid)?).context("no process")?.parent)
}

// cri: RunPodSandboxRequest.runtime_handler, PodSandboxStatus.runtime_handler
#[test]
fn runc_runs_what_was_asked_for() {
    both_on_oci(async |stage| {
        let kube = &stage.kube;
        let status = kube.cri.status(&stage.pod.id).await?.status.context("no status")?;
        ensure!(status.runtime_handler == oci(), "{status:?}");
        let (status, text) = kube
            .result(
                &stage.pod,
                stage
                    .container("asked")
                    .sh("echo $WHAT; pwd; id -u; id -g; echo err >&2; cat /proc/self/uid_map; exit 7")
                    .env("WHAT", "a b")
                    .with(|c| c.working_dir = "/tmp".into())
                    .run_as(1000, 1000),
            )
            .await?;
        ensure!(status.exit_code == 7, "{status:?}");
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines[..4] == ["a b", "/tmp", "1000", "1000"], "{lines:?}");
        let map: Vec<&str> = lines[4].split_whitespace().collect();
        let host = stage.host_id(0).to_string();
        ensure!(map[..2] == ["0", host.as_str()], "{lines:?}");
        ensure!(log(Path::new(&status.log_path))?.of("stderr").trim() == "err");
        // Its streams are its own: programs open them again.
        let again = "echo x > /dev/stdout; echo y > /dev/stderr; read z < /dev/stdin; stat -L -c %u:%a /proc/self/fd/1";
        for user in [0, 1000] {
            let request = stage.container(&format!("again-{user}")).sh(again).run_as(user, user);
            let (status, text) = kube.result(&stage.pod, request).await?;
            ensure!(status.exit_code == 0, "{text:?}");
            ensure!(text.lines().last() == Some(&*format!("{user}:600")), "{text:?}");
        }
        let waits = kube.run(&stage.pod, stage.container("waits").waits().run_as(1000, 1000)).await?;
        let said =
            kube.asked(&waits, &["sh", "-c", "echo x > /dev/stdout; stat -L -c %u /proc/self/fd/1"]).await?;
        ensure!(said == "x\n1000", "{said:?}");
        kube.remove(&waits).await?;
        let terminal = stage.container("terminal").sh("tty; echo there").with(|c| c.tty = true);
        let (of_terminal, text) = kube.result(&stage.pod, terminal).await?;
        ensure!(text.contains("/dev/pts/0") && text.contains("there"), "{text:?}");
        for one in kube.list(None).await? {
            kube.remove(&one.id).await?;
        }
        ensure!(of_terminal.exit_code == 0, "{of_terminal:?}");
        let kept = kept(stage.node)?;
        ensure!(kept.is_empty(), "{kept:?}");
        Ok(())
    });
}

// config.json is text: as much of it as other runtimes give.
#[test]
fn runc_gets_values_that_are_not_text_with_a_word() {
    both_on_oci(async |stage| {
        let request = stage.container("binary").env("SECRET", b"a\xff\xfeb").env("PLAIN", "p");
        let shown = stage.printed(request, "printf %s \"$SECRET\" | od -An -tx1").await?;
        ensure!(shown.trim() == "61 ef bf bd ef bf bd 62", "{shown}");
        let log = stage.node.log_tail(10_000);
        let told = log.lines().filter(|line| line.contains("U+FFFD") && line.contains("SECRET"));
        ensure!(told.count() == 1 && !log.contains("PLAIN"), "{log}");
        Ok(())
    });
}

// What kubelet asks for with critical pods and guaranteed ones: within reach only of a daemon with
// CAP_SYS_RESOURCE, and a container that runs either way.
#[test]
fn runc_takes_a_score_that_is_out_of_reach() {
    both_on_oci(async |stage| {
        let request = stage.container("critical").waits().with_resources(|r| r.oom_score_adj = -997);
        let id = stage.kube.run(&stage.pod, request).await?;
        let daemon = stage.node.daemon_pid().context("no daemon")?;
        let status = std::fs::read_to_string(format!("/proc/{daemon}/status"))?;
        let held = status.lines().find_map(|line| line.strip_prefix("CapPrm:")).context("no CapPrm")?;
        let may = u64::from_str_radix(held.trim(), 16)? & 1 << 24 != 0;
        let own = std::fs::read_to_string(format!("/proc/{daemon}/oom_score_adj"))?;
        let expected = if may { "-997" } else { own.trim() };
        let shown =
            stage.kube.asked(&id, &["cat", "/proc/1/oom_score_adj", "/proc/self/oom_score_adj"]).await?;
        ensure!(shown.lines().all(|line| line == expected), "{shown:?}, expected {expected}");
        Ok(())
    });
}

#[test]
fn runc_executes_and_stops_with_grace() {
    both_on_oci(async |stage| {
        let kube = &stage.kube;
        let id = kube
            .run(&stage.pod, stage.container("exec").sh("trap 'exit 3' USR2; while :; do sleep 0.05; done"))
            .await?;
        ensure!(kube.asked(&id, &["sh", "-c", "echo out; id -u"]).await? == "out\n0");
        let response = kube.exec(&id, &["sh", "-c", "echo e >&2; exit 4"]).await?;
        ensure!(response.exit_code == 4 && response.stderr == b"e\n", "{response:?}");
        refused(kube.exec(&id, &["nope"]).await, Code::InvalidArgument, &["nope", "not found"])?;
        let begin = Instant::now();
        kube.stop(&id, 30).await?;
        ensure!(begin.elapsed() < Duration::from_secs(20), "took {:?}", begin.elapsed());
        ensure!(kube.status(&id).await?.exit_code == 3);
        Ok(())
    });
}

#[test]
fn all_that_a_timed_out_exec_of_runc_started_is_killed() {
    both_on_oci(async |stage| {
        let kube = &stage.kube;
        let id = kube.run(&stage.pod, stage.container("timed").waits()).await?;
        // A session of its own, whose parent has ended: no tree leads to it.
        let script =
            "setsid sh -c 'sh -c \"while :; do date > /tmp/alive; sleep 0.05; done\" &' & sleep 1000";
        let request = ExecSyncRequest {
            container_id: id.clone(),
            cmd: ["sh", "-c", script].map(str::to_owned).into(),
            timeout: 1,
        };
        refused(kube.runtime.clone().exec_sync(request).await, Code::DeadlineExceeded, &["1 s"])?;
        kube.asked(&id, &["rm", "-f", "/tmp/alive"]).await?;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let left = kube.exec(&id, &["ls", "/tmp/alive"]).await?;
        ensure!(left.exit_code != 0, "it still writes");
        // And what runs beside it goes on.
        ensure!(kube.asked(&id, &["echo", "here"]).await? == "here");
        Ok(())
    });
}

#[test]
fn containers_of_runc_share_the_pod() {
    both_on_oci(async |stage| {
        let kube = &stage.kube;
        let first = kube.run(&stage.pod, stage.container("first").waits()).await?;
        let second = kube.run(&stage.pod, stage.container("second").waits()).await?;
        kube.asked(&first, &["sh", "-c", "echo here > /dev/shm/x"]).await?;
        ensure!(kube.asked(&second, &["cat", "/dev/shm/x"]).await? == "here");
        for namespace in ["net", "ipc", "uts", "user"] {
            let path = format!("/proc/self/ns/{namespace}");
            let of = async |id| kube.asked(id, &["readlink", &path]).await;
            ensure!(of(&first).await? == of(&second).await?, "{namespace}");
        }
        let own = kube.asked(&first, &["readlink", "/proc/self/ns/pid"]).await?;
        ensure!(own != kube.asked(&second, &["readlink", "/proc/self/ns/pid"]).await?, "one pid namespace");
        Ok(())
    });
}

#[test]
fn runc_goes_on_after_kill_minus_nine_of_the_daemon() {
    both_on_oci(async |stage| {
        let id = stage
            .kube
            .run(
                &stage.pod,
                stage.container("on").sh("trap 'exit 5' USR2; while :; do echo x; sleep 0.05; done"),
            )
            .await?;
        stage.kube.asked(&id, &["true"]).await?;
        stage.node.kill_daemon()?;
        stage.node.spawn().await?;
        let kube = Kube::connect(stage.node).await?;
        ensure!(kube.status(&id).await?.state() == ContainerState::ContainerRunning);
        ensure!(kube.asked(&id, &["echo", "still"]).await? == "still");
        kube.stop(&id, 30).await?;
        ensure!(kube.status(&id).await?.exit_code == 5);
        kube.remove(&id).await?;
        let kept = kept(stage.node)?;
        ensure!(kept.is_empty(), "{kept:?}");
        Ok(())
    });
}

#[test]
fn a_handler_that_left_the_configuration_leaves_what_runs() {
    let Some(runc) = bins::on_path("runc") else {
        eprintln!("SKIPPED: no runc");
        return;
    };
    let config = format!("[handlers.mine]\nruntime = \"oci\"\npath = \"{}\"\n", runc.display());
    let options = Options { config, ..Options::default() };
    E2e::default().needs(Need::Runc).options(options).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod_with(node.pod("mine").userns(), "mine").await?;
        let request = sandboxd_tests::workload::Request::new("c", crate::support::IMAGE);
        let id = kube.run(&pod, request.sh("trap 'exit 5' USR2; while :; do sleep 0.05; done")).await?;
        let request = sandboxd_tests::workload::Request::new("killed", crate::support::IMAGE);
        let second = kube.run(&pod, request.waits()).await?;
        node.kill_daemon()?;
        std::fs::write(node.path("config.toml"), "")?;
        node.spawn().await?;
        let kube = Kube::connect(node).await?;
        ensure!(kube.status(&id).await?.state() == ContainerState::ContainerRunning);
        ensure!(kube.asked(&id, &["echo", "still"]).await? == "still");
        kube.stop(&id, 30).await?;
        ensure!(kube.status(&id).await?.exit_code == 5);
        let request = sandboxd_tests::workload::Request::new("new", crate::support::IMAGE);
        let made = kube.create(&pod, request.waits()).await;
        ensure!(
            made.is_err_and(|status| status.message().contains("mine")),
            "made by a handler that is gone"
        );
        // With the pod go its containers, their shims and what the runtime keeps of them.
        ensure!(kube.status(&second).await?.state() == ContainerState::ContainerRunning);
        kube.cri.stop(&pod.id).await?;
        kube.cri.remove(&pod.id).await?;
        let kept: Vec<_> = std::fs::read_dir(node.path("run/oci/mine"))?.collect();
        ensure!(kept.is_empty(), "{kept:?}");
        Ok(())
    });
}

// A runtime may leave a process in the container's pid namespace that ends when nothing else happens: until somebody
// waits for it, the container's first process cannot end.
#[test]
fn an_orphan_of_a_runtime_does_not_hold_up_the_end() {
    let Some(runc) = bins::on_path("runc") else {
        eprintln!("SKIPPED: no runc");
        return;
    };
    let (runc, options) = (runc.display().to_string(), Options::default());
    E2e::default().needs(Need::Runc).options(options).run(async |node| {
        let script = node.path("runtime");
        // The last argument of exec is the container; what its shell leaves behind has an exec's shim for a parent.
        let text = format!(
            "#!/bin/sh\n{runc} \"$@\"\nstatus=$?\ncase \" $* \" in *\" exec \"*)\nfor id; do :; done\n\
             root=; for a; do [ \"$root\" = next ] && root=$a; [ \"$a\" = --root ] && root=next; done\n\
             pid=$({runc} --root \"$root\" state \"$id\" | sed -n 's/.*\"pid\": \\([0-9]*\\).*/\\1/p')\n\
             nsenter --no-fork --target \"$pid\" --pid sh -c 'sleep 1000 < /dev/null > /dev/null 2>&1 &'\nesac\nexit $status\n"
        );
        std::fs::write(&script, text)?;
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755))?;
        let config = format!("[handlers.leaves]\nruntime = \"oci\"\npath = \"{}\"\n", script.display());
        std::fs::write(node.path("config.toml"), config)?;
        node.kill_daemon()?;
        node.spawn().await?;
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod_with(node.pod("leaves"), "leaves").await?;
        let request = sandboxd_tests::workload::Request::new("c", crate::support::IMAGE);
        let id = kube.run(&pod, request.sh("trap 'exit 5' USR2; while :; do sleep 0.05; done")).await?;
        ensure!(kube.asked(&id, &["echo", "there"]).await? == "there");
        let begin = Instant::now();
        kube.stop(&id, 120).await?;
        ensure!(begin.elapsed() < Duration::from_secs(60), "took {:?}", begin.elapsed());
        ensure!(kube.status(&id).await?.exit_code == 5);
        let request = sandboxd_tests::workload::Request::new("removed", crate::support::IMAGE);
        let id = kube.run(&pod, request.waits()).await?;
        ensure!(kube.asked(&id, &["echo", "there"]).await? == "there");
        kube.remove(&id).await?;
        Ok(())
    });
}

#[test]
fn a_container_of_runc_without_its_shim_is_removed() {
    both_on_oci(async |stage| {
        let kube = &stage.kube;
        for restart in [false, true] {
            let id = kube.run(&stage.pod, stage.container(&format!("lost-{restart}")).waits()).await?;
            let shim = shim_of(stage, &id).await?;
            if restart {
                stage.node.kill_daemon()?;
            }
            kill(Pid::from_raw(shim), Signal::SIGKILL)?;
            if restart {
                stage.node.spawn().await?;
            }
            let kube = Kube::connect(stage.node).await?;
            kube.stop(&id, 0).await?;
            kube.remove(&id).await?;
            let kept = kept(stage.node)?;
            ensure!(kept.is_empty(), "{kept:?}");
        }
        Ok(())
    });
}

#[test]
fn what_runc_refuses_is_said_and_leaves_nothing() {
    both_on_oci(async |stage| {
        let kube = &stage.kube;
        let missing = stage.container("missing").command(&["nope"]);
        let result = kube.run(&stage.pod, missing).await;
        refused(result, Code::InvalidArgument, &["nope", "not found in $PATH"])?;
        let kept = kept(stage.node)?;
        ensure!(kept.is_empty(), "{kept:?}");
        Ok(())
    });
}

// cri: StatusResponse.runtime_handlers, RuntimeHandler.name, RuntimeHandler.features
// cri: RuntimeHandlerFeatures.user_namespaces, RuntimeHandlerFeatures.recursive_read_only_mounts
#[test]
fn handlers_report_what_they_can() {
    let config = "[handlers.broken]\nruntime = \"oci\"\npath = \"/bin/false\"\n".to_owned();
    let options = Options { config, ..Options::default() };
    E2e::default().needs(Need::Runc).options(options).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let status = kube.runtime.clone().status(StatusRequest { verbose: false }).await?.into_inner();
        let of =
            |name: &str| status.runtime_handlers.iter().find(|h| h.name == name).and_then(|h| h.features);
        let runc = of("runc").context("no runc")?;
        let native = of("native").context("no native")?;
        ensure!(runc.user_namespaces == native.user_namespaces, "{runc:?} {native:?}");
        let broken = of("broken").context("no broken")?;
        ensure!(!broken.user_namespaces && !broken.recursive_read_only_mounts, "{broken:?}");
        let pod = kube.pod_with(node.pod("broken"), "broken").await?;
        let request = sandboxd_tests::workload::Request::new("c", crate::support::IMAGE);
        refused(kube.create(&pod, request.waits()).await, Code::Internal, &["broken", "/bin/false"])?;
        let result = kube.pod_with(node.pod("none"), "kata").await;
        refused(result, Code::InvalidArgument, &["kata", "runc", "native"])?;
        Ok(())
    });
}

#[test]
fn crun_works_or_says_why_not() {
    if bins::on_path("crun").is_none() {
        eprintln!("crun is not on the PATH: nothing to show");
        return;
    }
    E2e::default().run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod_with(node.pod("crun"), "crun").await?;
        let request = sandboxd_tests::workload::Request::new("c", crate::support::IMAGE);
        match kube.run(&pod, request.sh("echo hi; exit 7")).await {
            Ok(id) => {
                ensure!(kube.ended(&id).await?.exit_code == 7);
                kube.remove(&id).await?;
            }
            Err(status) => {
                ensure!(status.message().contains("hybrid"), "{status:?}");
                let log = node.log_tail(10_000);
                ensure!(log.contains("crun makes no containers where cgroup v1 and v2"), "{log}");
            }
        }
        let kept = kept(node)?;
        ensure!(kept.is_empty(), "{kept:?}");
        Ok(())
    });
}
