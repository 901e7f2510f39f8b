//! Each way in which a container's mount or setns fails, provoked for real, has a reason of its own.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::check::Verdict;
use sandboxd_api::console::{Check, ExplainCheckRequest, ExplainCheckResponse, ListChecksRequest};
use sandboxd_api::cri::security_profile::ProfileType;
use sandboxd_api::cri::{Capability, SecurityProfile};
use sandboxd_tests::console::Console;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::image::{BUSYBOX, busybox_named, program_layer};
use sandboxd_tests::node::{Node, Options};
use sandboxd_tests::provoke::{CASES, Case, FILTERED};
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

/// A node that reads the results of system calls, whatever that costs.
fn with_results() -> E2e {
    let config = "[observer]\nsyscall_results = \"on\"\n".to_owned();
    E2e::default().needs(Need::Bpf).options(Options { config, ..Options::default() })
}

const PROVOKE: &str = "localhost/test/provoke:1";

/// Loads busybox with the program that makes the kernel refuse.
fn load_provoke(node: &Node) -> Result<()> {
    let archive = node.path("provoke.tar");
    let program = program_layer(Path::new(env!("CARGO_BIN_EXE_provoke")), "provoke")?;
    busybox_named(PROVOKE)?.layer(program).write(&archive)?;
    node.import(&archive)?;
    std::fs::remove_file(&archive).context("removing the image's archive")
}

/// A container that may do all that a case needs.
fn provoker() -> Request {
    let mut request = tool().with_security(|s| {
        let add_capabilities = ["SYS_ADMIN", "SYS_CHROOT", "SYS_PTRACE"].map(str::to_owned).into();
        s.capabilities = Some(Capability { add_capabilities, ..Capability::default() });
    });
    let image = request.0.image.get_or_insert_default();
    (image.image, image.user_specified_image) = (PROVOKE.to_owned(), PROVOKE.to_owned());
    request
}

/// What the pod's container did last for this reason.
async fn newest(console: &Console, pod: &Sandbox, reason: &str, after_seq: u64) -> Result<Option<Check>> {
    let request = ListChecksRequest {
        pod_id: pod.id.clone(),
        reason: reason.to_owned(),
        after_seq,
        ..ListChecksRequest::default()
    };
    Ok(console.checks(request).await?.pop())
}

/// Runs a case in a container, and looks at what is recorded, told and printed of it.
async fn provoked(
    node: &Node,
    kube: &Kube,
    pod: &Sandbox,
    id: &str,
    case: &Case,
    seen: &mut u64,
) -> Result<()> {
    let console = node.console().await?;
    let ran = kube.exec(id, &["/provoke", case.name, "/mnt"]).await?;
    let said = String::from_utf8_lossy(&ran.stderr).into_owned();
    ensure!(ran.exit_code == case.errno, "ended with {}, not {}: {said}", ran.exit_code, case.errno);
    let mut found = None;
    let looked = eventually(case.code, async || {
        found = newest(&console, pod, case.code, *seen).await?;
        Ok(found.is_some())
    });
    looked.await?;
    let check = found.context("no check")?;
    *seen = check.seq;
    // A process that has made a mount namespace of its own is known to be the pod's, not which container's.
    let ours = matches!(check.container.as_str(), "tool" | "") && check.pod_id == pod.id;
    ensure!(check.result == Some(case.errno) && ours, "{check:?}");
    let wanted = match case.code {
        "setns-bad-argument" | "ordinary-error" => Verdict::Failed,
        "setns-process-closed" => Verdict::Denied,
        _ => Verdict::Refused,
    };
    ensure!(check.verdict() == wanted, "{check:?}");

    let seq = check.seq.to_string();
    let output = node.ask(&["explain", &seq, "--json"]).output()?;
    let told: ExplainCheckResponse = serde_json::from_slice(&output.stdout)?;
    let told = told.explanation.context("no explanation")?;
    ensure!(
        told.reason == case.code && told.headline.contains("of pod ") && told.headline.contains("stage"),
        "{told:?}"
    );
    ensure!(!told.fix.is_empty() && !told.sources.is_empty(), "{told:?}");
    let text = node.ask(&["explain", &seq]).env("COLUMNS", "100").output()?.stdout;
    let text = String::from_utf8(text)?;
    let verdict = format!("{wanted:?}").to_uppercase();
    for words in [case.code, "which failed: ", &verdict, "Fix"] {
        ensure!(text.contains(words), "no {words:?}: {text}");
    }
    Ok(())
}

#[test]
fn what_fails_in_a_container_without_a_denial_has_a_reason_too() {
    with_results().run(async |node| {
        load_provoke(node)?;
        let kube = Kube::connect(node).await?;
        let pod = kube.pod(node.pod("stage").userns()).await?;
        let id = kube.run(&pod, provoker()).await?;
        let mut seen = 0;
        for case in CASES {
            provoked(node, &kube, &pod, &id, case, &mut seen).await.context(case.name)?;
        }
        // The last one was nobody's refusal: it is shown to who asks for it.
        let last = |arguments: &[&str]| -> Result<String> {
            let output = node
                .ask(&[&["explain", "--last", "--json", "--pod", &pod.id], arguments].concat())
                .output()?;
            let told: ExplainCheckResponse = serde_json::from_slice(&output.stdout)?;
            Ok(told.check.context("no check")?.reason)
        };
        ensure!(last(&["--failed"])? == "ordinary-error", "{}", last(&["--failed"])?);
        ensure!(last(&[])? == "refused-by-security-module", "{}", last(&[])?);
        let console = node.console().await?;
        let observer = console.snapshot().await?.observer.context("no observer")?;
        // A trampoline is behind the filter, and sees nothing of what that ends.
        if observer.message.contains("sys_exit") {
            for case in FILTERED {
                provoked(node, &kube, &pod, &id, case, &mut seen).await.context(case.name)?;
            }
        }
        Ok(())
    });
}

/// A container that has nothing but the usual profile.
#[test]
fn the_usual_seccomp_profile_is_told_from_a_denied_capability() {
    with_results().run(async |node| {
        node.load_busybox()?;
        let kube = Kube::connect(node).await?;
        let console = node.console().await?;
        let observer = console.snapshot().await?.observer.context("no observer")?;
        if !observer.message.contains("sys_exit") {
            return Ok(());
        }
        let pod = kube.pod(node.pod("usual").userns()).await?;
        let usual = tool().with_security(|s| {
            s.capabilities = None;
            let profile_type = ProfileType::RuntimeDefault.into();
            s.seccomp = Some(SecurityProfile { profile_type, ..SecurityProfile::default() });
        });
        let id = kube.run(&pod, usual).await?;
        let mut seen = 0;
        for command in [&["mount", "-t", "tmpfs", "t", "/tmp"][..], &["unshare", "-U", "true"]] {
            let ran = kube.exec(&id, command).await?;
            ensure!(ran.exit_code != 0, "{command:?}: was to fail");
            let mut found = None;
            eventually("refused-before-checks", async || {
                found = newest(&console, &pod, "refused-before-checks", seen).await?;
                Ok(found.is_some())
            })
            .await
            .with_context(|| format!("{command:?}"))?;
            let check = found.context("no check")?;
            seen = check.seq;
            ensure!(check.verdict() == Verdict::Refused && check.capability_name.is_empty(), "{check:?}");
        }
        Ok(())
    });
}
