//! `sandboxd explain` on a live daemon.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Output, Stdio};

use anyhow::{Context, Result, ensure};
use sandboxd_api::console::{ExplainCheckResponse, ListChecksRequest, check};
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::node::Node;
use sandboxd_tests::skip::Need;

use crate::support::eventually;

/// A denied mount of sysfs by a process of no pod; its pid.
fn denied() -> Result<i32> {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "mount", "-t", "sysfs", "sysfs", "/mnt"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let pid = i32::try_from(child.id())?;
    ensure!(!child.wait()?.success(), "sysfs was mounted");
    Ok(pid)
}

async fn recorded(node: &Node, pid: i32) -> Result<u64> {
    let console = node.console().await?;
    let mut seq = 0;
    eventually("the denied check", async || {
        let request = ListChecksRequest { pid, denied_only: true, ..ListChecksRequest::default() };
        let checks = console.checks(request).await?;
        let wanted = checks.iter().find(|c| c.argument == "sysfs" && c.reason != "incidental");
        seq = wanted.map(|check| check.seq).unwrap_or_default();
        Ok(seq != 0)
    })
    .await?;
    Ok(seq)
}

fn said(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn a_recorded_denial_is_explained_in_words_and_as_json() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let pid = denied()?;
        let seq = recorded(node, pid).await?;
        for arguments in
            [&["explain", &seq.to_string()][..], &["explain", "--last", "--pid", &pid.to_string()]]
        {
            let output = node.ask(arguments).env("COLUMNS", "80").output()?;
            let (text, errors) = said(&output);
            ensure!(output.status.success(), "{arguments:?}: {errors}");
            for words in
                ["DENIED", "mount(sysfs)", "CAP_SYS_ADMIN", "Fix", "Sources", "Namespaces", "net-sysfs"]
            {
                ensure!(text.contains(words), "no {words:?}: {text}");
            }
            ensure!(text.contains(&format!("pid {pid}")), "{text}");
            ensure!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        }
        let output = node.ask(&["explain", &seq.to_string(), "--json"]).output()?;
        let told: ExplainCheckResponse = serde_json::from_slice(&output.stdout)?;
        let (check, explanation) = (told.check.context("no check")?, told.explanation.context("no words")?);
        ensure!(check.seq == seq && check.verdict() == check::Verdict::Denied, "{check:?}");
        ensure!(!explanation.fix.is_empty() && explanation.reason == check.reason, "{explanation:?}");
        Ok(())
    });
}

#[test]
fn each_new_denial_is_explained_as_it_happens() {
    E2e::default().needs(Need::Bpf).run(async |node| {
        let mut child = node
            .ask(&["explain", "--follow", "--json"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let lines = BufReader::new(child.stdout.take().context("no stdout")?).lines();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| tell.send(line)));
        let mut pids = Vec::new();
        let found = eventually("an explanation of one of the denials", async || {
            pids.push(denied()?);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            for line in told.try_iter() {
                let told: ExplainCheckResponse = serde_json::from_str(&line)?;
                let check = told.check.context("no check")?;
                if pids.contains(&check.pid) && check.argument == "sysfs" {
                    ensure!(!told.explanation.context("no words")?.headline.is_empty(), "{line}");
                    return Ok(true);
                }
            }
            Ok(false)
        })
        .await;
        child.kill()?;
        child.wait()?;
        found
    });
}

#[test]
fn what_cannot_be_explained_says_why() {
    E2e::default().run(async |node| {
        let fails = |arguments: &[&str], words: &[&str]| -> Result<()> {
            let output = node.ask(arguments).output()?;
            let (_, errors) = said(&output);
            ensure!(output.status.code() == Some(1), "{arguments:?}: {:?} {errors}", output.status);
            for word in words {
                ensure!(errors.contains(word), "{arguments:?}: no {word:?} in {errors}");
            }
            Ok(())
        };
        fails(&["explain", "999999999"], &["999999999", "is not recorded"])?;
        fails(&["explain", "--last", "--pod", "nosuchpod"], &["nosuchpod"])?;
        fails(&["explain", "--last", "--pid", "2"], &["no denied check of process 2 is recorded"])?;
        fails(&["explain", "7", "--record", "/nonexistent.jsonl"], &["/nonexistent.jsonl"])?;
        node.kill_daemon()?;
        let socket = node.console_socket().display().to_string();
        for command in ["explain", "events"] {
            let arguments: &[&str] = if command == "explain" { &["explain", "--last"] } else { &["events"] };
            let output = node.ask(arguments).output()?;
            let (_, errors) = said(&output);
            ensure!(output.status.code() == Some(1), "{command}: {errors}");
            ensure!(errors.contains(&format!("no daemon answers on {socket}")), "{errors}");
        }
        Ok(())
    });
}
