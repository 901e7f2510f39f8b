//! Where the built programs are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Names the directory of the built `sandboxd`, `sandboxd-shim` and `sandboxd-tui`.
pub const BIN_DIR: &str = "SANDBOXD_BIN_DIR";

/// Names a `sandboxd` that was built without the observer.
pub const NO_OBSERVER: &str = "SANDBOXD_NO_OBSERVER";

/// The directory of the programs: `SANDBOXD_BIN_DIR`, or the profile directory this program was built in.
///
/// # Errors
/// When the program's own path is not known.
pub fn dir() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os(BIN_DIR) {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().context("reading /proc/self/exe")?;
    let dir = exe.parent().context("this program has no directory")?;
    // Tests lie in deps/ below the profile directory.
    Ok(if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir }.to_path_buf())
}

/// The path of one program.
///
/// # Errors
/// When it was not built.
pub fn find(name: &str) -> Result<PathBuf> {
    let path = dir()?.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run `cargo xtask build`, or set {BIN_DIR} to where it is",
        path.display()
    );
    Ok(path)
}

/// A program of the machine's, on the PATH or where a service's bare PATH does not look.
#[must_use]
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|file| file.is_file())
}

/// The first of the directories that holds CNI's standard plugins.
#[must_use]
pub fn cni_dir() -> Option<&'static Path> {
    ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"]
        .into_iter()
        .map(Path::new)
        .find(|dir| dir.join("bridge").is_file() && dir.join("host-local").is_file())
}
