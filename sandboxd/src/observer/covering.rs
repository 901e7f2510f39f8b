//! Mounts that hide a part of sysfs or proc: what `mount_too_revealing` of fs/namespace.c looks for.
//!
//! A user namespace may mount sysfs or proc anew only if its mount namespace already shows one of the same
//! type in full: mounted from its root, with no other mount over a directory that is not always empty. The
//! kernel returns EPERM and no capability check is denied, so a stream of checks cannot show it; the mount
//! table of the process can.
//!
//! The table does not say which mounts are *locked* (came from a more privileged mount namespace); mounts
//! the process itself made over its /sys are named too, though they would not stand in the way.

use std::fmt;
use std::path::PathBuf;

/// What stands in the way of a new sysfs or proc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Covering {
    /// Mounts over parts of each visible file system of the type, as (path, type) of the process's table.
    Mounts(Vec<(PathBuf, String)>),
    /// No file system of the type is in the table at all: nothing is fully visible.
    NoneVisible,
    /// Each visible one is read-only, and the new one was to be writable.
    ReadOnly,
    /// Nothing in the table: it was not this, or another security module refused.
    Nothing,
    /// The process was gone before its table was read.
    Gone,
}

impl Covering {
    /// A few words for a line.
    #[must_use]
    pub fn brief(&self) -> String {
        match self {
            Self::Mounts(mounts) => match mounts.as_slice() {
                [(path, _)] => format!("{} is covered", path.display()),
                [(path, _), rest @ ..] => format!("{} and {} more are covered", path.display(), rest.len()),
                [] => "covered".to_string(),
            },
            Self::NoneVisible => "none of its type is visible".to_string(),
            Self::ReadOnly => "the visible one is read-only".to_string(),
            Self::Nothing => "nothing covers it".to_string(),
            Self::Gone => "the process is gone".to_string(),
        }
    }
}

impl fmt::Display for Covering {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mounts(mounts) => {
                let names: Vec<_> =
                    mounts.iter().map(|(path, fs_type)| format!("{} ({fs_type})", path.display())).collect();
                write!(f, "mounted over it: {}", names.join(", "))
            }
            other => f.write_str(&other.brief()),
        }
    }
}

/// Directories that the kernel keeps always empty as places to mount on (sysfs_create_mount_point,
/// proc_create_mount_point, register_sysctl_mount_point): a mount there hides nothing.
const ALWAYS_EMPTY: [&str; 16] = [
    "/fs/bpf",
    "/fs/cgroup",
    "/fs/fuse/connections",
    "/fs/nfsd",
    "/fs/pstore",
    "/fs/resctrl",
    "/fs/selinux",
    "/fs/smackfs",
    "/firmware/efi/efivars",
    "/hypervisor/s390",
    "/kernel/config",
    "/kernel/debug",
    "/kernel/security",
    "/kernel/tracing",
    "/openprom",
    "/sys/fs/binfmt_misc",
];

/// What covers the file systems of a type in the mount namespace of a process.
#[must_use]
pub fn covering_mounts(pid: i32, fs_type: &str) -> Covering {
    match std::fs::read_to_string(format!("/proc/{pid}/mountinfo")) {
        // A process that has let go of its mounts on its way out has an empty table.
        Ok(table) if !table.is_empty() => covering(&table, fs_type),
        _ => Covering::Gone,
    }
}

#[derive(Debug)]
struct Mount<'a> {
    id: &'a str,
    parent: &'a str,
    root: &'a str,
    point: String,
    read_only: bool,
    fs_type: &'a str,
}

fn covering(table: &str, fs_type: &str) -> Covering {
    let mounts: Vec<Mount<'_>> = table.lines().filter_map(parse).collect();
    let whole: Vec<_> = mounts.iter().filter(|m| m.fs_type == fs_type && m.root == "/").collect();
    if whole.is_empty() {
        return Covering::NoneVisible;
    }
    let mut covers: Vec<(PathBuf, String)> = Vec::new();
    let mut open = Vec::new();
    for base in whole {
        let over: Vec<_> = mounts.iter().filter(|m| m.parent == base.id && hides(base, m)).collect();
        if over.is_empty() {
            open.push(base);
        }
        covers.extend(over.iter().map(|m| (PathBuf::from(&m.point), m.fs_type.to_string())));
    }
    if open.is_empty() {
        Covering::Mounts(covers)
    } else if open.iter().all(|m| m.read_only) {
        Covering::ReadOnly
    } else {
        Covering::Nothing
    }
}

fn hides(base: &Mount<'_>, child: &Mount<'_>) -> bool {
    let inside = child.point.strip_prefix(base.point.trim_end_matches('/')).unwrap_or(&child.point);
    !ALWAYS_EMPTY.contains(&inside)
}

/// A line of proc_pid_mountinfo(5).
fn parse(line: &str) -> Option<Mount<'_>> {
    let (left, right) = line.split_once(" - ")?;
    let mut fields = left.split(' ');
    let (id, parent, _device) = (fields.next()?, fields.next()?, fields.next()?);
    let (root, point, options) = (fields.next()?, fields.next()?, fields.next()?);
    let read_only = options.split(',').any(|o| o == "ro");
    Some(Mount { id, parent, root, point: unescape(point), read_only, fs_type: right.split(' ').next()? })
}

/// Space, tab, newline and backslash are octal escapes.
fn unescape(field: &str) -> String {
    let mut out = field.to_string();
    for (escape, plain) in [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")] {
        if out.contains(escape) {
            out = out.replace(escape, plain);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: &str = "20 1 0:18 / /sys rw,nosuid - sysfs sysfs rw\n\
                        21 20 0:7 / /sys/kernel/security rw - securityfs securityfs rw\n\
                        22 20 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n";

    #[test]
    fn a_mount_on_an_always_empty_directory_hides_nothing() {
        assert_eq!(covering(OPEN, "sysfs"), Covering::Nothing);
    }

    #[test]
    fn a_mount_on_a_full_directory_is_named() {
        let table = format!("{OPEN}23 20 0:30 / /sys/class\\040x rw - tmpfs none rw\n");
        let expected = Covering::Mounts(vec![("/sys/class x".into(), "tmpfs".to_string())]);
        assert_eq!(covering(&table, "sysfs"), expected);
        assert_eq!(expected.brief(), "/sys/class x is covered");
    }

    #[test]
    fn one_open_file_system_is_enough() {
        let table = format!(
            "{OPEN}23 20 0:30 / /sys/class rw - tmpfs none rw\n24 1 0:18 / /mnt/sys rw - sysfs sysfs rw\n"
        );
        assert_eq!(covering(&table, "sysfs"), Covering::Nothing);
    }

    #[test]
    fn a_part_of_sysfs_is_not_a_visible_sysfs() {
        let table = "20 1 0:18 /class /sys/class rw - sysfs sysfs rw\n";
        assert_eq!(covering(table, "sysfs"), Covering::NoneVisible);
        assert_eq!(covering(OPEN, "proc"), Covering::NoneVisible);
    }

    #[test]
    fn a_read_only_one_cannot_be_mounted_writable() {
        let table = "20 1 0:18 / /sys ro,nosuid - sysfs sysfs rw\n";
        assert_eq!(covering(table, "sysfs"), Covering::ReadOnly);
    }
}
