//! Files and directories: the shim, where root and state lie, inotify.

use std::path::Path;

use rustix::fs::{Access, access, statfs};

use super::{Check, number};
use crate::config::Config;

const STATE_REMEDY: &str = "mount a tmpfs on /run, or set state to a directory on one";
/// Each pod's watcher and every tool on the node takes one; the kernel's default.
const INOTIFY_MIN: u64 = 128;

pub(super) fn checks(config: &Config) -> Vec<Check> {
    vec![shim(config), state(&config.state), root(&config.root), inotify()]
}

fn shim(config: &Config) -> Check {
    const NAME: &str = "shim";
    const REMEDY: &str = "install sandboxd-shim beside sandboxd, or set pod.shim_path";
    match config.shim() {
        None => Check::fail(NAME, "sandboxd-shim is neither beside sandboxd nor on the PATH", REMEDY),
        Some(path) => match access(&path, Access::EXEC_OK) {
            Ok(()) => Check::ok(NAME, path.display().to_string()),
            Err(e) => Check::fail(NAME, format!("{} cannot be executed: {e}", path.display()), REMEDY),
        },
    }
}

/// The directory, or the nearest one above it that is there already.
pub(super) fn existing(path: &Path) -> &Path {
    path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"))
}

/// The file system a path is (or will be) on, by the magic numbers of linux/magic.h.
pub(super) fn file_system(path: &Path) -> Result<&'static str, rustix::io::Errno> {
    Ok(match statfs(existing(path))?.f_type {
        0x0102_1994 => "tmpfs",
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x794C_7630 => "overlay",
        0x6969 => "nfs",
        0x2FC1_2FC1 => "zfs",
        0x8584_58F6 => "ramfs",
        _ => "another file system",
    })
}

fn state(path: &Path) -> Check {
    const NAME: &str = "state directory";
    match file_system(path) {
        Ok(kind @ ("tmpfs" | "ramfs")) => Check::ok(NAME, format!("{} is on {kind}", path.display())),
        Ok(kind) => Check::warn(
            NAME,
            format!(
                "{} is on {kind}, not on a tmpfs: what should die with the boot stays, and writes cost more",
                path.display()
            ),
            STATE_REMEDY,
        ),
        Err(e) => Check::fail(NAME, format!("{}: {e}", path.display()), STATE_REMEDY),
    }
}

fn root(path: &Path) -> Check {
    const NAME: &str = "root directory";
    match file_system(path) {
        Ok(kind @ ("tmpfs" | "ramfs")) => Check::warn(
            NAME,
            format!(
                "{} is on {kind}: CNI's results are lost with the boot, and addresses leak",
                path.display()
            ),
            "set root to a directory on a disk",
        ),
        Ok(kind @ ("overlay" | "nfs")) => Check::warn(
            NAME,
            format!("{} is on {kind}, which cannot carry images' layers", path.display()),
            "set root to a directory on ext4, xfs or btrfs",
        ),
        Ok(kind) => Check::ok(NAME, format!("{} is on {kind}", path.display())),
        Err(e) => Check::fail(NAME, format!("{}: {e}", path.display()), "set root to a directory on a disk"),
    }
}

fn inotify() -> Check {
    const NAME: &str = "inotify";
    const FILE: &str = "/proc/sys/fs/inotify/max_user_instances";
    match number(FILE) {
        Some(limit) if limit >= INOTIFY_MIN => Check::ok(NAME, format!("{limit} instances per user")),
        Some(limit) => Check::warn(
            NAME,
            format!("{limit} instances per user: changes of the CNI configuration may go unseen"),
            "sysctl fs.inotify.max_user_instances=8192",
        ),
        None => Check::warn(NAME, format!("{FILE} cannot be read"), "use a kernel with CONFIG_INOTIFY_USER"),
    }
}
