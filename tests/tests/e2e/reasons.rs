//! Each way in which a container's mount or setns fails, provoked for real, has a reason of its own.

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::{Check, ExplainCheckRequest, ListChecksRequest};
use sandboxd_api::cri::security_profile::ProfileType;
use sandboxd_api::cri::{Capability, SecurityProfile};
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::BUSYBOX;
use sandboxd_tests::skip::Need;
use sandboxd_tests::workload::{Kube, Request, Sandbox};

use crate::support::eventually;

/// A container that may mount in its own user namespace, and that no seccomp filter is before the kernel.
fn tool() -> Request {
    Request::new("tool", BUSYBOX).waits().with_security(|s| {
        let add_capabilities = vec!["SYS_ADMIN".to_owned()];
        s.capabilities = Some(Capability { add_capabilities, ..Capability::default() });
        s.seccomp = Some(SecurityProfile {
            profile_type: ProfileType::Unconfined.into(),
            ..SecurityProfile::default()
        });
    })
}

/// The pod's newest check denied for this reason.
async fn denied(console: &Console, pod: &Sandbox, reason: &str, after_seq: u64) -> Result<Option<Check>> {
    let request = ListChecksRequest {
        pod_id: pod.id.clone(),
        denied_only: true,
        reason: reason.to_owned(),
        after_seq,
        ..ListChecksRequest::default()
    };
    Ok(console.checks(request).await?.pop())
}

#[test]
fn what_fails_in_a_container_has_a_reason_of_its_own() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let console = node.console().await?;
        let pod = kube.pod(node.pod("stage").userns()).await?;
        let id = kube.run(&pod, tool()).await?;
        let mut seen = 0;
        for (command, reason) in [
            ("mount -t ext4 /dev/null /tmp", "filesystem-not-for-userns"),
            ("mount -o remount,ro /", "remount-of-others"),
            ("unshare -U -r mount -t tmpfs t /tmp", "mntns-owned-by-other-userns"),
            ("unshare -U -r -m mount -t sysfs s /tmp", "netns-owned-by-other-userns"),
            ("unshare -U -r -m mount -t proc p /tmp", "proc-without-own-pidns"),
            ("unshare -U -r -m mount -t mqueue q /tmp", "mqueue-without-own-ipcns"),
            ("unshare -U -r -m mount -t cgroup2 c /tmp", "cgroup-without-own-cgroupns"),
            (
                "exec 9</proc/self/ns/net; unshare -U -r nsenter --net=/proc/self/fd/9 true",
                "setns-foreign-namespace",
            ),
            (
                "exec 9</proc/self/ns/user; unshare -U -r nsenter --user=/proc/self/fd/9 true",
                "setns-foreign-userns",
            ),
        ] {
            let ran = kube.exec(&id, &["sh", "-c", command]).await?;
            ensure!(ran.exit_code != 0, "{command}: was to fail");
            let said = String::from_utf8_lossy(&ran.stderr).into_owned();
            let mut found = None;
            let looked = eventually(reason, async || {
                found = denied(&console, &pod, reason, seen).await?;
                Ok(found.is_some())
            });
            looked.await.with_context(|| format!("{command}: {said}"))?;
            let check = found.context("no check")?;
            seen = check.seq;
            let told = console.client.clone().explain_check(ExplainCheckRequest { seq: check.seq }).await?;
            let told = told.into_inner().explanation.context("no explanation")?;
            ensure!(told.reason == reason && told.headline.contains("stage"), "{command}: {told:?}");
            ensure!(!told.fix.is_empty() && !told.sources.is_empty(), "{command}: {told:?}");
        }
        Ok(())
    });
}

#[test]
fn a_container_without_the_capability_is_told_so() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let console = node.console().await?;
        for (name, userns) in [("own", true), ("hosts", false)] {
            let pod = node.pod(name);
            let pod = kube.pod(if userns { pod.userns() } else { pod }).await?;
            let plain = tool().with_security(|s| s.capabilities = None);
            let id = kube.run(&pod, plain).await?;
            let ran = kube.exec(&id, &["mount", "-t", "tmpfs", "t", "/tmp"]).await?;
            ensure!(ran.exit_code != 0, "{name}: the mount was to fail");
            eventually("capability-dropped", async || {
                Ok(denied(&console, &pod, "capability-dropped", 0).await?.is_some())
            })
            .await
            .context(name)?;
        }
        Ok(())
    });
}
