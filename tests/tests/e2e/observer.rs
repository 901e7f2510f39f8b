//! The live eBPF program.

use std::process::Command;

use anyhow::{Context, ensure};
use sandboxd_api::console::{ListChecksRequest, check, observer};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Node;
use sandboxd_tests::ns;
use sandboxd_tests::skip::Need;

use crate::support::eventually;

#[test]
fn the_checks_of_a_pods_sysfs_are_allowed_in_its_own_userns() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let (cri, console) = (node.cri().await?, node.console().await?);
        let id = cri.run(node.pod("watched").userns().build()).await?;
        let userns = ns::inode_of(cri.pid(&id).await?, "user")?;
        eventually("an allowed check on sysfs of the pod", async || {
            let request = ListChecksRequest { pod_id: id.clone(), ..ListChecksRequest::default() };
            let checks = console.checks(request).await?;
            Ok(checks.iter().any(|c| {
                c.argument == "sysfs"
                    && c.verdict() == check::Verdict::Allowed
                    && c.caller_userns == userns
                    && c.target_userns == userns
                    && c.container == "infra"
            }))
        })
        .await
    });
}

#[test]
fn what_is_seen_and_lost_adds_up_to_what_was_produced() {
    E2e::alone().needs(Need::Bpf).run(async |node| {
        let (cri, console) = (node.cri().await?, node.console().await?);
        let state = async || -> anyhow::Result<_> {
            console.snapshot().await?.observer.context("no observer in the snapshot")
        };
        let before = state().await?;
        ensure!(before.state() == observer::State::Running, "{before:?}");
        for round in 0..10 {
            let id = cri.run(node.pod(&format!("burst{round}")).userns().build()).await?;
            cri.remove(&id).await?;
        }
        eventually("the counts add up", async || {
            let now = state().await?;
            Ok(now.produced == now.seen + now.sampled_out + now.lost && now.seen > before.seen)
        })
        .await
    });
}

#[test]
fn a_process_of_no_pod_is_told_apart() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let console = node.console().await?;
        // A userns without a network namespace of its own: mounting sysfs asks in the host's.
        let mut command = Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "mount", "-t", "sysfs", "sysfs", "/mnt"]);
        let child =
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn()?;
        let pid = i32::try_from(child.id())?;
        let status = { child }.wait()?;
        ensure!(!status.success(), "sysfs was mounted");
        eventually("the denied check of the stranger", async || {
            let request = ListChecksRequest { pid, denied_only: true, ..ListChecksRequest::default() };
            let checks = console.checks(request).await?;
            Ok(checks.iter().any(|c| c.argument == "sysfs" && c.pod_id.is_empty() && !c.reason.is_empty()))
        })
        .await
    });
}

#[test]
fn the_doctor_and_the_status_name_the_rung() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let console = node.console().await?;
        let observer = console.snapshot().await?.observer.context("no observer")?;
        ensure!(!observer.rung.is_empty(), "{observer:?}");
        let cri = node.cri().await?;
        let request = sandboxd_api::cri::StatusRequest { verbose: true };
        let info = cri.runtime.clone().status(request).await?.into_inner().info;
        ensure!(info.values().any(|text| text.contains(&observer.rung)), "{info:?}");
        Ok(())
    });
}

#[test]
fn the_doctor_prints_counts_that_add_up() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        node.cri().await?.run(node.pod("counted").userns().build()).await?;
        let doctor = |node: &Node| -> anyhow::Result<_> {
            let output = node.ask(&["doctor", "--json"]).output()?;
            let checks: serde_json::Value = serde_json::from_slice(&output.stdout)?;
            let all = checks.as_array().context("no checks")?;
            Ok(all.iter().find(|check| check["name"] == "observer counts").cloned())
        };
        let check = doctor(node)?.context("no counts")?;
        let words = check["reason"].as_str().unwrap_or_default();
        let before = |word: &str| {
            let (head, _) = words.split_once(&format!(" {word}"))?;
            head.rsplit(' ').next()?.parse::<u64>().ok()
        };
        let count = |word: &str| before(word).with_context(|| format!("no {word:?} in {words:?}"));
        let produced = count("checks produced")?;
        let waiting = before("not read yet").unwrap_or(0);
        ensure!(produced == count("seen")? + count("sampled out")? + count("lost")? + waiting, "{words}");
        ensure!(produced > 0 && count("allowed")? > 0, "{words}");
        // Without a daemon there is nothing that counts, and nothing to complain of.
        node.terminate_daemon().await?;
        ensure!(doctor(node)?.is_none(), "counts without a daemon");
        Ok(())
    });
}

#[test]
fn switched_off_it_says_so_and_pods_work() {
    let options = sandboxd_tests::node::Options {
        config: "[observer]\nenabled = false\n".into(),
        ..sandboxd_tests::node::Options::default()
    };
    E2e::default().options(options).run(async |node| {
        let console = node.console().await?;
        let observer = console.snapshot().await?.observer.context("no observer")?;
        ensure!(observer.state() == observer::State::Disabled, "{observer:?}");
        node.cri().await?.run(node.pod("unseen").userns().build()).await?;
        Ok(())
    });
}
