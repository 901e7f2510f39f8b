//! cgroups: version, controllers, and whether the configured driver can work.

use std::path::Path;

use super::Check;
use crate::cgroup;
use crate::config::{CgroupDriver, Config};

const ROOT: &str = "/sys/fs/cgroup";
/// `CGROUP2_SUPER_MAGIC` of linux/magic.h.
const CGROUP2_MAGIC: rustix::fs::FsWord = 0x6367_7270;
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

pub(super) fn checks(config: &Config) -> Vec<Check> {
    vec![tree(), driver(config.cgroup.driver)]
}

fn tree() -> Check {
    const NAME: &str = "cgroups";
    let v2 = is_v2(Path::new(ROOT));
    let hybrid = !v2 && is_v2(&Path::new(ROOT).join("unified"));
    let found = if v2 { v2_controllers() } else { v1_controllers() };
    let version = match (v2, hybrid) {
        (true, _) => "v2",
        (_, true) => "v1 (with an empty v2 tree beside it)",
        _ => "v1",
    };
    let missing: Vec<_> = CONTROLLERS.into_iter().filter(|c| !found.iter().any(|f| f == c)).collect();
    if !missing.is_empty() {
        return Check::fail(
            NAME,
            format!("{version} under {ROOT}, without {}", missing.join(", ")),
            "mount the controllers, or enable them on the kernel's command line",
        );
    }
    let reason = format!("{version} under {ROOT} with {}", CONTROLLERS.join(", "));
    if v2 {
        return Check::ok(NAME, reason);
    }
    Check::warn(
        NAME,
        format!("{reason}; kubelet 1.35 and later refuse v1"),
        "boot with cgroup v2, or set failCgroupV1: false in kubelet's configuration",
    )
}

fn is_v2(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == CGROUP2_MAGIC)
}

fn v2_controllers() -> Vec<String> {
    let list = std::fs::read_to_string(format!("{ROOT}/cgroup.controllers")).unwrap_or_default();
    list.split_whitespace().map(str::to_owned).collect()
}

/// A v1 controller counts when its hierarchy is mounted.
fn v1_controllers() -> Vec<String> {
    let mounted = |c: &&str| Path::new(ROOT).join(c).join("cgroup.procs").exists();
    CONTROLLERS.into_iter().filter(mounted).map(str::to_owned).collect()
}

fn driver(configured: CgroupDriver) -> Check {
    const NAME: &str = "cgroup driver";
    let systemd = Path::new("/run/systemd/system").is_dir();
    match (configured, systemd) {
        (CgroupDriver::Systemd, false) => Check::fail(
            NAME,
            "cgroup.driver = \"systemd\", but systemd does not run this node",
            "set cgroup.driver to \"auto\" or \"cgroupfs\", here and in kubelet's configuration",
        ),
        (CgroupDriver::Cgroupfs, true) => Check::warn(
            NAME,
            "cgroup.driver = \"cgroupfs\" while systemd runs the cgroups: two writers of one tree",
            "set cgroup.driver to \"auto\"",
        ),
        (_, true) => match cgroup::systemd_version() {
            Ok(version) => Check::ok(NAME, format!("systemd {version}")),
            Err(error) => Check::fail(
                NAME,
                error.to_string(),
                "install the packages systemd and dbus and start dbus.socket, or set cgroup.driver to \"cgroupfs\", \
                 here and in kubelet's configuration",
            ),
        },
        (_, false) => Check::ok(NAME, "cgroupfs"),
    }
}
