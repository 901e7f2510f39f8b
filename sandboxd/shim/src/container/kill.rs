//! Signals to many processes: of a cgroup, of a tree.
//!
//! A pid that was read may be another process's by the time it is used. So each is turned into a pidfd, and the
//! list is read again: who is in both, with a pidfd from between, is the one that was meant.

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::child::{raw_signal, readable};

/// How often what a dying tree forks is looked for: a fork bomb is stopped by its cgroup, not by this.
const ROUNDS: usize = 64;
/// For the killed to end.
const END: Duration = Duration::from_secs(1);

/// Signals what `list` gives, once.
pub fn signal_all(list: impl Fn() -> Vec<i32>, signal: i32) {
    for (_, pidfd) in certain(list) {
        let _ = raw_signal(std::os::fd::AsFd::as_fd(&pidfd), signal);
    }
}

/// Kills what `list` gives until it gives nothing more.
pub fn kill_all(list: impl Fn() -> Vec<i32>) {
    let deadline = Instant::now() + END;
    for _ in 0..ROUNDS {
        let found = certain(&list);
        if found.is_empty() {
            return;
        }
        for (_, pidfd) in &found {
            let _ = raw_signal(std::os::fd::AsFd::as_fd(pidfd), libc::SIGKILL);
        }
        for (_, pidfd) in &found {
            let _ = readable(std::os::fd::AsFd::as_fd(pidfd), deadline);
        }
        if Instant::now() >= deadline {
            return;
        }
    }
}

/// The processes that `list` gives, before and after their pidfds were taken, but for those that have ended.
fn certain(list: impl Fn() -> Vec<i32>) -> Vec<(i32, OwnedFd)> {
    let mut found: Vec<(i32, OwnedFd)> = list()
        .into_iter()
        .filter_map(|pid| Some((pid, pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?)))
        .filter(|(_, pidfd)| {
            // A zombie is in lists until it is reaped.
            readable(std::os::fd::AsFd::as_fd(pidfd), Instant::now()) == Ok(false)
        })
        .collect();
    if !found.is_empty() {
        let again = list();
        found.retain(|(pid, _)| again.contains(pid));
    }
    found
}

/// The pids of a cgroup, through its `cgroup.procs`, which may be open for writing only. Those of v1's `tasks` are
/// those of threads too, for which there are no pidfds.
pub fn members(procs: BorrowedFd<'_>) -> Option<Vec<i32>> {
    let text = std::fs::read_to_string(format!("/proc/self/fd/{}", procs.as_raw_fd())).ok()?;
    Some(text.lines().filter_map(|line| line.parse().ok()).filter(|pid| *pid > 0).collect())
}

/// A process and all its descendants. Whose parent has ended is not found: it is somebody else's child by then.
pub fn tree(root: i32) -> Vec<i32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for thread in threads.flatten() {
            let Ok(children) = std::fs::read_to_string(thread.path().join("children")) else { continue };
            found.extend(children.split_whitespace().filter_map(|child| child.parse::<i32>().ok()));
        }
    }
    found
}
