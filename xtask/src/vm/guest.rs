//! What a machine boots from: an initramfs that finds the disk, and the disk with everything else. A disk and not the
//! initramfs alone, because nobody can pivot_root out of that, and because no tmpfs before Linux 6.3 takes
//! idmapped mounts.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::kernel::{self, Kernel};
use super::machine::Threads;
use super::tree::Tree;
use crate::run;

/// What is to be run there.
#[derive(Debug, Default)]
pub struct Programs {
    /// The observer's live tests.
    pub observer: Option<PathBuf>,
    /// The directory of the daemon, the shim and the console.
    pub dir: Option<PathBuf>,
    /// The end-to-end tests.
    pub e2e: Option<PathBuf>,
    /// The conformance tests, of which those of OCI runtimes are run.
    pub conformance: Option<PathBuf>,
}

/// The runtimes that they are run with.
const RUNTIMES: [&str; 2] = ["runc", "crun"];

impl Programs {
    /// How many runs there are of them.
    pub fn count(&self) -> usize {
        self.observer.as_ref().map_or(0, |_| RUNGS.len())
            + self.e2e.iter().len()
            + self.conformance.as_ref().map_or(0, |_| RUNTIMES.len())
    }
}

/// What these kernels have of the observer's ladder.
const RUNGS: [&str; 2] = ["fexit", "kprobe"];

/// What a machine boots from.
#[derive(Debug)]
pub struct Guest {
    pub initramfs: PathBuf,
    pub disk: PathBuf,
}

/// Modules that find the disk.
const DISK_MODULES: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];
/// Modules that the flow and the plugins need, in this order.
const MODULES: [&str; 13] = [
    "overlay",
    "fuse",
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
const TOOLS: [&str; 12] = [
    "unshare",
    "nsenter",
    "ip",
    "iptables",
    "ip6tables",
    "iptables-save",
    "ip6tables-save",
    "mount",
    "umount",
    "modprobe",
    "setpriv",
    "perl",
];
const APPLETS: [&str; 34] = [
    "cat",
    "ls",
    "mkdir",
    "echo",
    "sleep",
    "true",
    "false",
    "readlink",
    "touch",
    "grep",
    "id",
    "rm",
    "kill",
    "stat",
    "uname",
    "head",
    "tail",
    "ps",
    "env",
    "poweroff",
    "test",
    "dd",
    "seq",
    "ln",
    "chmod",
    "cut",
    "tr",
    "sed",
    "wc",
    "cp",
    "mv",
    "df",
    "switch_root",
    "dmesg",
];
const PLUGINS: [&str; 5] = ["bridge", "host-local", "loopback", "portmap", "firewall"];
/// The end-to-end tests that run there: the order, the wrong order, what is seen of both, limits and figures,
/// containers, restarts; and AppArmor, which these kernels have enabled.
const E2E: [&str; 8] = [
    "ownership::",
    "network_first::",
    "lifecycle::",
    "observer::",
    "stats::",
    "containers::",
    "restart::",
    "apparmor::",
];
/// By how much the tests wait longer: two emulated processors take ten times as long as real ones, and more where
/// those are shared.
const fn patience(threads: Threads) -> u32 {
    match threads {
        Threads::Several => 6,
        Threads::One => 12,
    }
}
const DISK_SIZE: &str = "1500M";

/// Which of it, and how.
#[derive(Debug, Clone, Copy)]
pub struct Plan<'a> {
    /// Parts of the names of the end-to-end tests; empty: the usual ones.
    pub e2e: &'a [String],
    /// The runs that are done.
    pub done: &'a [String],
    pub threads: Threads,
}

/// Puts it together.
pub fn assemble(kernel: &Kernel, programs: &Programs, plan: Plan<'_>) -> Result<Guest> {
    let at = |name: &str| run::target().join("vm").join(format!("{}-{name}", kernel.version));
    let guest = Guest { initramfs: at("initramfs.cpio"), disk: at("disk.img") };
    initramfs(kernel)?.write_cpio(&guest.initramfs)?;
    disk(kernel, programs, plan)?.write_disk(&guest.disk, DISK_SIZE)?;
    Ok(guest)
}

fn initramfs(kernel: &Kernel) -> Result<Tree> {
    let mut tree = Tree::default();
    for dir in ["proc", "dev", "root"] {
        tree.directory(dir);
    }
    tree.copy(Path::new("/bin/busybox"), "/bin/busybox")?;
    for applet in ["sh", "mount", "insmod", "switch_root", "sleep"] {
        tree.link(&format!("/bin/{applet}"), "busybox");
    }
    let mut script = "#!/bin/sh\nmount -t devtmpfs dev /dev\n".to_owned();
    for (number, module) in kernel.with_dependencies(&DISK_MODULES)?.iter().enumerate() {
        let to = format!("/modules/{number}.ko");
        tree.file(&to, 0o644, kernel.module(module)?);
        script.push_str(&format!("insmod {to}\n"));
    }
    script.push_str("until mount -t ext4 /dev/vda /root; do sleep 1; done\nexec switch_root /root /init\n");
    tree.file("/init", 0o755, script.into_bytes());
    Ok(tree)
}

fn disk(kernel: &Kernel, programs: &Programs, plan: Plan<'_>) -> Result<Tree> {
    let mut tree = Tree::default();
    for dir in ["proc", "sys", "dev", "run", "tmp", "var/lib", "etc", "root", "mnt", "usr/bin"] {
        tree.directory(dir);
    }
    tree.link("/var/run", "/run");
    tree.copy(Path::new("/bin/busybox"), "/bin/busybox")?;
    // Not busybox's own: it takes its applets for the tools of the same name.
    tree.program(Path::new("/bin/dash"), "/bin/sh")?;
    for applet in APPLETS {
        tree.link(&format!("/bin/{applet}"), "busybox");
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
    tree.file("/etc/passwd", 0o644, passwd.into());
    tree.file("/etc/group", 0o644, b"root:x:0:\n".to_vec());
    tree.file("/etc/resolv.conf", 0o644, b"nameserver 127.0.0.1\n".to_vec());
    tree.file("/etc/hostname", 0o644, b"guest\n".to_vec());
    tree.file("/etc/hosts", 0o644, b"127.0.0.1 localhost\n".to_vec());
    for tool in TOOLS {
        tree.tool(tool)?;
    }
    let apparmor = kernel::apparmor()?;
    tree.program(&apparmor.join("sbin/apparmor_parser"), "/usr/sbin/apparmor_parser")?;
    tree.copy(&apparmor.join("etc/apparmor.d/abi/3.0"), "/etc/apparmor.d/abi/3.0")?;
    let wanted = ["fs/overlayfs", "fs/fuse", "net/", "drivers/net/veth", "lib/", "crypto/", "modules."];
    let keep = |path: &Path| wanted.iter().any(|part| path.to_string_lossy().contains(part));
    tree.copy_tree(&kernel.modules, &format!("/lib/modules/{}", kernel.version), &keep)?;
    let mut script = String::from(INIT);
    for module in MODULES {
        script.push_str(&format!("modprobe {module} 2>/dev/null\n"));
    }
    let patience = patience(plan.threads);
    let mut run = |name: &str, env: &str, command: &str| {
        if !plan.done.iter().any(|done| done == name) {
            script.push_str(&format!("{env} run '{name}' {command}\n"));
        }
    };
    if let Some(observer) = &programs.observer {
        tree.program(&stripped(observer)?, "/tests/observer_live")?;
        for rung in RUNGS {
            let env = format!("SANDBOXD_TEST_RESULTS=fexit SANDBOXD_TEST_RUNG={rung}");
            run(&format!("observer through {rung}"), &env, "/tests/observer_live --test-threads=1");
        }
    }
    if let (Some(dir), Some(program)) = (&programs.dir, &programs.e2e) {
        for name in ["sandboxd", "sandboxd-shim", "sandboxd-tui"] {
            tree.program(&stripped(&dir.join(name))?, &format!("/tests/{name}"))?;
        }
        tree.program(&stripped(program)?, "/tests/e2e")?;
        // The tests have the path of their plugin from cargo.
        let plugin = program.ancestors().nth(2).context("a test program without a profile's directory")?;
        let plugin = plugin.join("cni-fault");
        tree.program(&plugin, &plugin.to_string_lossy())?;
        let plugins = ["/usr/lib/cni", "/opt/cni/bin"].into_iter().map(Path::new);
        let plugins =
            plugins.into_iter().find(|dir| dir.join("bridge").exists()).context("no CNI plugins")?;
        for plugin in PLUGINS {
            tree.program(&plugins.join(plugin), &format!("/usr/lib/cni/{plugin}"))?;
        }
        let xtables = "/usr/lib/x86_64-linux-gnu/xtables";
        for entry in fs::read_dir(xtables).with_context(|| format!("reading {xtables}"))?.flatten() {
            tree.program(&entry.path(), &entry.path().to_string_lossy())?;
        }
        let tests = if plan.e2e.is_empty() { E2E.join(" ") } else { plan.e2e.join(" ") };
        let env = format!("SANDBOXD_TEST_PATIENCE={patience} SANDBOXD_BIN_DIR=/tests");
        // The filter is a part of a name: without a second daemon "observer::" is not to mean "no_observer::".
        run("flow", &env, &format!("/tests/e2e --test-threads=3 --skip no_observer:: {tests}"));
        if let Some(conformance) = &programs.conformance {
            tree.program(&stripped(conformance)?, "/tests/conformance")?;
            for runtime in RUNTIMES {
                tree.tool(runtime)?;
                let env = format!("SANDBOXD_TEST_OCI={runtime} {env}");
                run(runtime, &env, "/tests/conformance --test-threads=3 handlers::");
            }
        }
    }
    script.push_str("poweroff -f\n");
    tree.file("/init", 0o755, script.into_bytes());
    Ok(tree)
}

/// What the machine does first.
const INIT: &str = "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root RUST_BACKTRACE=0 TMPDIR=/tmp
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security
mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
# The kernel patches its allocator when the first cpuset comes and when the last one goes. Here one stays: see LOST_INT3.
echo +cpuset >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/stays
mount --make-rshared /
ip link set lo up
run() {
    name=$1
    shift
    echo \"VM-BEGIN $name\"
    \"$@\" 2>&1
    echo \"VM-TEST $? $name\"
}
";

/// A copy without debug information: it is read through an emulated disk.
fn stripped(program: &Path) -> Result<PathBuf> {
    let name = program.file_name().unwrap_or_default();
    let to = run::target().join("vm").join(name);
    fs::create_dir_all(run::target().join("vm"))?;
    run::run(Command::new("strip").arg("-g").arg("-o").arg(&to).arg(program))?;
    Ok(to)
}
