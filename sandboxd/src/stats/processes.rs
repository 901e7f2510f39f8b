//! Descriptors, sockets and threads of the processes in a cgroup.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, readlinkat, statat};

use crate::cgroup::Cgroups;

/// Descriptors that are looked at one by one to find sockets; a container with more has its sockets not counted.
const MAX_LOOKED_AT: u64 = 20_000;

/// What the processes of a container have open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Processes {
    pub descriptors: u64,
    /// `None`: too many descriptors to look at.
    pub sockets: Option<u64>,
    pub threads: u64,
    /// RLIMIT_NOFILE of the first process; -1: no limit.
    pub open_files_limit: Option<i64>,
}

/// Of the cgroup at a path; `None` where it has no process.
pub(super) fn of(cgroups: &Cgroups, cgroup: &str) -> Option<Processes> {
    let mut all = Processes { sockets: Some(0), ..Processes::default() };
    let mut found = false;
    for pid in cgroups.pids(cgroup) {
        // A descriptor of its directory is of this process for good; that the process is still one of the
        // cgroup is asked through it.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(process) = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()) else { continue };
        let member = text(&process, "cgroup").is_some_and(|text| {
            text.lines().any(|line| line.splitn(3, ':').nth(2).is_some_and(|path| path.starts_with(cgroup)))
        });
        if !member {
            continue;
        }
        if !found {
            all.open_files_limit = text(&process, "limits").as_deref().and_then(open_files);
        }
        found = true;
        if let Some(status) = text(&process, "status") {
            let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
            all.threads += threads.and_then(|n| n.trim().parse::<u64>().ok()).unwrap_or(0);
        }
        let Ok(fds) = openat(&process, "fd", flags, Mode::empty()) else { continue };
        // Its size is how many there are, from Linux 6.2 on.
        let size = statat(&process, "fd", AtFlags::empty()).map_or(0, |stat| stat.st_size);
        let open = u64::try_from(size).ok().filter(|n| *n > 0);
        if all.descriptors + open.unwrap_or(0) > MAX_LOOKED_AT {
            all.sockets = None;
        }
        match (open, all.sockets) {
            (Some(open), None) => all.descriptors += open,
            _ => {
                let (open, sockets) = look(&fds);
                all.descriptors += open;
                all.sockets = all.sockets.map(|before| before + sockets);
            }
        }
    }
    found.then_some(all)
}

fn text(process: &OwnedFd, file: &str) -> Option<String> {
    let fd = openat(process, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut text = String::new();
    File::from(fd).read_to_string(&mut text).ok()?;
    Some(text)
}

/// How many descriptors there are, and how many of them are sockets.
fn look(fds: &OwnedFd) -> (u64, u64) {
    let Ok(entries) = Dir::read_from(fds.as_fd()) else { return (0, 0) };
    let mut counted = (0, 0);
    for entry in entries.filter_map(Result::ok) {
        if matches!(entry.file_name().to_bytes(), b"." | b"..") {
            continue;
        }
        counted.0 += 1;
        let target = readlinkat(fds, entry.file_name(), Vec::new());
        counted.1 += u64::from(target.is_ok_and(|target| target.as_bytes().starts_with(b"socket:")));
        if counted.0 > MAX_LOOKED_AT {
            break;
        }
    }
    counted
}

/// The soft limit of /proc/PID/limits' "Max open files".
fn open_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_whitespace().next()? {
        "unlimited" => Some(-1),
        number => number.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processs_descriptors() {
        let _socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let fds =
            rustix::fs::open("/proc/self/fd", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).unwrap();
        let (open, sockets) = look(&fds);
        assert!(open >= 4 && sockets >= 1 && open > sockets, "{open} {sockets}");
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap();
        assert!(open_files(&limits).unwrap() > 0);
    }
}
