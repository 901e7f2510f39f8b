//! The same CNI plugins on the same configuration, run by hand: what ADD and DEL cost without any runtime.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::gettid;
use sandboxd_tests::node::Node;
use serde_json::Value;

use crate::report::Report;
use crate::stats::Series;

const WARM_UP: u32 = 3;

/// Measures them.
pub fn alone(node: &Node, rounds: u32, report: &mut Report) -> Result<()> {
    let text = fs::read(node.path("net.d/10-test.conflist")).context("reading the configuration")?;
    let list: Value = serde_json::from_slice(&text)?;
    let (mut add, mut del) = (Series::default(), Series::default());
    for round in 0..rounds + WARM_UP {
        let (added, deleted) = in_new_netns(|netns| {
            let id = format!("plugins{round}");
            let begun = Instant::now();
            let result = chain(node, &list, "ADD", &id, netns, None)?;
            let added = begun.elapsed();
            let begun = Instant::now();
            chain(node, &list, "DEL", &id, netns, result)?;
            Ok((added, begun.elapsed()))
        })?;
        if round >= WARM_UP {
            add.push_time(added);
            del.push_time(deleted);
        }
    }
    report.group("The same CNI plugins run by hand");
    report.row("ADD", "ms", &add);
    report.row("DEL", "ms", &del);
    Ok(())
}

/// Runs `work` with the path of a network namespace that a thread holds meanwhile.
fn in_new_netns<T>(work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let (tell, told) = mpsc::channel();
    let (finish, finished) = mpsc::channel::<()>();
    let holder = thread::spawn(move || {
        let made = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
        let _ = tell.send(made);
        // Ends when the sender goes.
        let _ = finished.recv();
    });
    let tid = told.recv()?.context("making a network namespace")?;
    let path = format!("/proc/self/task/{tid}/ns/net");
    // The plugin is another process: it needs the path from this process's point of view.
    let path = path.replace("self", &std::process::id().to_string());
    let outcome = work(path.as_ref());
    drop(finish);
    holder.join().map_err(|_| anyhow::anyhow!("the holder of the network namespace panicked"))?;
    outcome
}

/// The whole chain, in reverse for DEL; the last result.
fn chain(
    node: &Node,
    list: &Value,
    command: &str,
    id: &str,
    netns: &Path,
    mut previous: Option<Value>,
) -> Result<Option<Value>> {
    let mut plugins = list["plugins"].as_array().context("no plugins")?.clone();
    if command == "DEL" {
        plugins.reverse();
    }
    for mut conf in plugins {
        let kind = conf["type"].as_str().context("a plugin without a type")?.to_owned();
        conf["cniVersion"] = list["cniVersion"].clone();
        conf["name"] = list["name"].clone();
        if let Some(previous) = &previous {
            conf["prevResult"] = previous.clone();
        }
        let mut child = Command::new(node.path("cni-bin").join(&kind))
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("CNI_COMMAND", command)
            .env("CNI_CONTAINERID", id)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", node.path("cni-bin"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("starting {kind}"))?;
        child.stdin.take().context("no standard input")?.write_all(conf.to_string().as_bytes())?;
        let output = child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "{kind} {command}: {text}");
        if command == "ADD" {
            previous = Some(serde_json::from_str(&text)?);
        }
    }
    Ok(previous)
}
