//! `oom_score_adj` of the processes in a cgroup: a property of each, inherited over fork, that no cgroup has.

use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::error::CgroupError;
use super::path::Planned;
use super::{Cgroups, files};

/// What is forked while the others are written has the old value: it is found the next time.
const ROUNDS: u32 = 8;

impl Cgroups {
    /// Gives `to` to the processes of the cgroup that have `from`; one that chose its own value keeps it.
    ///
    /// # Errors
    /// When the kernel refuses: to lower it takes CAP_SYS_RESOURCE. Some may have been written then.
    pub fn set_oom_score(&self, cgroup: &Planned, from: i32, to: i32) -> Result<(), CgroupError> {
        let Some(dir) = self.inner.layout.mounts().next().map(|mount| cgroup.below(mount)) else {
            return Ok(());
        };
        for _ in 0..ROUNDS {
            let mut pids = Vec::new();
            let listed = files::processes(&dir, 0, &mut pids);
            listed.map_err(|source| CgroupError::Io { action: "reading", path: dir.clone(), source })?;
            let mut changed = false;
            for pid in pids {
                changed |= one(pid, cgroup.path(), from, to).map_err(|source| CgroupError::Write {
                    value: to.to_string(),
                    path: format!("/proc/{pid}/oom_score_adj").into(),
                    source,
                })?;
            }
            if !changed {
                break;
            }
        }
        Ok(())
    }
}

/// Whether it was written. A process that has ended, or is not of the cgroup, is passed over.
fn one(pid: i32, cgroup: &str, from: i32, to: i32) -> io::Result<bool> {
    // A descriptor of its directory is of this process for good, and so is what is asked and written through it.
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(process) = rustix::fs::open(format!("/proc/{pid}"), flags, Mode::empty()) else {
        return Ok(false);
    };
    let set = || {
        let below = |path: &str| {
            path.strip_prefix(cgroup).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let member = text(&process, "cgroup")?;
        let member = member.lines().any(|line| line.splitn(3, ':').nth(2).is_some_and(below));
        if !member || text(&process, "oom_score_adj")?.trim().parse() != Ok(from) {
            return Ok(false);
        }
        let fd = openat(&process, "oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
        fs::File::from(fd).write_all(to.to_string().as_bytes()).map(|()| true)
    };
    match set() {
        Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::SRCH | Errno::NOENT)) => Ok(false),
        other => other,
    }
}

fn text(process: &OwnedFd, file: &str) -> io::Result<String> {
    let fd = openat(process, file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = String::new();
    fs::File::from(fd).read_to_string(&mut text)?;
    Ok(text)
}
