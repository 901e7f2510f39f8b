//! The eBPF object.

use std::path::PathBuf;

use anyhow::{Result, bail};

use crate::run;

/// The object, where it has been built already.
pub fn build_ebpf(release: bool) -> Result<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    let path = run::target().join("ebpf").join(profile).join("sandboxd-ebpf");
    if !path.exists() {
        bail!("{} is not built", path.display());
    }
    Ok(path)
}
