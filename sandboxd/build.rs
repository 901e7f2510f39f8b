//! With the feature `observer`, hands the daemon the eBPF object that `cargo xtask build-ebpf` made.

use std::env;
use std::path::{Path, PathBuf};

fn main() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=SANDBOXD_EBPF_OBJECT");
    if env::var_os("CARGO_FEATURE_OBSERVER").is_none() {
        return Ok(());
    }
    let object = match env::var_os("SANDBOXD_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => target_dir()?.join("bpf/sandboxd-ebpf.o"),
    };
    println!("cargo:rerun-if-changed={}", object.display());
    if !object.exists() {
        return Err(format!(
            "the observer's eBPF object is missing at {}: run `cargo xtask build-ebpf`, \
             or build without the observer (`--no-default-features`)",
            object.display()
        ));
    }
    println!("cargo:rustc-env=SANDBOXD_EBPF_OBJECT={}", object.display());
    Ok(())
}

/// The target directory: the outermost directory above OUT_DIR that cargo marked as its cache (a build for
/// an explicit `--target` marks one more inside).
fn target_dir() -> Result<PathBuf, String> {
    let out = env::var_os("OUT_DIR").map(PathBuf::from).ok_or("cargo gave no OUT_DIR")?;
    out.ancestors()
        .filter(|dir| dir.join("CACHEDIR.TAG").exists())
        .last()
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("no target directory above {}", out.display()))
}
