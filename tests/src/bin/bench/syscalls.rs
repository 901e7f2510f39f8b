//! What a pod costs in system calls that hurt: strace on the daemon and all it starts, where strace is.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_tests::node::Node;
use tokio::time::sleep;

use crate::report::Report;
use crate::stats::Series;

const TRACED: &str = "fsync,fdatasync,syncfs,fork,vfork,clone,clone3,execve,mount,move_mount,umount2";
const PODS: u32 = 5;

/// Counts them over some pods, made, stopped and removed.
pub async fn of_a_pod(node: &Node, report: &mut Report) -> Result<()> {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
        report.note("system calls of a pod were not counted: no strace");
        return Ok(());
    }
    let cri = node.cri().await?;
    let out = node.path("strace.out");
    let mut strace = attach(node, &out)?;
    // Attached once it has named the daemon's threads; a moment is enough on any machine.
    sleep(Duration::from_millis(500)).await;
    let traced = async {
        for round in 0..PODS {
            let id = cri.run(node.pod(&format!("traced{round}")).userns().build()).await?;
            cri.stop(&id).await?;
            cri.remove(&id).await?;
        }
        anyhow::Ok(())
    }
    .await;
    // SIGINT: strace detaches and leaves the daemon running.
    kill(Pid::from_raw(i32::try_from(strace.id())?), Signal::SIGINT)?;
    strace.wait()?;
    traced?;
    let text = std::fs::read_to_string(&out).context("reading strace's output")?;
    report.group("System calls of a pod: made, stopped, removed; with plugins");
    for (name, count) in count(&text) {
        let mut series = Series::default();
        series.push(f64::from(count) / f64::from(PODS));
        report.row(&name, "each pod", &series);
    }
    Ok(())
}

fn attach(node: &Node, out: &Path) -> Result<Child> {
    let daemon = node.daemon_pid().context("no daemon")?.to_string();
    Command::new("strace")
        .args(["-f", "-q", "-qq", "-e", &format!("trace={TRACED}"), "-p", &daemon, "-o"])
        .arg(out)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting strace")
}

/// Calls by name. A thread is not a process; an attempt that failed counts for execve only once it worked.
fn count(text: &str) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let Some((_, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        let Some((name, rest)) = call.split_once('(') else { continue };
        if rest.contains("CLONE_THREAD")
            || call.starts_with('<')
            // strace did not see which call it was: the process was stopped by a signal meanwhile.
            || call.starts_with('?')
            || (name == "execve" && rest.contains("= -1"))
        {
            continue;
        }
        let key = match name {
            "fork" | "vfork" | "clone" | "clone3" => "processes (fork, clone)",
            "fsync" | "fdatasync" | "syncfs" => "fsync",
            "mount" | "move_mount" => "mounts (mount, move_mount)",
            other => other,
        };
        *counts.entry(key.to_owned()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_and_failed_execs_do_not_count() {
        let text = "12 clone3({flags=CLONE_VM|CLONE_THREAD}, 88) = 13\n\
                    12 vfork() = 14\n\
                    14 execve(\"/nope\", [\"x\"], []) = -1 ENOENT (No such file or directory)\n\
                    14 execve(\"/bin/x\", [\"x\"], []) = 0\n\
                    12 fsync(7 <unfinished ...>\n\
                    12 <... fsync resumed>) = 0\n\
                    14 +++ exited with 0 +++\n";
        let counts: Vec<_> = count(text).into_iter().collect();
        let wanted = [("execve", 1), ("fsync", 1), ("processes (fork, clone)", 1)];
        assert_eq!(counts, wanted.map(|(name, n)| (name.to_owned(), n)));
    }
}
