//! Kernel features that pods need, each probed by using it.

use std::io;

use rustix::mount::{FsOpenFlags, fsopen};

use super::places::{existing, file_system};
use super::probe::{Child, idmapped_clone};
use super::{Check, number};
use crate::config::Config;

const NEWER: &str = "use kernel 6.11 or later";

pub(super) fn checks(config: &Config) -> Vec<Check> {
    let mut checks = vec![limits(), mount_api(), seccomp()];
    let child = match Child::in_new_namespaces() {
        Ok(child) => child,
        Err(e) => {
            let remedy = match e.raw_os_error() {
                Some(libc::ENOSPC) => "raise user.max_user_namespaces and its siblings with sysctl",
                Some(libc::EPERM) => "run as root, and allow user namespaces in the security policy",
                _ => NEWER,
            };
            checks.push(Check::fail("namespaces", format!("clone3 with new namespaces: {e}"), remedy));
            return checks;
        }
    };
    checks.push(Check::ok("namespaces", "clone3 makes user, net, mnt, pid, ipc, uts and cgroup at once"));
    checks.push(ownership(&child));
    checks.push(idmap(&child, config));
    checks
}

fn limits() -> Check {
    const NAME: &str = "userns limit";
    match number("/proc/sys/user/max_user_namespaces") {
        Some(0) => Check::fail(
            NAME,
            "user.max_user_namespaces = 0: no pod can have a user namespace",
            "sysctl user.max_user_namespaces=65536",
        ),
        Some(limit) if limit < 256 => Check::warn(
            NAME,
            format!("user.max_user_namespaces = {limit}: one for each pod, fewer than a full node has"),
            "sysctl user.max_user_namespaces=65536",
        ),
        Some(limit) => Check::ok(NAME, format!("user.max_user_namespaces = {limit}")),
        None => Check::fail(
            NAME,
            "/proc/sys/user/max_user_namespaces cannot be read",
            "use a kernel with CONFIG_USER_NS=y, and mount proc",
        ),
    }
}

fn mount_api() -> Check {
    match fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC) {
        Ok(_) => Check::ok("mount api", "fsopen works"),
        Err(e) => Check::fail("mount api", format!("fsopen of tmpfs: {e}"), NEWER),
    }
}

fn seccomp() -> Check {
    const FILE: &str = "/proc/sys/kernel/seccomp/actions_avail";
    match std::fs::read_to_string(FILE) {
        Ok(actions) if actions.split_whitespace().any(|a| a == "errno") => {
            Check::ok("seccomp", format!("filters may answer {}", actions.trim()))
        }
        _ => Check::fail(
            "seccomp",
            format!("{FILE} has no \"errno\""),
            "use a kernel with CONFIG_SECCOMP_FILTER=y",
        ),
    }
}

/// That the kernel says the new netns is the new userns's.
fn ownership(child: &Child) -> Check {
    const NAME: &str = "ownership";
    match child.netns_is_owned_by_its_userns() {
        Ok(true) => Check::ok(NAME, "a netns made with its userns is owned by it (NS_GET_USERNS)"),
        Ok(false) => Check::fail(NAME, "a netns made with its userns is owned by another", NEWER),
        Err(e) => Check::fail(NAME, format!("namespaces of a process: {e}"), NEWER),
    }
}

fn idmap(child: &Child, config: &Config) -> Check {
    const NAME: &str = "idmapped mounts";
    let place = existing(&config.root);
    let kind = file_system(place).unwrap_or("an unknown file system");
    match child.userns().and_then(|userns| idmapped_clone(place, &userns)) {
        Ok(()) => Check::ok(NAME, format!("{} ({kind}) can be idmapped", place.display())),
        Err(e) => {
            let remedy = match e.raw_os_error() {
                Some(libc::EINVAL) => "set root to a directory on ext4, xfs or btrfs",
                Some(libc::EPERM) => "run as root in the initial user namespace",
                _ => NEWER,
            };
            Check::fail(NAME, refused(place, kind, &e), remedy)
        }
    }
}

fn refused(place: &std::path::Path, kind: &str, error: &io::Error) -> String {
    format!("{} ({kind}) cannot be idmapped: {error}", place.display())
}
