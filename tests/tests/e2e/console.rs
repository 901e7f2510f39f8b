//! The console protocol, and the console itself on a live daemon.

use std::process::Command;

use anyhow::{Context, ensure};
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::{DoctorRequest, GetTimelineRequest, Pod, namespace, pod, sysfs};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, Request};
use sandboxd_tests::{bins, ns};

#[test]
fn a_snapshot_then_deltas() {
    E2e::default().run(async |node| {
        let (cri, console) = (node.cri().await?, node.console().await?);
        let first = cri.run(node.pod("first").userns().build()).await?;
        let (snapshot, mut watch) = console.watch().await?;
        let seen = snapshot.pods.iter().find(|p| p.id == first).context("the pod is not in the snapshot")?;
        ensure!(seen.state() == pod::State::Ready, "{seen:?}");
        let host = snapshot.node.context("no node")?;
        ensure!(host.init_userns == ns::own("user")? && host.network_ready, "{host:?}");

        let second = cri.run(node.pod("second").userns().build()).await?;
        let ready = watch
            .until(|change| match change {
                Change::Pod(pod) if pod.id == second && pod.state() == pod::State::Ready => Some(pod),
                _ => None,
            })
            .await?;
        ensure!(ready.ips.len() == 1 && node.scope.subnet.contains(&ready.ips[0]), "{ready:?}");
        cri.remove(&second).await?;
        watch
            .until(|change| matches!(change, Change::PodRemoved(id) if id == second).then_some(()))
            .await
            .context("the removal")?;
        Ok(())
    });
}

#[test]
fn a_pod_shows_its_namespaces_owners_and_steps() {
    E2e::default().run(async |node| {
        let (cri, console) = (node.cri().await?, node.console().await?);
        let id = cri.run(node.pod("shown").userns().build()).await?;
        let pid = cri.pid(&id).await?;
        let snapshot = console.snapshot().await?;
        let pod = snapshot.pods.iter().find(|p| p.id == id).context("no pod")?;
        for kind in ["user", "net", "mnt", "ipc", "uts"] {
            let shown = pod.namespaces.iter().find(|n| n.kind == kind).context("a namespace is missing")?;
            ensure!(shown.inode == ns::inode_of(pid, kind)?, "{shown:?}");
            ensure!(!shown.host && !shown.wrong_owner, "{shown:?}");
            if kind != "user" {
                ensure!(shown.owner() == namespace::Owner::Pod, "{shown:?}");
                ensure!(shown.owner_inode == ns::owner_of(pid, kind)?, "{shown:?}");
            }
        }
        ensure!(
            pod.sysfs.as_ref().context("no sysfs")?.verdict() == sysfs::Verdict::Mounted,
            "{:?}",
            pod.sysfs
        );

        let request = GetTimelineRequest { pod_id: id };
        let timeline = console.client.clone().get_timeline(request).await?.into_inner().timeline;
        let timeline = timeline.context("no timeline")?;
        let names: Vec<_> = timeline.steps.iter().map(|s| s.name.as_str()).collect();
        for name in ["Reserved", "Configured", "Created", "Networked", "Started"] {
            ensure!(names.contains(&name), "no {name} in {names:?}");
        }
        let cni: u64 = timeline.steps.iter().map(|s| s.cni_ns).sum();
        ensure!(cni > 1_000_000 && cni <= timeline.total_ns, "CNI {cni} ns of {} ns", timeline.total_ns);
        Ok(())
    });
}

/// Nothing else of the pod changes: the counts are news of their own.
#[test]
fn a_denied_check_moves_the_counts_of_its_pod() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        node.load_busybox()?;
        let (kube, console) = (Kube::connect(node).await?, node.console().await?);
        let pod = kube.pod(node.pod("counted").userns()).await?;
        let id = kube.run(&pod, Request::new("main", BUSYBOX).waits()).await?;
        let (snapshot, mut watch) = console.watch().await?;
        let denied = |pod: &Pod| pod.checks.as_ref().map_or(0, |checks| checks.denied);
        let before = snapshot.pods.iter().find(|it| it.id == pod.id).map(denied).context("no pod")?;
        let ran = kube.exec(&id, &["mount", "-t", "tmpfs", "t", "/tmp"]).await?;
        ensure!(ran.exit_code != 0, "the mount was to fail");
        watch
            .until(|change| match change {
                Change::Pod(it) if it.id == pod.id && denied(&it) == before + 1 => Some(()),
                _ => None,
            })
            .await
            .context("the pod with one more denied check")
    });
}

#[test]
fn the_doctor_has_checks_with_words() {
    E2e::default().run(async |node| {
        let console = node.console().await?;
        let checks = console.client.clone().doctor(DoctorRequest {}).await?.into_inner().checks;
        ensure!(checks.len() >= 5, "{checks:?}");
        ensure!(checks.iter().all(|c| !c.name.is_empty() && !c.reason.is_empty()), "{checks:?}");
        Ok(())
    });
}

#[test]
fn sandboxd_tui_prints_one_frame_of_a_live_daemon() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        cri.run(node.pod("framed").userns().build()).await?;
        ensure!(cri.run_with(node.pod("broken").userns().build(), "network-first").await.is_err());
        let tui = bins::find("sandboxd-tui")?;
        let socket = node.console_socket();
        let frame = async |extra: &[&str]| {
            let mut command = tokio::process::Command::new(&tui);
            command.arg("--endpoint").arg(&socket).arg("--once").args(extra).env("COLUMNS", "120");
            command.output().await
        };
        let output = frame(&[]).await?;
        let text = String::from_utf8(output.stdout)?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        ensure!(text.contains("framed") && text.contains("broken"), "{text}");
        let json = frame(&["--json"]).await?;
        let value: serde_json::Value = serde_json::from_slice(&json.stdout)?;
        ensure!(value.to_string().contains("framed"), "{value}");
        Ok(())
    });
}

#[test]
fn sandboxd_tui_says_when_there_is_no_daemon() {
    let Ok(tui) = bins::find("sandboxd-tui") else { panic!("sandboxd-tui is not built") };
    let output =
        Command::new(tui).args(["--endpoint", "/nonexistent/console.sock", "--once"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("/nonexistent/console.sock"), "{words}");
}
