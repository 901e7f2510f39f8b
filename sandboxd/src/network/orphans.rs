//! Plugins that outlived their daemon.
//!
//! A daemon that is killed leaves a plugin running. An ADD that ends after the next daemon's DEL would
//! leave an address behind that nobody knows of, so it is ended first. Found by what only a plugin run has:
//! CNI_CONTAINERID of that pod in its environment. The plugins it started have inherited it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::pod::model::PodId;

/// A killed process is gone within microseconds, unless it sleeps in the kernel.
const PATIENCE: Duration = Duration::from_secs(2);

/// Kills the plugins of a pod that are still running, and waits for their end. Returns how many.
///
/// # Errors
/// When /proc cannot be read.
pub(super) fn end(pod: &PodId) -> io::Result<usize> {
    let wanted = format!("CNI_CONTAINERID={pod}");
    let mut ended = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw) else { continue };
        // The descriptor first: what is read after it is of the process it names, or of nothing.
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { continue };
        if is_plugin(pid, &wanted) && pidfd_send_signal(&pidfd, Signal::KILL).is_ok() {
            ended.push(pidfd);
        }
    }
    let deadline = Instant::now() + PATIENCE;
    ended.iter().for_each(|pidfd| wait(pidfd, deadline));
    Ok(ended.len())
}

fn is_plugin(pid: Pid, wanted: &str) -> bool {
    let environ = fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).unwrap_or_default();
    environ.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
}

fn wait(pidfd: &OwnedFd, deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let Ok(timeout) = Timespec::try_from(left) else { return };
    let _ = poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&timeout));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn only_the_pods_own_plugins_are_ended() {
        let pod = PodId::random().unwrap();
        let run = |id: &str| Command::new("sleep").arg("30").env("CNI_CONTAINERID", id).spawn().unwrap();
        let (mut plugin, mut other) = (run(pod.as_str()), run("another"));
        // A process that has just begun its program may have no environment to show yet.
        let begun = Instant::now();
        while end(&pod).unwrap() != 1 {
            assert!(begun.elapsed() < Duration::from_secs(20), "it is not found");
        }
        assert!(!plugin.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none(), "another pod's plugin was ended");
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(end(&pod).unwrap(), 0);
    }
}
