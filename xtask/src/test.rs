//! All the tests: formatting and lints where the tools are, unit tests, then the end-to-end tests with
//! the release programs. A skipped test is listed at the end, and fails the run unless this machine
//! really lacks what it names.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Context, Result, bail};

use crate::{build, cri_table, deps, run, vm};

/// What `cargo xtask test` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only the tests whose names contain this.
    filter: Option<String>,
    /// Leaves out formatting and lints.
    #[arg(long)]
    no_lint: bool,
    /// Leaves out the unit tests.
    #[arg(long)]
    only_e2e: bool,
    /// Leaves out the other kernels under QEMU, as a filter does.
    #[arg(long)]
    no_vm: bool,
}

/// Runs them.
pub fn test(options: &Options) -> Result<()> {
    deps::ensure(&deps::TEST)?;
    let bins = build::release()?;
    let no_observer = build::without_observer()?;
    let mut skips = Vec::new();
    if !options.no_lint {
        lint(&mut skips)?;
    }
    let with_env = |command: &mut Command| {
        command.env("SANDBOXD_BIN_DIR", &bins).env("SANDBOXD_NO_OBSERVER", &no_observer);
        command.env("SANDBOXD_SHIM", bins.join("sandboxd-shim"));
    };
    cri_table::cri_table(&cri_table::Options { check: true })?;
    let filter: Vec<&str> = options.filter.as_deref().into_iter().collect();
    if !options.only_e2e {
        let mut unit = run::cargo();
        unit.args(["test", "--workspace", "--exclude", "sandboxd-tests"]);
        unit.args(["--", "--show-output"]).args(&filter);
        with_env(&mut unit);
        skips.extend(watched(&mut unit)?.skips);
    }
    let mut e2e = run::cargo();
    e2e.args(["test", "-p", "sandboxd-tests", "--lib", "--bins", "--test", "e2e", "--test", "conformance"]);
    e2e.args(["--", "--test-threads=4"]).args(&filter);
    with_env(&mut e2e);
    let watched = watched(&mut e2e)?;
    skips.extend(watched.skips);
    if options.filter.is_none() && !options.no_vm {
        match vm::missing() {
            Some(why) => skips.push(format!("SKIPPED: other kernels: {why}")),
            None => vm::vm_test(&vm::Options::default())?,
        }
    }
    judge(&skips, Path::new("/"))?;
    // The runner's own last word is the last word.
    println!("{}", watched.closing);
    Ok(())
}

fn lint(skips: &mut Vec<String>) -> Result<()> {
    if run::output(run::cargo().args(["fmt", "--version"])).is_some() {
        run::run(run::cargo().args(["fmt", "--all", "--check"]))?;
    } else {
        skips.push("SKIPPED: formatting: no rustfmt for this compiler".to_owned());
    }
    if run::output(run::cargo().args(["clippy", "--version"])).is_some() {
        run::run(run::cargo().args([
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]))
    } else {
        skips.push("SKIPPED: lints: no clippy for this compiler".to_owned());
        Ok(())
    }
}

/// What a test run said.
struct Watched {
    skips: Vec<String>,
    closing: String,
}

/// Runs a test command, passes its output on and keeps what was skipped. Its last "test result" line is
/// held back for the end.
fn watched(command: &mut Command) -> Result<Watched> {
    eprintln!("$ {}", run::words(command));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let skips = Arc::new(Mutex::new(Vec::new()));
    let keep = |skips: &Arc<Mutex<Vec<String>>>, line: &str| {
        // At the start of a line: a list of skips that a test of this program prints is indented.
        if line.starts_with("SKIPPED: ") {
            skips.lock().unwrap_or_else(PoisonError::into_inner).push(line.to_owned());
        }
    };
    let stderr = BufReader::new(child.stderr.take().context("no standard error")?);
    let for_errors = Arc::clone(&skips);
    let errors = thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            keep(&for_errors, &line);
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    });
    let mut closing = String::new();
    let stdout = BufReader::new(child.stdout.take().context("no standard output")?);
    for line in stdout.lines().map_while(Result::ok) {
        keep(&skips, &line);
        if line.starts_with("test result: ") {
            let earlier = std::mem::replace(&mut closing, line);
            if !earlier.is_empty() {
                println!("{earlier}");
            }
        } else {
            println!("{line}");
        }
    }
    let status = child.wait()?;
    if errors.join().is_err() {
        bail!("the reader of the test's standard error ended early");
    }
    if !status.success() {
        println!("{closing}");
        bail!("`{}` failed ({status})", run::words(command));
    }
    let skips = std::mem::take(&mut *skips.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Watched { skips, closing })
}

/// A thing that a machine may lack, and the words by which a skip names it.
struct Lack {
    words: &'static [&'static str],
    lacking: fn(&Path) -> bool,
}

const LACKS: [Lack; 12] = [
    Lack { words: &["not root", "needs root"], lacking: |_| !deps::is_root() },
    Lack { words: &["rustfmt"], lacking: |_| run::output(run::cargo().args(["fmt", "--version"])).is_none() },
    Lack {
        words: &["clippy"],
        lacking: |_| run::output(run::cargo().args(["clippy", "--version"])).is_none(),
    },
    Lack { words: &["BPF", "BTF"], lacking: |root| !root.join("sys/kernel/btf/vmlinux").exists() },
    Lack { words: &["kubectl"], lacking: |_| run::on_path("kubectl").is_none() },
    Lack {
        words: &["the kernel does not count swap"],
        lacking: |root| {
            !root.join("sys/fs/cgroup/memory/memory.memsw.usage_in_bytes").exists()
                && !root.join("sys/fs/cgroup/cgroup.controllers").exists()
        },
    },
    Lack {
        words: &["the kernel does not count pressure"],
        lacking: |root| !root.join("sys/fs/cgroup/cpu.pressure").exists(),
    },
    Lack {
        words: &["runc"],
        lacking: |root| !["usr/sbin/runc", "usr/bin/runc"].iter().any(|path| root.join(path).exists()),
    },
    Lack { words: &["other kernels"], lacking: |_| vm::missing().is_some() },
    Lack { words: &["systemd"], lacking: |root| !root.join("run/systemd/system").exists() },
    Lack { words: &["lsm_list_modules"], lacking: |root| kernel(root).is_none_or(|kernel| kernel < (6, 8)) },
    Lack { words: &["AppArmor"], lacking: |root| !root.join("sys/kernel/security/apparmor").exists() },
];

/// The running kernel's version, as far as a feature depends on it.
fn kernel(root: &Path) -> Option<(u32, u32)> {
    let release = std::fs::read_to_string(root.join("proc/sys/kernel/osrelease")).ok()?;
    let mut numbers = release.split(|sign: char| !sign.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

/// Lists what was skipped; fails when this machine has what a skip says is missing.
fn judge(skips: &[String], root: &Path) -> Result<()> {
    if skips.is_empty() {
        println!("\nNothing was skipped.");
        return Ok(());
    }
    println!("\nSkipped:");
    let mut unexpected = 0;
    for skip in skips {
        let lacking = |lack: &Lack| lack.words.iter().any(|word| skip.contains(word)) && (lack.lacking)(root);
        let expected = LACKS.iter().any(lacking);
        println!("  {skip}{}", if expected { "" } else { "   <- this machine could have run it" });
        unexpected += usize::from(!expected);
    }
    if unexpected > 0 {
        bail!("{unexpected} tests were skipped that this machine can run");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_for_a_reason_that_holds_is_fine_and_any_other_is_not() {
        let nowhere = Path::new("/nonexistent");
        assert!(judge(&["SKIPPED: a: no systemd here".into()], nowhere).is_ok());
        assert!(judge(&["SKIPPED: a: the moon is full".into()], nowhere).is_err());
        let root = std::env::temp_dir().join(format!("xtask-judge-{}", std::process::id()));
        std::fs::create_dir_all(root.join("run/systemd/system")).unwrap();
        assert!(judge(&["SKIPPED: a: no systemd here".into()], &root).is_err());
        std::fs::remove_dir_all(root).unwrap();
    }
}
