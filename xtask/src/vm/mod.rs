//! `cargo xtask vm-test`: the observer and the flow on other kernels, each booted under QEMU with an initramfs
//! that holds the programs, their libraries and the tests.
//!
//! Debian's 6.1 and 6.12 kernels have no tracepoint on capability checks, but trampolines and kprobes: the
//! second and third rung of the observer's ladder. They mount cgroup v2 alone.

mod initramfs;
mod kernel;

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::{build, deps, ebpf, run};
use initramfs::Initramfs;
use kernel::{Choice, Kernel};

/// What `cargo xtask vm-test` takes.
#[derive(Debug, clap::Args)]
pub struct Options {
    /// Only this kernel.
    #[arg(long, value_enum)]
    kernel: Option<Choice>,
    /// Only the observer's tests.
    #[arg(long)]
    only_observer: bool,
}

/// One boot, under software emulation on a busy machine.
const PATIENCE: Duration = Duration::from_secs(900);
/// Modules that the flow and the plugins need, in this order.
const MODULES: [&str; 12] = [
    "overlay",
    "bridge",
    "veth",
    "br_netfilter",
    "nf_tables",
    "nft_compat",
    "nft_chain_nat",
    "xt_MASQUERADE",
    "xt_comment",
    "xt_conntrack",
    "xt_mark",
    "xt_nat",
];
/// Tools that the tests and the plugins run.
const TOOLS: [&str; 9] =
    ["unshare", "nsenter", "ip", "iptables", "ip6tables", "mount", "umount", "modprobe", "setpriv"];
/// The end-to-end tests that run there: ownership, the order, the old order, restart.
const E2E: [&str; 4] = ["ownership::", "network_first::", "lifecycle::", "observer::"];

/// Runs them.
pub fn vm_test(options: &Options) -> Result<()> {
    deps::ensure(&deps::VM)?;
    let kernels: Vec<Choice> =
        Choice::ALL.into_iter().filter(|k| options.kernel.is_none_or(|only| only == *k)).collect();
    ebpf::build_ebpf(true)?;
    let observer = test_program("sandboxd", "observer_live")?;
    let flow = if options.only_observer {
        None
    } else {
        Some((build::release()?, test_program("sandboxd-tests", "e2e")?))
    };
    let mut failed = Vec::new();
    for choice in kernels {
        let kernel = kernel::fetch(choice)?;
        let image = run::target().join("vm").join(format!("{}.cpio", choice.name()));
        assemble(&kernel, &observer, flow.as_ref().map(|(bins, e2e)| (bins.as_path(), e2e.as_path())))?
            .write(&image)?;
        println!("\n== Linux {} under QEMU", kernel.version);
        let results = boot(&kernel, &image)?;
        ensure!(!results.is_empty(), "Linux {} ran no test", kernel.version);
        for (name, status) in results {
            println!("{}: {name}: {}", choice.name(), if status == 0 { "passed" } else { "FAILED" });
            if status != 0 {
                failed.push(format!("{} on {}", name, choice.name()));
            }
        }
    }
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}

/// Builds a test program and gives its path.
fn test_program(package: &str, test: &str) -> Result<PathBuf> {
    let args = ["test", "--no-run", "-p", package, "--test", test];
    let mut command = run::cargo();
    command.args(args).stderr(Stdio::piped());
    let out = command.output()?;
    let text = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "`{}` failed:\n{text}", run::words(&command));
    // "  Executable tests/e2e.rs (target/debug/deps/e2e-0123456789abcdef)"
    let path = text.lines().rev().find_map(|line| line.trim().strip_prefix("Executable ")?.split_once('('));
    let (_, path) = path.with_context(|| format!("cargo names no program for {test}"))?;
    Ok(run::root().join(path.trim_end_matches(')')))
}

fn assemble(kernel: &Kernel, observer: &Path, flow: Option<(&Path, &Path)>) -> Result<Initramfs> {
    let mut tree = Initramfs::default();
    for dir in ["proc", "sys", "dev", "run", "tmp", "var/lib", "var/run", "etc", "root", "usr/bin"] {
        tree.directory(dir);
    }
    tree.copy(Path::new("/bin/busybox"), "/bin/busybox")?;
    // Not busybox's own: it takes its applets for the tools of the same name.
    tree.program(Path::new("/bin/dash"), "/bin/sh")?;
    for name in [
        "cat", "ls", "mkdir", "echo", "sleep", "true", "readlink", "touch", "grep", "id", "rm", "kill",
        "stat", "uname", "head", "ps", "env", "poweroff", "test", "dd", "seq", "ln", "chmod", "cut", "tr",
    ] {
        tree.link(&format!("/bin/{name}"), "busybox");
    }
    tree.file(
        "/etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n".to_vec(),
    );
    tree.file("/etc/group", 0o644, b"root:x:0:\n".to_vec());
    tree.file("/etc/resolv.conf", 0o644, b"nameserver 127.0.0.1\n".to_vec());
    for tool in TOOLS {
        tree.tool(tool)?;
    }
    let wanted = ["fs/overlayfs", "net/", "drivers/net/veth", "lib/", "crypto/", "modules."];
    let keep = |path: &Path| wanted.iter().any(|part| path.to_string_lossy().contains(part));
    tree.copy_tree(&kernel.modules, &format!("/lib/modules/{}", kernel.version), &keep)?;
    tree.program(&stripped(observer)?, "/tests/observer_live")?;
    let mut script = String::from(INIT);
    for module in MODULES {
        script.push_str(&format!("modprobe {module} 2>/dev/null\n"));
    }
    for rung in ["fexit", "kprobe"] {
        script.push_str(&format!(
            "SANDBOXD_TEST_RUNG={rung} run 'observer through {rung}' /tests/observer_live --test-threads=1\n"
        ));
    }
    if let Some((bins, e2e)) = flow {
        for name in ["sandboxd", "sandboxd-shim", "sandboxd-tui"] {
            tree.program(&bins.join(name), &format!("/tests/{name}"))?;
        }
        tree.program(&stripped(e2e)?, "/tests/e2e")?;
        for dir in ["/usr/lib/cni", "/usr/lib/x86_64-linux-gnu/xtables"] {
            for entry in fs::read_dir(dir).with_context(|| format!("reading {dir}"))?.flatten() {
                tree.program(&entry.path(), &entry.path().to_string_lossy())?;
            }
        }
        script.push_str(&format!(
            "SANDBOXD_BIN_DIR=/tests run 'flow' /tests/e2e --test-threads=2 {}\n",
            E2E.join(" ")
        ));
    }
    script.push_str("poweroff -f\n");
    tree.file("/init", 0o755, script.into_bytes());
    Ok(tree)
}

/// What the machine does first.
const INIT: &str = "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs run /run
mount -t tmpfs tmp /tmp
mount -t tmpfs lib /var/lib
mount -t cgroup2 cgroup2 /sys/fs/cgroup
ip link set lo up
run() {
    name=$1
    shift
    \"$@\"
    echo \"VM-TEST $? $name\"
}
";

/// A copy without debug information: memory is what the machine boots from.
fn stripped(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().unwrap_or_default();
    let to = run::target().join("vm").join(name);
    fs::create_dir_all(run::target().join("vm"))?;
    run::run(Command::new("strip").arg("-g").arg("-o").arg(&to).arg(program))?;
    Ok(to)
}

/// Boots, passes on what is said, and gives each test's name and exit status.
fn boot(kernel: &Kernel, image: &Path) -> Result<Vec<(String, i32)>> {
    let mut command = Command::new("qemu-system-x86_64");
    command.args([
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "3072",
        "-nographic",
        "-no-reboot",
    ]);
    command.args(["-nic", "none", "-append", "console=ttyS0 panic=-1 quiet loglevel=3"]);
    command.arg("-kernel").arg(&kernel.image).arg("-initrd").arg(image);
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("starting qemu-system-x86_64")?;
    let stdout = child.stdout.take().context("no standard output")?;
    let begun = Instant::now();
    let (lines, heard) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
            if lines.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
        }
    });
    let mut results = Vec::new();
    let mut skipped = 0;
    loop {
        match heard.recv_timeout(PATIENCE.saturating_sub(begun.elapsed())) {
            Ok(line) => {
                // These kernels have all that the tests need: what skips here would pass unseen.
                if line.contains("SKIPPED: ") {
                    skipped += 1;
                }
                if let Some((status, name)) =
                    line.strip_prefix("VM-TEST ").and_then(|rest| rest.split_once(' '))
                {
                    let status = if skipped == 0 { status.parse().unwrap_or(-1) } else { -1 };
                    results.push((name.to_owned(), status));
                    skipped = 0;
                } else {
                    println!("{line}");
                }
            }
            Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => {
                child.kill()?;
                child.wait()?;
                bail!("Linux {} did not finish within {} s", kernel.version, PATIENCE.as_secs());
            }
        }
    }
    child.wait()?;
    println!("powered off after {:.0} s", begun.elapsed().as_secs_f64());
    Ok(results)
}
