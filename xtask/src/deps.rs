//! What this machine needs, how to see whether it is there, and how to get it.
//!
//! Looking is cheap (paths alone), so a second run costs nothing and needs no network. Installing is
//! done only as root on Debian 12, 13 and Ubuntu, through apt, and said before it is done; anywhere else
//! the exact commands are printed and the task stops. rustup is never made to fetch anything.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::run;

/// One thing that must be there.
#[derive(Debug)]
pub struct Need {
    what: &'static str,
    why: &'static str,
    present: fn() -> bool,
    packages: &'static [&'static str],
}

const LINKER: Need = Need {
    what: "a C compiler and libc's headers",
    why: "linking",
    present: || run::on_path("cc").is_some() && Path::new("/usr/include/stdio.h").exists(),
    packages: &["gcc", "libc6-dev"],
};
const PKG_CONFIG: Need = Need {
    what: "pkg-config",
    why: "finding libseccomp",
    present: || run::on_path("pkg-config").is_some(),
    packages: &["pkg-config"],
};
const LIBSECCOMP: Need = Need {
    what: "libseccomp with its headers",
    why: "compiling seccomp profiles",
    present: || Path::new("/usr/include/seccomp.h").exists(),
    packages: &["libseccomp-dev"],
};
const EBPF: Need = Need {
    what: "a Rust compiler with the sources of core, and the LLVM it was built with",
    why: "building the eBPF object",
    present: || nightly_with_sources() || debian_toolchain(),
    packages: &[
        "g++",
        "rustc-web",
        "cargo-web",
        "rust-web-src",
        "llvm-22-dev",
        "libpolly-22-dev",
        "libzstd-dev",
        "zlib1g-dev",
    ],
};
const CNI: Need = Need {
    what: "the standard CNI plugins",
    why: "the pods' network",
    present: || ["/usr/lib/cni", "/opt/cni/bin"].iter().any(|dir| Path::new(dir).join("bridge").exists()),
    packages: &["containernetworking-plugins"],
};
const IPTABLES: Need = Need {
    what: "iptables",
    why: "CNI's masquerading and port mappings",
    present: || run::on_path("iptables").is_some(),
    packages: &["iptables"],
};
const IPROUTE: Need = Need {
    what: "ip (iproute2)",
    why: "removing the demo's and the tests' bridges",
    present: || run::on_path("ip").is_some(),
    packages: &["iproute2"],
};
const RUNC: Need = Need {
    what: "runc",
    why: "the tests of OCI runtimes as handlers",
    present: || run::on_path("runc").is_some(),
    packages: &["runc"],
};

const QEMU: Need = Need {
    what: "QEMU for x86-64",
    why: "booting other kernels",
    present: || run::on_path("qemu-system-x86_64").is_some(),
    packages: &["qemu-system-x86"],
};
const BUSYBOX: Need = Need {
    what: "a static busybox",
    why: "the images that tests make, the programs of virtual machines",
    present: || Path::new("/bin/busybox").exists(),
    packages: &["busybox-static"],
};
const KMOD: Need = Need {
    what: "modprobe and depmod",
    why: "the modules of other kernels",
    present: || run::on_path("modprobe").is_some() || Path::new("/sbin/modprobe").exists(),
    packages: &["kmod"],
};

const GUEST: Need = Need {
    what: "dash, mke2fs, strip, xz and setpriv",
    why: "what virtual machines boot from",
    present: || {
        Path::new("/bin/dash").exists()
            && ["mke2fs", "strip", "xz", "setpriv", "nsenter"].iter().all(|p| run::on_path(p).is_some())
    },
    packages: &["dash", "e2fsprogs", "binutils", "xz-utils", "util-linux"],
};

const CRUN: Need = Need {
    what: "crun",
    why: "the tests of OCI runtimes in virtual machines",
    present: || run::on_path("crun").is_some(),
    packages: &["crun"],
};
/// To try OCI runtimes there.
pub const OCI: [&Need; 2] = [&RUNC, &CRUN];

/// To boot other kernels.
pub const VM: [&Need; 11] =
    [&LINKER, &PKG_CONFIG, &LIBSECCOMP, &EBPF, &CNI, &IPTABLES, &IPROUTE, &QEMU, &BUSYBOX, &KMOD, &GUEST];

/// To build.
pub const BUILD: [&Need; 4] = [&LINKER, &PKG_CONFIG, &LIBSECCOMP, &EBPF];

/// To build and run pods.
pub const RUN: [&Need; 7] = [&LINKER, &PKG_CONFIG, &LIBSECCOMP, &EBPF, &CNI, &IPTABLES, &IPROUTE];

const REGISTRY: Need = Need {
    what: "a registry, skopeo, openssl and htpasswd",
    why: "the tests of pulls",
    present: || {
        ["docker-registry", "skopeo", "openssl", "htpasswd"].iter().all(|p| run::on_path(p).is_some())
    },
    packages: &["docker-registry", "skopeo", "openssl", "apache2-utils"],
};
const UMOCI: Need = Need {
    what: "umoci",
    why: "what pulls are measured against",
    present: || run::on_path("umoci").is_some(),
    packages: &["umoci"],
};
/// To measure, also against others.
pub const BENCH: [&Need; 11] =
    [&LINKER, &PKG_CONFIG, &LIBSECCOMP, &EBPF, &CNI, &IPTABLES, &IPROUTE, &RUNC, &BUSYBOX, &REGISTRY, &UMOCI];

/// To test.
pub const TEST: [&Need; 10] =
    [&LINKER, &PKG_CONFIG, &LIBSECCOMP, &EBPF, &CNI, &IPTABLES, &IPROUTE, &RUNC, &BUSYBOX, &REGISTRY];

/// Everything: says it, or installs it.
pub fn all(check: bool) -> Result<()> {
    for need in TEST {
        let state = if (need.present)() { "there   " } else { "missing " };
        println!("{state} {} ({})", need.what, need.why);
    }
    if check { Ok(()) } else { ensure(&TEST) }
}

/// Installs what is missing, or stops with the commands that do.
pub fn ensure(needs: &[&Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|need| !(need.present)()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("Missing on this machine:");
    for need in &missing {
        eprintln!("  {} (for {}): {}", need.what, need.why, need.packages.join(" "));
    }
    let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages.iter().copied()).collect();
    match system() {
        System::Apt if is_root() => install(&packages)?,
        System::Apt => bail!(
            "run this as root and try again:\n  apt-get update\n  apt-get install -y --no-install-recommends {}",
            packages.join(" ")
        ),
        System::Other => bail!(
            "this machine is neither Debian 12, 13 nor Ubuntu: install by hand what these packages of Debian \
             hold, and try again:\n  {}\nFor the eBPF object a nightly with sources does as well:\n  \
             rustup toolchain install nightly --component rust-src",
            packages.join(" ")
        ),
    }
    match missing.iter().find(|need| !(need.present)()) {
        Some(need) => bail!("{} is still missing after installing {}", need.what, need.packages.join(" ")),
        None => Ok(()),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    let apt = |args: &[&str]| {
        let mut command = Command::new("apt-get");
        command.args(["-q", "-o", "DPkg::Lock::Timeout=120"]).args(args);
        command.env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    eprintln!("Installing them with apt-get.");
    run::run(&mut apt(&["update"]))?;
    // Not every release has the compiler that Debian 12 builds its browsers with.
    let unknown: Vec<_> = packages.iter().filter(|p| !known_to_apt(p)).copied().collect();
    if !unknown.is_empty() {
        let ebpf = if EBPF.packages.iter().any(|p| unknown.contains(p)) {
            "\nThe eBPF object can be built with a nightly that has its sources instead:\n  \
             rustup toolchain install nightly --component rust-src"
        } else {
            ""
        };
        bail!("apt knows no package {}{ebpf}", unknown.join(", "));
    }
    let mut args = vec!["install", "-y", "--no-install-recommends"];
    args.extend(packages);
    run::run(&mut apt(&args))
}

fn known_to_apt(package: &str) -> bool {
    run::output(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_some()
}

/// Which way of installing this machine knows.
enum System {
    Apt,
    Other,
}

fn system() -> System {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='));
        line.unwrap_or_default().trim_matches('"').to_owned()
    };
    match (field("ID").as_str(), field("VERSION_ID").as_str()) {
        ("debian", "12" | "13") | ("ubuntu", _) => System::Apt,
        _ => System::Other,
    }
}

/// Whether this process's effective uid is 0, from /proc: no unsafe and no crate for one number.
pub fn is_root() -> bool {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("Uid:")).unwrap_or_default();
    line.split_whitespace().nth(1) == Some("0")
}

/// A nightly of rustup's with the sources of core, wherever rustup keeps its toolchains.
fn nightly_with_sources() -> bool {
    let home = std::env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")));
    let Some(Ok(toolchains)) = home.map(|home| fs::read_dir(home.join("toolchains"))) else { return false };
    toolchains.flatten().any(|toolchain| {
        toolchain.file_name().to_string_lossy().starts_with("nightly")
            && toolchain.path().join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
    })
}

/// Debian's compiler, its sources, and LLVM's and its helpers' libraries.
fn debian_toolchain() -> bool {
    let library = |name: &str| {
        ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"]
            .iter()
            .any(|dir| Path::new(dir).join(name).exists())
    };
    let sources = Path::new("/usr/lib/rustlib/src/rust/library/core/src/lib.rs").exists();
    sources
        && ["/usr/bin/rustc", "/usr/bin/cargo", "/usr/lib/llvm-22/bin/llvm-config"]
            .iter()
            .all(|p| Path::new(p).exists())
        && Path::new("/usr/lib/llvm-22/lib/libPolly.a").exists()
        && library("libzstd.so")
        && library("libz.so")
}
