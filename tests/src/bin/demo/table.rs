//! The table of a pod's namespaces: inodes and owners asked of the kernel, not of the daemon.

use anyhow::Result;
use sandboxd_tests::{ns, proc};

use crate::say;

const MEANING: [(&str, &str); 7] = [
    ("user", "ids and capabilities"),
    ("net", "interfaces, addresses, /sys"),
    ("mnt", "mounts"),
    ("pid", "processes"),
    ("ipc", "shared memory, queues"),
    ("uts", "hostname"),
    ("cgroup", "view of the cgroups"),
];

/// Prints it.
pub fn namespaces(pid: i32) -> Result<()> {
    let host = ns::own("user")?;
    let pod = ns::inode_of(pid, "user")?;
    say::raw("     namespace       inode   owned by                holds");
    for (kind, meaning) in MEANING {
        let inode = ns::inode_of(pid, kind)?;
        // NS_GET_USERNS of a user namespace is its parent.
        let owner = ns::owner_of(pid, kind)?;
        let whose = match owner {
            _ if inode == ns::own(kind)? => "shared with the host".to_owned(),
            owner if owner == pod => format!("{owner} the pod"),
            owner if owner == host => format!("{owner} the host"),
            owner => format!("{owner} another"),
        };
        say::raw(&format!("     {kind:<10} {inode:>10}   {whose:<23} {meaning}"));
    }
    Ok(())
}

/// What is on /sys, in words.
pub fn sysfs(pid: i32) -> Result<String> {
    let mounts = proc::mounts_of(pid)?;
    let Some(mount) = mounts.iter().find(|m| m.point == "/sys") else {
        return Ok("nothing is mounted there".to_owned());
    };
    let mode = if mount.options.split(',').any(|o| o == "ro") { "read-only" } else { "writable" };
    let links = proc::list_inside(pid, "/sys/class/net")?.join(", ");
    Ok(format!("{} mounted inside, {mode}; its /sys/class/net shows {links}", mount.fs_type))
}

/// The id mapping, in words.
pub fn ids(pid: i32) -> Result<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/uid_map"))?;
    let numbers: Vec<u64> = text.split_whitespace().filter_map(|n| n.parse().ok()).collect();
    Ok(match numbers.as_slice() {
        [inside, outside, length] => format!(
            "{inside}–{} in the pod are {outside}–{} on the host",
            inside + length - 1,
            outside + length - 1
        ),
        _ => text,
    })
}
