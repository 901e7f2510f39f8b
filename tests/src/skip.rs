//! What a test needs of the machine. A test that cannot run says so loudly: one line `SKIPPED: …` on
//! standard error, past the capture of the test runner, which `cargo xtask test` collects and judges.

use std::io::Write;
use std::path::Path;

use nix::unistd::geteuid;

use crate::bins;
use crate::registry::Registry;

/// Something a machine may lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Namespaces, mounts and cgroups for real.
    Root,
    /// bridge, host-local and portmap.
    CniPlugins,
    /// iptables, for masquerading and port mappings.
    Iptables,
    /// The kernel's BTF, and the tracepoint `capability:cap_capable` or what the ladder has instead of it.
    Bpf,
    /// docker-registry, skopeo, openssl and htpasswd.
    Registry,
    /// For certificates.
    Openssl,
    /// The OCI runtime, where the daemon finds it.
    Runc,
    /// Enabled, with its files in securityfs.
    AppArmor,
    /// A second daemon, built without the observer.
    NoObserverBuild,
}

impl Need {
    /// Why it is not there; `None` where it is.
    #[must_use]
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!geteuid().is_root()).then(|| "not root".to_owned()),
            Self::CniPlugins => {
                bins::cni_dir().is_none().then(|| "no CNI plugins in /usr/lib/cni, /opt/cni/bin".to_owned())
            }
            Self::Iptables => {
                let there = ["/usr/sbin/iptables", "/sbin/iptables"].iter().any(|p| Path::new(p).exists());
                (!there).then(|| "no iptables".to_owned())
            }
            Self::Bpf => {
                let there = |path: &str| Path::new(path).exists();
                let btf = "/sys/kernel/btf/vmlinux";
                // tracefs may not be mounted at all: then only the program's load can tell.
                let hook = !there("/sys/kernel/tracing/events")
                    || there("/sys/kernel/tracing/events/capability/cap_capable")
                    || there("/sys/kernel/tracing/kprobe_events");
                if !there(btf) {
                    Some(format!("no BPF observer: {btf} is missing"))
                } else if !hook {
                    Some("no BPF observer: neither a tracepoint on cap_capable nor kprobes".to_owned())
                } else {
                    None
                }
            }
            Self::Registry => Registry::missing(),
            Self::Openssl => bins::on_path("openssl").is_none().then(|| "no openssl on the PATH".to_owned()),
            Self::Runc => bins::on_path("runc").is_none().then(|| "no runc on the PATH".to_owned()),
            Self::AppArmor => {
                let there = Path::new("/sys/kernel/security/apparmor").exists();
                (!there).then(|| "AppArmor is not enabled".to_owned())
            }
            Self::NoObserverBuild => std::env::var_os(bins::NO_OBSERVER)
                .is_none()
                .then(|| format!("no build without the observer: {} is not set", bins::NO_OBSERVER)),
        }
    }
}

/// Whether a test cannot run here. Prints the line if so.
#[must_use]
pub fn skipped(test: &str, needs: &[Need]) -> bool {
    match needs.iter().find_map(|need| need.missing()) {
        Some(reason) => {
            let _ = writeln!(std::io::stderr(), "SKIPPED: {test}: {reason}");
            true
        }
        None => false,
    }
}
