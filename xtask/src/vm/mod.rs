//! `cargo xtask vm-test`: the observer and the flow on other kernels, each booted under QEMU from a disk that holds
//! the programs, their libraries and the tests.
//!
//! Debian's 6.1 and 6.12 kernels have no tracepoint on capability checks, but trampolines and kprobes: the
//! second and third rung of the observer's ladder. Their machine has cgroup v2 alone, and AppArmor enabled.

mod guest;
mod kernel;
mod machine;
mod tree;

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{build, deps, ebpf, run};
use guest::{Plan, Programs};
use kernel::{Choice, Kernel};
use machine::{Outcome, Threads};

/// What `cargo xtask vm-test` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only this kernel.
    #[arg(long, value_enum)]
    kernel: Option<Choice>,
    /// Only the observer's tests.
    #[arg(long)]
    only_observer: bool,
    /// Only the flow's end-to-end tests.
    #[arg(long, conflicts_with = "only_observer")]
    only_flow: bool,
    /// The end-to-end tests whose names contain one of these, instead of the usual ones.
    #[arg(long)]
    e2e: Vec<String>,
    /// The conformance tests of OCI runtimes too, with runc and with crun, which is of use on cgroup v2 alone.
    #[arg(long, conflicts_with = "only_observer")]
    oci: bool,
    /// Emulates the processors in one thread: slower, and without QEMU's races between several.
    #[arg(long)]
    one_thread: bool,
    /// Seconds that one boot with its tests may take.
    #[arg(long, default_value_t = PATIENCE)]
    patience: u64,
}

/// As a part of all the tests: everything.
impl Default for Options {
    fn default() -> Self {
        Self {
            kernel: None,
            only_observer: false,
            only_flow: false,
            e2e: Vec::new(),
            oci: true,
            one_thread: false,
            patience: PATIENCE,
        }
    }
}

/// Seconds that one boot with its tests may take, several times what it takes on two processors of its own.
const PATIENCE: u64 = 1800;

/// Why no other kernel can be booted here; `None` where one can.
pub fn missing() -> Option<String> {
    if std::env::consts::ARCH != "x86_64" {
        return Some(format!(
            "this machine is {}, and what is built here runs there",
            std::env::consts::ARCH
        ));
    }
    if let Err(error) = deps::ensure(&deps::VM).and_then(|()| deps::ensure(&deps::OCI)) {
        return Some(format!("QEMU, runc and crun: {error:#}"));
    }
    let fetched = Choice::ALL.into_iter().map(kernel::fetch).find_map(Result::err);
    let fetched = fetched.or_else(|| kernel::apparmor().err());
    fetched.map(|error| format!("Debian's kernels and its AppArmor: {error:#}"))
}

/// Runs them.
pub fn vm_test(options: &Options) -> Result<()> {
    deps::ensure(&deps::VM)?;
    let kernels = Choice::ALL.into_iter().filter(|k| options.kernel.is_none_or(|only| only == *k));
    let mut programs = Programs::default();
    if !options.only_flow {
        ebpf::build_ebpf(true)?;
        programs.observer =
            Some(test_program(&["--workspace", "--exclude", "sandboxd-tests"], "observer_live")?);
    }
    if !options.only_observer {
        // What is built already is taken where the tests take it too.
        programs.dir = Some(match std::env::var_os("SANDBOXD_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => build::release()?,
        });
        programs.e2e = Some(test_program(&["-p", "sandboxd-tests"], "e2e")?);
        if options.oci {
            deps::ensure(&deps::OCI)?;
            programs.conformance = Some(test_program(&["-p", "sandboxd-tests"], "conformance")?);
        }
    }
    let mut failed = Vec::new();
    for choice in kernels {
        let kernel = kernel::fetch(choice)?;
        let outcomes = run_all(&kernel, &programs, options)?;
        for Outcome { name, passed, took } in &outcomes {
            let verdict = if *passed { "passed" } else { "FAILED" };
            println!("{}: {name}: {verdict} ({} s)", choice.name(), took.as_secs());
            if !passed {
                failed.push(format!("{name} on {}", choice.name()));
            }
        }
        // A machine that died says nothing of what it did not come to.
        let (ran, wanted) = (outcomes.len(), programs.count());
        ensure!(ran == wanted, "Linux {} ended after {ran} of {wanted} programs", kernel.version);
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// In one boot; in a second one what the first did not come to, where that ended by a fault of the emulator's.
fn run_all(kernel: &Kernel, programs: &Programs, options: &Options) -> Result<Vec<Outcome>> {
    let patience = Duration::from_secs(options.patience);
    let threads = if options.one_thread { Threads::One } else { Threads::Several };
    println!("\n== Linux {} under QEMU", kernel.version);
    let boot = |threads, done: &[String]| {
        let guest = guest::assemble(kernel, programs, Plan { e2e: &options.e2e, done, threads })?;
        machine::boot(kernel, &guest, threads, patience)
    };
    let first = boot(threads, &[])?;
    let mut outcomes = first.outcomes;
    // What had failed before the machine died did so by itself.
    let unfinished = outcomes.len() < programs.count() && outcomes.iter().all(|outcome| outcome.passed);
    if first.emulator && threads == Threads::Several && unfinished {
        println!(
            "QEMU ran an int3 that Linux {} had patched over: the rest once more, in one thread",
            kernel.version
        );
        let done: Vec<String> = outcomes.iter().map(|outcome| outcome.name.clone()).collect();
        outcomes.extend(boot(Threads::One, &done)?.outcomes);
    }
    Ok(outcomes)
}

/// Builds a test program, with the packages that `cargo xtask test` builds it with, and gives its path.
fn test_program(packages: &[&str], test: &str) -> Result<PathBuf> {
    let mut command = run::cargo();
    command.args(["test", "--no-run"]).args(packages).args(["--test", test]).stderr(Stdio::piped());
    let out = command.output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "`{}` failed:\n{text}", run::words(&command));
    // "  Executable tests/e2e.rs (target/debug/deps/e2e-0123456789abcdef)"
    let path = text.lines().rev().find_map(|line| line.trim().strip_prefix("Executable ")?.split_once('('));
    let (_, path) = path.with_context(|| format!("cargo names no program for {test}"))?;
    Ok(run::root().join(path.trim_end_matches(')')))
}
