//! The same infra container through runc, where it is installed: the same namespaces, id mapping and
//! mounts, no network, no shim; `create` and `start` together, and `delete --force`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use sandboxd_tests::node::Node;
use sandboxd_tests::pod::{USERNS_BASE, USERNS_LENGTH};
use serde_json::{Value, json};

use crate::report::Report;
use crate::stats::Series;

const WARM_UP: u32 = 3;

/// Measures it.
pub async fn same_infra(node: &Node, containers: u32, report: &mut Report) -> Result<()> {
    let version = Command::new("runc").arg("--version").stderr(Stdio::null()).output();
    let Ok(version) = version else {
        report.note("no comparison with runc: it is not installed");
        return Ok(());
    };
    let version = String::from_utf8_lossy(&version.stdout).lines().next().unwrap_or("runc").to_owned();
    let bundle = node.path("bundle");
    make_bundle(node, &bundle).await?;
    let (mut up, mut down) = (Series::default(), Series::default());
    for round in 0..containers + WARM_UP {
        let id = format!("{}-{round}", node.scope.name);
        let begun = Instant::now();
        runc(node, &["create", "--bundle", &bundle.to_string_lossy(), &id])?;
        runc(node, &["start", &id])?;
        let started = begun.elapsed();
        let begun = Instant::now();
        runc(node, &["delete", "--force", &id])?;
        if round >= WARM_UP {
            up.push_time(started);
            down.push_time(begun.elapsed());
        }
    }
    report.group(&format!("The same infra container through {version}, no network"));
    report.row("create and start", "ms", &up);
    report.row("delete", "ms", &down);
    Ok(())
}

fn runc(node: &Node, args: &[&str]) -> Result<()> {
    // Its own output to a file: the container inherits it, and a pipe would stay open with the container.
    let log = node.path("runc.log");
    let file = fs::File::create(&log)?;
    let status = Command::new("runc")
        .arg("--root")
        .arg(node.path("runc"))
        .args(args)
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .status()?;
    if !status.success() {
        bail!("runc {}: {}", args.join(" "), fs::read_to_string(log).unwrap_or_default().trim());
    }
    Ok(())
}

/// A root file system with the pause of a running pod, and the specification of its infra container.
async fn make_bundle(node: &Node, bundle: &Path) -> Result<()> {
    let rootfs = bundle.join("rootfs");
    fs::create_dir_all(&rootfs)?;
    let cri = node.cri().await?;
    let id = cri.run(node.pod("model").userns().build()).await?;
    let pid = cri.pid(&id).await?;
    let program = fs::read(format!("/proc/{pid}/exe")).context("reading the pause")?;
    cri.remove(&id).await?;
    fs::write(rootfs.join("pause"), program)?;
    fs::set_permissions(rootfs.join("pause"), fs::Permissions::from_mode(0o755))?;
    for path in [bundle.to_path_buf(), rootfs.clone(), rootfs.join("pause")] {
        chown(&path, Some(USERNS_BASE), Some(USERNS_BASE))?;
    }
    // The mapped root must reach it.
    fs::set_permissions(&node.scope.dir, fs::Permissions::from_mode(0o711))?;
    fs::write(bundle.join("config.json"), spec(&node.scope.cgroup_parent()).to_string())?;
    Ok(())
}

fn spec(cgroup_parent: &str) -> Value {
    let map = json!([{ "containerID": 0, "hostID": USERNS_BASE, "size": USERNS_LENGTH }]);
    let kinds = ["user", "network", "mount", "pid", "ipc", "uts"];
    let mount = |point: &str, kind: &str, options: &[&str]| json!({ "destination": point, "type": kind, "source": kind, "options": options });
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": { "uid": 0, "gid": 0 }, "args": ["/pause"], "cwd": "/", "noNewPrivileges": true,
            "env": ["PATH=/usr/bin:/bin"],
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "bench",
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "mode=755"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        ],
        "linux": {
            "cgroupsPath": format!("{cgroup_parent}/runc"),
            "uidMappings": map, "gidMappings": map,
            "namespaces": kinds.map(|kind| json!({ "type": kind })),
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/proc/timer_list"],
            "readonlyPaths": ["/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
