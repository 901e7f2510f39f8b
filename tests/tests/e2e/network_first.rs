//! The order of containerd issue 6908: the network namespace before the user namespace.

use anyhow::{Context, ensure};
use sandboxd_api::console::{ListChecksRequest, check, pod};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::ns;
use sandboxd_tests::skip::Need;
use tonic::Code;

#[test]
fn it_fails_on_sysfs_and_says_why_and_leaves_nothing() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let result = cri.run_with(node.pod("old").userns().build(), "network-first").await;
        let status = result.err().context("network-first made a userns pod")?;
        ensure!(status.code() != Code::Unknown, "{status:?}");
        let message = status.message().to_lowercase();
        for words in ["sysfs", "/sys", "not permitted", "network namespace", "user namespace"] {
            ensure!(message.contains(words), "no {words:?} in: {}", status.message());
        }
        // The denied check asked in the initial user namespace; its inode is part of the explanation.
        let init = ns::own("user")?.to_string();
        ensure!(message.contains(&init), "no inode {init} in: {}", status.message());
        ensure!(cri.list(None).await?.is_empty(), "the failed pod is in the CRI list");
        let left = node.leftovers().await;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    });
}

// cri: RunPodSandboxRequest.runtime_handler, PodSandboxStatus.runtime_handler
#[test]
fn without_a_userns_the_old_order_works() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let id = cri.run_with(node.pod("plain").build(), "network-first").await?;
        let info = cri.info(&id).await?;
        ensure!(info["flow"] == "network-first", "{info}");
        let status = cri.status(&id).await?.status.context("no status")?;
        ensure!(status.runtime_handler == "network-first", "{status:?}");
        Ok(())
    });
}

#[test]
fn the_observer_saw_the_denied_check_and_the_console_explains_it() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let cri = node.cri().await?;
        let result = cri.run_with(node.pod("seen").userns().build(), "network-first").await;
        ensure!(result.is_err());
        let console = node.console().await?;
        let snapshot = console.snapshot().await?;
        let failed = snapshot.pods.iter().find(|p| p.name == "seen").context("no failed pod")?;
        ensure!(failed.state() == pod::State::Failed, "{failed:?}");
        let why = failed.explanation.as_ref().context("the failed pod has no explanation")?;
        ensure!(!why.headline.is_empty() && !why.fix.is_empty(), "{why:?}");

        let request = ListChecksRequest {
            pod_id: failed.id.clone(),
            denied_only: true,
            ..ListChecksRequest::default()
        };
        let checks = console.checks(request).await?;
        let denied =
            checks.iter().find(|c| c.reason == why.reason).context("no such check in the history")?;
        ensure!(denied.verdict() == check::Verdict::Denied, "{denied:?}");
        ensure!(denied.capability_name == "CAP_SYS_ADMIN", "{denied:?}");
        ensure!(denied.argument == "sysfs", "{denied:?}");
        ensure!(denied.target_userns == ns::own("user")?, "{denied:?}");
        ensure!(denied.caller_userns != denied.target_userns && denied.caller_userns != 0, "{denied:?}");
        Ok(())
    });
}

#[test]
fn the_right_order_works_right_after_the_wrong_one() {
    E2e::default().run(async |node| {
        let cri = node.cri().await?;
        let config = node.pod("both").userns().build();
        ensure!(cri.run_with(config.clone(), "network-first").await.is_err());
        // The failed pod holds neither its name nor its address.
        let id = cri.run(config).await?;
        let pid = cri.pid(&id).await?;
        ensure!(ns::owner_of(pid, "net")? == ns::inode_of(pid, "user")?);
        Ok(())
    });
}
