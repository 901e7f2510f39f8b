//! What /proc says about processes and mounts.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

/// One process, as far as it could be read before it went.
#[derive(Debug, Clone)]
pub struct Process {
    pub pid: i32,
    pub parent: i32,
    pub command: String,
    environ: Vec<u8>,
    cgroups: String,
}

impl Process {
    /// Whether `marker` is part of its command line, environment or cgroup.
    #[must_use]
    pub fn mentions(&self, marker: &str) -> bool {
        let environ = String::from_utf8_lossy(&self.environ);
        self.command.contains(marker) || environ.contains(marker) || self.cgroups.contains(marker)
    }
}

/// All processes but this one. Zombies are left out: they hold nothing.
#[must_use]
pub fn all() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let own = std::process::id().to_string();
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| *name != own)
        .filter_map(|name| read(name.parse().ok()?))
        .collect()
}

/// One process; `None` when it is gone or a zombie.
#[must_use]
pub fn read(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold anything, parentheses too: the fields begin after the last one.
    let (head, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    let parent = fields.next()?.parse().ok()?;
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let words = cmdline.split(|b| *b == 0).map(|w| String::from_utf8_lossy(w).into_owned());
    let command = words.collect::<Vec<_>>().join(" ").trim().to_owned();
    let comm = head.split_once(" (").map_or("", |(_, comm)| comm);
    Some(Process {
        pid,
        parent,
        command: if command.is_empty() { format!("[{comm}]") } else { command },
        environ: fs::read(format!("/proc/{pid}/environ")).unwrap_or_default(),
        cgroups: fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default(),
    })
}

/// A field of /proc/PID/status, e.g. "Uid".
///
/// # Errors
/// When the process is gone or has no such field.
pub fn status_field(pid: i32, name: &str) -> Result<String> {
    let path = format!("/proc/{pid}/status");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
        .map(|value| value.split_whitespace().collect::<Vec<_>>().join(" "))
        .with_context(|| format!("no {name} in {path}"))
}

/// Proportional set size in KiB (smaps_rollup).
///
/// # Errors
/// When the process is gone.
pub fn pss_kib(pid: i32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    let value = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss line")?;
    Ok(value.trim().trim_end_matches(" kB").trim().parse()?)
}

/// Mount points of this process's mount namespace.
#[must_use]
pub fn mount_points() -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(|line| line.split(' ').nth(4)).map(str::to_owned).collect()
}

/// One line of another process's mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub point: String,
    pub options: String,
    pub fs_type: String,
    pub super_options: String,
}

/// The mounts a process sees.
///
/// # Errors
/// When the process is gone.
pub fn mounts_of(pid: i32) -> Result<Vec<Mount>> {
    let path = format!("/proc/{pid}/mountinfo");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(text.lines().filter_map(parse_mount).collect())
}

fn parse_mount(line: &str) -> Option<Mount> {
    let (front, back) = line.split_once(" - ")?;
    let mut front = front.split(' ').skip(4);
    let mut back = back.split(' ');
    Some(Mount {
        point: front.next()?.to_owned(),
        options: front.next()?.to_owned(),
        fs_type: back.next()?.to_owned(),
        super_options: back.nth(1).unwrap_or_default().to_owned(),
    })
}

/// A file as the process sees it, with the pod's root.
///
/// # Errors
/// When the process or the file is gone.
pub fn read_inside(pid: i32, path: &str) -> Result<String> {
    let full = format!("/proc/{pid}/root{path}");
    fs::read_to_string(&full).with_context(|| format!("reading {full}"))
}

/// The names in a directory as the process sees it.
///
/// # Errors
/// When the process or the directory is gone.
pub fn list_inside(pid: i32, path: &str) -> Result<Vec<String>> {
    let full = format!("/proc/{pid}/root{path}");
    let entries = fs::read_dir(&full).with_context(|| format!("reading {full}"))?;
    let mut names: Vec<_> = entries.flatten().filter_map(|e| e.file_name().into_string().ok()).collect();
    names.sort();
    Ok(names)
}

/// Whether a process of this pid is there.
#[must_use]
pub fn alive(pid: i32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && read(pid).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mountinfo_line_with_optional_fields() {
        let line = "36 35 98:0 / /sys rw,noatime shared:1 master:2 - sysfs sysfs rw,errors=continue";
        let mount = parse_mount(line).unwrap();
        assert_eq!(
            (
                mount.point.as_str(),
                mount.options.as_str(),
                mount.fs_type.as_str(),
                mount.super_options.as_str()
            ),
            ("/sys", "rw,noatime", "sysfs", "rw,errors=continue")
        );
    }

    #[test]
    fn this_process_is_not_among_all_but_can_be_read() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(all().iter().all(|p| p.pid != own));
        assert!(read(own).unwrap().parent > 0);
        assert!(pss_kib(own).unwrap() > 0);
    }
}
