//! The demo: what it says, and that it leaves nothing, whenever it is interrupted.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sandboxd_tests::cni::tool;
use sandboxd_tests::e2e::E2e;
use sandboxd_tests::{bins, leftovers, proc};

const PATIENCE: Duration = Duration::from_secs(60);

fn demo() -> Result<Command> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    command.env(bins::BIN_DIR, bins::dir()?).stdout(Stdio::piped()).stderr(Stdio::piped());
    Ok(command)
}

/// Names of everything on this machine that a demo makes: directories, interfaces, mounts, cgroups, rules,
/// processes. The tests here run alone.
fn seen() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let names = |dir: &std::path::Path| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.path().display().to_string()).collect::<Vec<_>>()
    };
    all.extend(names(&std::env::temp_dir()).into_iter().filter(|name| name.contains("/sdv")));
    all.extend(names("/sys/class/net".as_ref()).into_iter().filter(|name| name.contains("/sdv")));
    all.extend(proc::mount_points().into_iter().filter(|point| point.contains("/sdv")));
    for hierarchy in leftovers::cgroup_dirs("") {
        all.extend(names(&hierarchy).into_iter().filter(|name| name.contains("/sdv")));
    }
    let saved = tool("iptables-save", &["-t", "nat"]).unwrap_or_default();
    all.extend(saved.lines().filter(|line| line.contains("CNI-")).map(str::to_owned));
    let shims =
        proc::all().into_iter().filter(|p| p.command.contains("sandboxd") && !p.command.contains("rustc "));
    all.extend(shims.map(|p| format!("process {}: {}", p.pid, p.command)));
    all
}

fn wait(mut child: Child) -> Result<Output> {
    let end = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > end {
            child.kill()?;
            bail!("the demo still runs after {} s", PATIENCE.as_secs());
        }
        sleep(Duration::from_millis(20));
    }
    Ok(child.wait_with_output()?)
}

#[test]
fn off_a_terminal_it_tells_the_story_and_ends() {
    E2e::alone().run(async |_| {
        let before = seen();
        let output = wait(demo()?.stdin(Stdio::null()).spawn()?)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
        for words in
            ["network-first", "sysfs", "READY in", "in the CNI plugins", "the pod", "Nothing is left"]
        {
            ensure!(text.contains(words), "no {words:?} in:\n{text}");
        }
        ensure!(seen() == before, "left: {:?}", seen().difference(&before).collect::<Vec<_>>());
        Ok(())
    });
}

#[test]
fn interrupted_at_any_moment_it_leaves_nothing() {
    E2e::alone().run(async |_| {
        let before = seen();
        for (round, moment) in [1, 20, 60, 120, 200, 300, 450, 700].into_iter().enumerate() {
            let signal = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP][round % 3];
            let child = demo()?.stdin(Stdio::null()).spawn()?;
            sleep(Duration::from_millis(moment));
            kill(Pid::from_raw(i32::try_from(child.id())?), signal)?;
            let output = wait(child)?;
            let left: Vec<_> = seen().difference(&before).cloned().collect();
            ensure!(left.is_empty(), "{signal} after {moment} ms left {left:?}");
            // Before its first line of code a signal simply ends it, and there is nothing to clean up.
            let code = output.status.code();
            ensure!(moment <= 20 || matches!(code, Some(0 | 130)), "{signal} after {moment} ms: {code:?}");
        }
        Ok(())
    });
}

#[test]
fn on_a_terminal_the_console_runs_until_q_or_ctrl_c() {
    E2e::alone().run(async |_| {
        let before = seen();
        for (what, key) in [("q", "q"), ("Ctrl-C at the prompt", "\u{3}")] {
            let text = at_terminal(key).with_context(|| what.to_owned())?;
            ensure!(text.contains("Cleaning up"), "{what}:\n{text}");
            let left: Vec<_> = seen().difference(&before).cloned().collect();
            ensure!(left.is_empty(), "{what} left {left:?}");
        }
        Ok(())
    });
}

/// Runs the demo under script(1), which gives it a terminal; presses Enter and then the key, or the key
/// alone where it is Ctrl-C.
fn at_terminal(key: &str) -> Result<String> {
    let mut child = Command::new("script")
        .args(["-qefc", env!("CARGO_BIN_EXE_demo"), "/dev/null"])
        .env(bins::BIN_DIR, bins::dir()?)
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("starting script")?;
    let mut keys = child.stdin.take().context("no standard input")?;
    let mut out = child.stdout.take().context("no standard output")?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        let mut buffer = [0u8; 4096];
        while let Ok(n @ 1..) = out.read(&mut buffer) {
            all.extend_from_slice(&buffer[..n]);
            let _ = sender.send(String::from_utf8_lossy(&all).into_owned());
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    let until = |words: &str| -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let text = receiver.recv_timeout(left).with_context(|| format!("{words:?} did not come"))?;
            if text.contains(words) {
                return Ok(());
            }
        }
    };
    until("Press Enter")?;
    if key == "q" {
        keys.write_all(b"\r")?;
        // The console's alternate screen.
        until("\u{1b}[?1049h")?;
        sleep(Duration::from_secs(3));
    }
    keys.write_all(key.as_bytes())?;
    wait(child)?;
    reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))
}
