//! `cargo xtask build-ebpf`: the eBPF object that `sandboxd` embeds.
//!
//! The BPF target ships without a `core`, so it is built from source: a rustup nightly with `rust-src`
//! does it, and so does a distribution's compiler with its sources (`RUSTC_BOOTSTRAP=1`). `bpf-linker`
//! reads the compiler's bitcode, so its LLVM must be the compiler's; it is built into the target
//! directory when missing. Nothing is installed outside the target directory.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

const TARGET: &str = "bpfel-unknown-none";
const PACKAGE: &str = "sandboxd-ebpf";
const LINKER_VERSION: &str = "0.13.0";

/// The apt packages that give a Debian 12 machine everything `build-ebpf` needs.
pub const DEBIAN_PACKAGES: &[&str] =
    &["build-essential", "rustc-web", "cargo-web", "rust-web-src", "llvm-22-dev"];

/// Builds the object and returns its path, `<target>/bpf/sandboxd-ebpf.o`, where `sandboxd`'s build script
/// looks for it. With `release` the object carries no DWARF: the daemon that embeds it is smaller.
///
/// # Errors
/// No toolchain that can build for BPF (the text names what to install), or a failing compiler or linker.
pub fn build_ebpf(release: bool) -> anyhow::Result<PathBuf> {
    let root = workspace_root()?;
    let target_dir = target_dir(&root);
    let toolchain = Toolchain::find()?;
    let llvm = Llvm::of(&toolchain)?;
    let linker = ensure_linker(&target_dir, &llvm)?;

    let build_dir = target_dir.join("ebpf");
    let mut cargo = toolchain.cargo();
    cargo
        .current_dir(&root)
        .args(["build", "--quiet", "--locked", "-Z", "build-std=core", "--package", PACKAGE])
        .args(["--features", "programs", "--profile", "bpf", "--target", TARGET])
        .arg("--target-dir")
        .arg(&build_dir)
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&linker));
    run(&mut cargo).context("building the eBPF object")?;

    let built = build_dir.join(TARGET).join("bpf").join(PACKAGE);
    let stripped = build_dir.join(format!("{PACKAGE}.stripped"));
    let object = if release {
        // -g takes DWARF only: .BTF and .BTF.ext, which the kernel wants, stay.
        run(Command::new(llvm.tool("llvm-strip")).arg("-g").arg(&built).arg("-o").arg(&stripped))
            .context("stripping the eBPF object")?;
        stripped
    } else {
        built
    };
    let wanted = target_dir.join("bpf").join(format!("{PACKAGE}.o"));
    publish(&object, &wanted)?;
    Ok(wanted)
}

/// Copies the object to its fixed path; an equal one keeps its time stamp, so that `sandboxd` is not
/// built again for nothing.
fn publish(from: &Path, to: &Path) -> anyhow::Result<()> {
    let new = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    if let Some(dir) = to.parent() {
        fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let tmp = to.with_extension("o.new");
    fs::write(&tmp, &new).with_context(|| format!("writing {}", tmp.display()))?;
    fs::rename(&tmp, to).with_context(|| format!("renaming {} to {}", tmp.display(), to.display()))
}

fn rustflags(linker: &Path) -> OsString {
    let mut flags = OsString::from(format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH));
    // debuginfo and --btf: the maps and the record are described in the object's BTF.
    for flag in ["-Cdebuginfo=2", "-Clink-arg=--btf"] {
        flags.push("\x1f");
        flags.push(flag);
    }
    flags.push("\x1f-Clinker=");
    flags.push(linker);
    flags
}

/// A compiler that can build `core` for BPF, with the cargo that belongs to it.
#[derive(Debug)]
struct Toolchain {
    rustc: PathBuf,
    cargo: PathBuf,
}

impl Toolchain {
    fn find() -> anyhow::Result<Self> {
        let mut candidates = Vec::new();
        if let Some(rustc) = rustup_which("rustc")
            && let Some(cargo) = rustup_which("cargo")
        {
            candidates.push(Self { rustc, cargo });
        }
        candidates.push(Self { rustc: "/usr/bin/rustc".into(), cargo: "/usr/bin/cargo".into() });
        if let Some(found) = candidates.into_iter().find(Self::has_sources) {
            return Ok(found);
        }
        bail!(
            "no Rust toolchain here has the sources of core, which the BPF target is built from.\n\
             With rustup:  rustup toolchain install nightly --component rust-src\n\
             Debian 12:    apt-get install {}\n\
             then run this again.",
            DEBIAN_PACKAGES.join(" ")
        )
    }

    fn has_sources(&self) -> bool {
        let Ok(sysroot) = output(Command::new(&self.rustc).args(["--print", "sysroot"])) else {
            return false;
        };
        self.cargo.exists()
            && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs").exists()
    }

    /// cargo, free of what the cargo that runs this task put into the environment for its own toolchain.
    fn cargo(&self) -> Command {
        let mut cmd = Command::new(&self.cargo);
        for key in ["RUSTUP_TOOLCHAIN", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTFLAGS", "CARGO"] {
            cmd.env_remove(key);
        }
        cmd.env("RUSTC", &self.rustc).env("RUSTC_BOOTSTRAP", "1");
        cmd
    }
}

fn rustup_which(tool: &str) -> Option<PathBuf> {
    // Asking for a toolchain that is not there must not fetch it.
    let mut cmd = Command::new("rustup");
    cmd.args(["which", "--toolchain", "nightly", tool]).env("RUSTUP_AUTO_INSTALL", "0");
    output(&mut cmd).ok().map(|path| PathBuf::from(path.trim()))
}

/// The LLVM that a compiler was built with, and where a development copy of it is.
#[derive(Debug)]
struct Llvm {
    major: u32,
    prefix: Option<PathBuf>,
}

impl Llvm {
    fn of(toolchain: &Toolchain) -> anyhow::Result<Self> {
        let version = output(Command::new(&toolchain.rustc).arg("-vV"))?;
        let major = llvm_major(&version)
            .with_context(|| format!("{} -vV names no LLVM version", toolchain.rustc.display()))?;
        let prefix = PathBuf::from(format!("/usr/lib/llvm-{major}"));
        let prefix = prefix.join("bin/llvm-config").exists().then_some(prefix);
        Ok(Self { major, prefix })
    }

    fn tool(&self, name: &str) -> PathBuf {
        match &self.prefix {
            Some(prefix) => prefix.join("bin").join(name),
            None => format!("{name}-{}", self.major).into(),
        }
    }
}

fn llvm_major(rustc_version: &str) -> Option<u32> {
    let version = rustc_version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// A `bpf-linker` for this LLVM in the target directory; built when missing (about half a minute).
fn ensure_linker(target_dir: &Path, llvm: &Llvm) -> anyhow::Result<PathBuf> {
    let root = target_dir.join("tools").join(format!("bpf-linker-{LINKER_VERSION}-llvm{}", llvm.major));
    let linker = root.join("bin/bpf-linker");
    if linker.exists() {
        return Ok(linker);
    }
    let major = llvm.major;
    let Some(prefix) = &llvm.prefix else {
        bail!(
            "bpf-linker must be built with the compiler's LLVM, {major}, and /usr/lib/llvm-{major} is not there.\n\
             Debian, Ubuntu:  apt-get install llvm-{major}-dev\n\
             then run this again."
        );
    };
    eprintln!("bpf-linker {LINKER_VERSION} for LLVM {major} is missing: building it into {}", root.display());
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["install", "bpf-linker", "--quiet", "--locked", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features", &format!("llvm-{major}"), "--root"])
        .arg(&root)
        .arg("--target-dir")
        .arg(target_dir.join("tools/build"))
        // llvm-sys reads the one, bpf-linker's own build script the other: without it, it links
        // whatever `llvm-config` comes first on the path.
        .env(format!("LLVM_SYS_{major}1_PREFIX"), prefix)
        .env("LLVM_PREFIX", prefix);
    run(&mut cargo).with_context(|| format!("building bpf-linker {LINKER_VERSION}"))?;
    // Its intermediate artifacts are never of use again.
    let _ = fs::remove_dir_all(target_dir.join("tools/build"));
    Ok(linker)
}

fn workspace_root() -> anyhow::Result<PathBuf> {
    let manifest = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let root = Path::new(&manifest).parent().context("xtask's manifest has no parent directory")?;
    Ok(root.to_path_buf())
}

fn target_dir(root: &Path) -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(dir) => env::current_dir().unwrap_or_default().join(dir),
        None => root.join("target"),
    }
}

fn output(cmd: &mut Command) -> anyhow::Result<String> {
    let out = cmd.output().with_context(|| format!("running {}", show(cmd)))?;
    if !out.status.success() {
        bail!("{} failed ({}): {}", show(cmd), out.status, String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(String::from_utf8(out.stdout)?)
}

fn run(cmd: &mut Command) -> anyhow::Result<()> {
    let status = cmd.status().with_context(|| format!("running {}", show(cmd)))?;
    if !status.success() {
        bail!("{} failed ({status})", show(cmd));
    }
    Ok(())
}

fn show(cmd: &Command) -> String {
    let words = std::iter::once(cmd.get_program()).chain(cmd.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compilers_llvm_is_read_from_its_version() {
        let text = "rustc 1.96.0 (ac68faa20 2026-05-25)\nbinary: rustc\nLLVM version: 22.1.8\n";
        assert_eq!(llvm_major(text), Some(22));
        assert_eq!(llvm_major("rustc 1.96.0\n"), None);
    }

    #[test]
    fn an_equal_object_keeps_its_time_stamp() {
        let dir = env::temp_dir().join(format!("xtask-ebpf-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("a"), dir.join("out/b.o"));
        fs::write(&from, "one").unwrap();
        publish(&from, &to).unwrap();
        let first = fs::metadata(&to).unwrap().modified().unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), first);
        fs::write(&from, "two").unwrap();
        publish(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
