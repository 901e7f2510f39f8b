//! The observer: what its eBPF program needs of this kernel.

use std::path::Path;

use super::Check;
use crate::config::Config;

const NAME: &str = "observer";
const BTF: &str = "/sys/kernel/btf/vmlinux";

/// BTF, and whether this build has the program. Which rung of its ladder loads is the observer's to say:
/// the daemon reports that in Status and to the console.
pub(super) fn check(config: &Config) -> Check {
    if !config.observer.enabled {
        return Check::warn(
            NAME,
            "switched off (observer.enabled = false): denials are not explained by the kernel's own checks",
            "set observer.enabled = true",
        );
    }
    if !cfg!(feature = "observer") {
        return Check::warn(
            NAME,
            "not built into this sandboxd: denials are explained by ownership alone",
            "build with the default features, after `cargo xtask build-ebpf`",
        );
    }
    if !Path::new(BTF).exists() {
        return Check::warn(
            NAME,
            format!("{BTF} is missing: the program cannot find the kernel's structures"),
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
        );
    }
    Check::ok(NAME, format!("{BTF} is there and the program is built in"))
}
