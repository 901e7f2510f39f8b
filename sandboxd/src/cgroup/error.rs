//! Why a cgroup could not be found, planned, made, filled or removed.

use std::path::PathBuf;

/// An error of the cgroup room.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("{action} {path}")]
    Io {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("writing {value:?} to {path}")]
    Write {
        value: String,
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("no cgroup file system is mounted under {root}: mount cgroup2 there")]
    NotMounted { root: PathBuf },
    #[error("{parent:?} is no cgroup path: {problem}")]
    BadParent { parent: String, problem: &'static str },
    #[error("{parent:?} is a systemd slice and the cgroup driver is cgroupfs: set both to the same driver")]
    SliceForCgroupfs { parent: String },
    #[error(
        "{parent:?} is no systemd slice and the cgroup driver is systemd: give a name like \
         \"kubepods-burstable.slice\", or set both to cgroupfs"
    )]
    PathForSystemd { parent: String },
    #[error("{file} = {value} needs the {controller} controller, which {layout} does not offer in {dir}")]
    NoController { controller: String, file: String, value: String, layout: &'static str, dir: PathBuf },
    #[error("{file} = {value}: the kernel has no such file in {dir}{}", hint(.file))]
    NoFile { file: String, value: String, dir: PathBuf },
    #[error("unified resources ({keys}) need cgroup v2: this machine's cgroups are {layout}")]
    UnifiedOnV1 { keys: String, layout: &'static str },
    #[error("unified resource {key:?} is no file name of a cgroup controller")]
    UnifiedKey { key: String },
    #[error("the limit of memory and swap together ({both}) is less than the limit of memory ({memory})")]
    SwapBelowMemory { both: i64, memory: u64 },
    #[error("a limit of memory and swap together ({both}) needs a limit of memory as well")]
    SwapAlone { both: i64 },
    #[error(
        "cgroup {path} still has processes after {millis} ms: it is left, and removed when they are gone"
    )]
    Busy { path: PathBuf, millis: u128 },
    #[error("device rule {rule:?}: {problem}")]
    DeviceRule { rule: String, problem: &'static str },
    #[error(
        "memory limit {limit} is less than the {usage} bytes in use in {path}, which could not be reclaimed: \
         ask for more, or have the container use less first"
    )]
    MemoryInUse { path: PathBuf, limit: u64, usage: u64 },
    #[error("the systemd cgroup driver needs busctl (part of systemd), which is not on the path")]
    NoBusctl,
    #[error("systemd refused {method} of {unit}: {stderr}")]
    Systemd { method: &'static str, unit: String, stderr: String },
    #[error("systemd does not answer on the system bus: {stderr}")]
    NoBus { stderr: String },
    #[error("systemd did not move process {pid} into {unit} within {millis} ms")]
    SystemdSlow { pid: i32, unit: String, millis: u128 },
}

fn hint(file: &str) -> &'static str {
    if file.contains("memsw") || file.contains("swap") {
        " (swap accounting is off: boot with swapaccount=1, or drop the swap limit)"
    } else {
        ""
    }
}
