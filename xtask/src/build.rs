//! Builds in the right order: the eBPF object, which the daemon embeds; the shim, static; then the rest.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::{ebpf, run};

/// The release build of everything: the directory where the programs lie side by side.
pub fn release() -> Result<PathBuf> {
    ebpf::build_ebpf(true).context("building the eBPF object")?;
    let dir = run::target().join("release");
    cargo(&["build", "--release", "-p", "sandboxd", "-p", "sandboxd-tui", "-p", "sandboxd-tests", "--bins"])?;
    shim(&dir)?;
    Ok(dir)
}

/// A daemon without the observer, in a place of its own; its path.
pub fn without_observer() -> Result<PathBuf> {
    let dir = run::target().join("no-observer");
    fs::create_dir_all(&dir)?;
    cargo(&["build", "-p", "sandboxd", "--no-default-features", "--bins"])?;
    let path = dir.join("sandboxd");
    install(&run::target().join("debug/sandboxd"), &path)?;
    Ok(path)
}

/// The shim, which runs once for each pod: optimised and static, whatever the rest is, so that a pod
/// costs no dynamic linker and no private pages of libc. A target directory of its own keeps the other
/// flags from rebuilding everything else.
fn shim(dir: &Path) -> Result<()> {
    let host = host()?;
    let target_dir = run::target().join("shim");
    let flags =
        format!("target.{host}.rustflags=[\"-Ctarget-feature=+crt-static\",\"-Crelocation-model=static\"]");
    let path = target_dir.to_string_lossy().into_owned();
    cargo(&[
        "build",
        "--release",
        "-p",
        "sandboxd-shim",
        "--target",
        &host,
        "--config",
        &flags,
        "--target-dir",
        &path,
    ])?;
    install(&target_dir.join(host).join("release/sandboxd-shim"), &dir.join("sandboxd-shim"))
}

/// Replaces a file by another in one step: a running program keeps its old one.
fn install(from: &Path, to: &Path) -> Result<()> {
    let next = to.with_extension("new");
    let copy = || {
        fs::copy(from, &next)?;
        fs::rename(&next, to)
    };
    copy().with_context(|| format!("copying {} to {}", from.display(), to.display()))
}

/// The triple this machine's compiler builds for.
fn host() -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let text = run::output(std::process::Command::new(rustc).current_dir(run::root()).arg("-vV"));
    text.as_deref()
        .and_then(|text| text.lines().find_map(|line| line.strip_prefix("host: ")))
        .map(str::to_owned)
        .context("rustc -vV names no host")
}

fn cargo(args: &[&str]) -> Result<()> {
    run::run(run::cargo().args(args))
}
