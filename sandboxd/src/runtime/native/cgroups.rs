//! A container's cgroups, known by their `cgroup.procs`: which hierarchy each is in, where, and how it is joined.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::plan::{detached, io, unsupported};
use crate::runtime::RuntimeError;

/// CGROUP2_SUPER_MAGIC (linux/magic.h).
const CGROUP2: u64 = 0x6367_7270;

/// The cgroup in one hierarchy.
#[derive(Debug)]
pub struct Cgroup {
    pub procs: OwnedFd,
    pub v2: bool,
    dir: PathBuf,
}

/// v1 hierarchies first.
pub fn ordered(procs: Vec<OwnedFd>) -> Result<Vec<Cgroup>, RuntimeError> {
    let mut all = procs.into_iter().map(known).collect::<Result<Vec<_>, _>>()?;
    all.sort_by_key(|cgroup| cgroup.v2);
    Ok(all)
}

fn known(procs: OwnedFd) -> Result<Cgroup, RuntimeError> {
    let action = || "looking at the container's cgroup".to_owned();
    let magic = rustix::fs::fstatfs(&procs).map_err(|errno| io(action(), errno))?.f_type;
    let path = std::fs::read_link(format!("/proc/self/fd/{}", procs.as_raw_fd()))
        .map_err(|source| RuntimeError::Io { action: action(), source })?;
    let dir = path.parent().ok_or_else(|| unsupported("a cgroup without a directory"))?.to_owned();
    let v2 = u64::try_from(magic) == Ok(CGROUP2);
    // A process of one thread may join by `tasks` as well, for which the kernel does not stop the forks of the
    // whole machine: without a grace period of some 7 ms.
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    let tasks = if v2 { None } else { rustix::fs::open(dir.join("tasks"), flags, Mode::empty()).ok() };
    Ok(Cgroup { procs: tasks.unwrap_or(procs), v2, dir })
}

/// The cgroup in which execs get cgroups of their own, opened, and its position: v2, which can kill; else a v1
/// hierarchy in which a further cgroup changes nothing.
pub fn for_execs(all: &[Cgroup]) -> Option<(OwnedFd, usize)> {
    let has = |file: &'static str| move |cgroup: &Cgroup| cgroup.dir.join(file).exists();
    let position = all
        .iter()
        .position(|cgroup| cgroup.v2)
        .or_else(|| all.iter().position(has("freezer.state")))
        .or_else(|| all.iter().position(has("pids.current")))?;
    let dir = &all.get(position)?.dir;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Some((rustix::fs::open(dir, flags, Mode::empty()).ok()?, position))
}

/// The same where an OCI runtime puts execs, and what it wants before the name of a cgroup there. It knows every
/// hierarchy of cgroup v1 by its controller; `v1`: it can.
pub fn for_oci_execs(procs: &[OwnedFd], v1: bool) -> Option<(OwnedFd, &'static str)> {
    let dir = |procs: &OwnedFd| {
        let path = std::fs::read_link(format!("/proc/self/fd/{}", procs.as_raw_fd())).ok()?;
        path.parent().map(Path::to_owned)
    };
    let dirs = procs.iter().map(dir).collect::<Option<Vec<_>>>()?;
    let with = |file: &str| dirs.iter().find(|dir| dir.join(file).exists());
    let (dir, prefix) = match &dirs[..] {
        [only] if only.join("cgroup.controllers").exists() => (only, ""),
        _ if !v1 => return None,
        _ => {
            with("freezer.state").zip(Some("freezer:")).or_else(|| with("pids.current").zip(Some("pids:")))?
        }
    };
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Some((rustix::fs::open(dir, flags, Mode::empty()).ok()?, prefix))
}

/// What a mount of type cgroup is made of.
#[derive(Debug)]
pub enum Mounts {
    /// The container's directory of the one hierarchy.
    Unified(OwnedFd),
    /// One for each hierarchy, and links for the parts of names such as "cpu,cpuacct".
    Split { dirs: Vec<(String, OwnedFd)>, links: Vec<(String, String)> },
}

/// The container's own directories as detached mounts.
pub fn mounts(all: &[Cgroup]) -> Result<Mounts, RuntimeError> {
    if let [only] = all
        && only.v2
    {
        return Ok(Mounts::Unified(detached(&only.dir, false)?));
    }
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").map_err(|source| RuntimeError::Io {
        action: "reading /proc/self/mountinfo for the cgroup hierarchies".into(),
        source,
    })?;
    let (mut dirs, mut links) = (Vec::new(), Vec::new());
    for cgroup in all {
        let name = hierarchy(&mountinfo, &cgroup.dir).ok_or_else(|| {
            unsupported(format_args!("a cgroup in {}, which is no mount", cgroup.dir.display()))
        })?;
        for part in name.split(',').filter(|part| *part != name) {
            links.push((part.to_owned(), name.clone()));
        }
        dirs.push((name, detached(&cgroup.dir, false)?));
    }
    Ok(Mounts::Split { dirs, links })
}

/// The name of the hierarchy that a directory is in: the last part of where it is mounted.
fn hierarchy(mountinfo: &str, dir: &Path) -> Option<String> {
    mountinfo
        .lines()
        .filter(|line| line.contains(" - cgroup"))
        .filter_map(|line| line.split(' ').nth(4))
        .filter(|mount| dir.starts_with(mount))
        .max_by_key(|mount| mount.len())
        .and_then(|mount| Path::new(mount).file_name()?.to_str().map(str::to_owned))
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.procs.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hierarchy_is_named_after_its_mount() {
        let mountinfo = "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
             31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let name = |dir: &str| hierarchy(mountinfo, Path::new(dir));
        assert_eq!(name("/sys/fs/cgroup/cpu,cpuacct/kubepods/x").as_deref(), Some("cpu,cpuacct"));
        assert_eq!(name("/sys/fs/cgroup/unified/kubepods/x").as_deref(), Some("unified"));
        assert_eq!(name("/elsewhere"), None);
    }
}
