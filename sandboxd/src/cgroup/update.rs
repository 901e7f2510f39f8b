//! New limits for a cgroup that is in use: all of them, or none and an error.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::CgroupError;
use super::files::{self, put};
use super::limits::{Limits, Write};
use super::path::Planned;
use super::{Cgroups, Inner};
use crate::pod::spec::Resources;

/// `old` with what `new` asks for: CRI's updates name what changes. A new limit of memory alone leaves as much
/// swap as there was: none for a container that may not swap.
#[must_use]
pub fn merge(old: &Resources, new: &Resources) -> Resources {
    let swap = old.memory_swap_limit.map(|both| match (new.memory_limit, old.memory_limit) {
        (Some(new), Some(old)) if both > 0 => {
            let difference = i128::from(new) - i128::from(old);
            i64::try_from(i128::from(both) + difference).unwrap_or(i64::MAX)
        }
        _ => both,
    });
    let merged = |old: &BTreeMap<String, u64>, new: &BTreeMap<String, u64>| {
        let mut all = old.clone();
        all.extend(new.iter().map(|(k, v)| (k.clone(), *v)));
        all
    };
    let mut unified = old.unified.clone();
    unified.extend(new.unified.iter().map(|(k, v)| (k.clone(), v.clone())));
    Resources {
        cpu_period: new.cpu_period.or(old.cpu_period),
        cpu_quota: new.cpu_quota.or(old.cpu_quota),
        cpu_shares: new.cpu_shares.or(old.cpu_shares),
        memory_limit: new.memory_limit.or(old.memory_limit),
        memory_swap_limit: new.memory_swap_limit.or(swap),
        oom_score_adj: new.oom_score_adj.or(old.oom_score_adj),
        cpuset_cpus: new.cpuset_cpus.clone().or_else(|| old.cpuset_cpus.clone()),
        cpuset_mems: new.cpuset_mems.clone().or_else(|| old.cpuset_mems.clone()),
        hugepage_limits: merged(&old.hugepage_limits, &new.hugepage_limits),
        unified,
    }
}

/// A file that was written, and what was in it before.
struct Written {
    path: PathBuf,
    before: String,
}

impl Cgroups {
    /// Sets the limits of a cgroup anew: `resources`, raised by `overhead`, each that is asked for; [`merge`]
    /// makes them of the present ones and a request. On an error all are what they were.
    ///
    /// # Errors
    /// Names the limit that the kernel refused, or [`CgroupError::MemoryInUse`].
    pub fn update(
        &self,
        cgroup: &Planned,
        resources: &Resources,
        overhead: &Resources,
    ) -> Result<(), CgroupError> {
        let Inner { layout, .. } = &*self.inner;
        let limits = Limits::of(resources, overhead)?;
        let writes = if layout.is_v2() { limits.v2_anew()? } else { limits.v1_anew(layout.name())? };
        let mut targets = Vec::new();
        for write in &writes {
            if let Some(path) = files::target(layout, cgroup, write)? {
                targets.push((path, write));
            }
        }
        if layout.is_v2() {
            for (path, write) in targets.iter().filter(|(_, write)| write.file == "memory.max") {
                reclaim(path, write)?;
            }
        }
        let mut written = Vec::new();
        let outcome = apply(&targets, &mut written);
        if outcome.is_err() {
            restore(cgroup, written);
        }
        outcome
    }
}

/// Writes what differs. What the kernel finds invalid is tried again after the rest: a quota may be too much
/// for the old period, memory may be more than the old limit of memory and swap, which is still to come.
fn apply(targets: &[(PathBuf, &Write)], written: &mut Vec<Written>) -> Result<(), CgroupError> {
    let mut later = Vec::new();
    for (path, write) in targets {
        let before = fs::read_to_string(path).map_err(|source| CgroupError::Io {
            action: "reading",
            path: path.clone(),
            source,
        })?;
        let before = before.trim_end().to_owned();
        if before == write.value {
            continue;
        }
        match put(path, &write.value) {
            Ok(()) => written.push(Written { path: path.clone(), before }),
            Err(CgroupError::Write { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                later.push((path, write, before));
            }
            Err(error) => return Err(in_use(path, write).unwrap_or(error)),
        }
    }
    for (path, write, before) in later {
        put(path, &write.value)?;
        written.push(Written { path: path.clone(), before });
    }
    Ok(())
}

/// v1 says EBUSY where it could not bring the use of memory below the new limit.
fn in_use(path: &Path, write: &Write) -> Option<CgroupError> {
    let usage = match write.file.as_str() {
        "memory.limit_in_bytes" => "memory.usage_in_bytes",
        "memory.memsw.limit_in_bytes" => "memory.memsw.usage_in_bytes",
        _ => return None,
    };
    let (dir, limit) = (path.parent()?, write.value.parse().ok()?);
    let usage = fs::read_to_string(dir.join(usage)).ok()?.trim().parse().ok()?;
    (usage > limit).then(|| CgroupError::MemoryInUse { path: dir.to_owned(), limit, usage })
}

/// v2 takes any `memory.max`, and kills what does not fit. So the memory is reclaimed first, and where that
/// is not enough the limit stays.
fn reclaim(path: &Path, write: &Write) -> Result<(), CgroupError> {
    let (Some(dir), Ok(limit)) = (path.parent(), write.value.parse::<u64>()) else { return Ok(()) };
    let usage = || {
        let text = fs::read_to_string(dir.join("memory.current")).unwrap_or_default();
        text.trim().parse::<u64>().unwrap_or(0)
    };
    let before = usage();
    if before <= limit {
        return Ok(());
    }
    // EAGAIN: less could be had than was asked for. Kernels before 5.19 have no such file.
    if let Err(error) = put(&dir.join("memory.reclaim"), &(before - limit).to_string()) {
        tracing::debug!(dir = %dir.display(), %error, "memory not reclaimed");
    }
    match usage() {
        now if now > limit => Err(CgroupError::MemoryInUse { path: dir.to_owned(), limit, usage: now }),
        _ => Ok(()),
    }
}

/// Puts back what was written, last first. Again what is invalid is tried after the rest.
fn restore(cgroup: &Planned, mut written: Vec<Written>) {
    let put_back = |w: &Written| match w.before.as_str() {
        // An empty write is none; a line break empties a cpuset.
        "" => put(&w.path, "\n"),
        // A file of a line for each device takes them one by one.
        lines => lines.lines().try_for_each(|line| put(&w.path, line)),
    };
    let mut later = Vec::new();
    while let Some(one) = written.pop() {
        match put_back(&one) {
            Err(CgroupError::Write { source, .. }) if source.raw_os_error() == Some(libc::EINVAL) => {
                later.push(one);
            }
            Err(error) => warn(cgroup, &error),
            Ok(()) => {}
        }
    }
    for one in later {
        if let Err(error) = put_back(&one) {
            warn(cgroup, &error);
        }
    }
}

fn warn(cgroup: &Planned, error: &CgroupError) {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    let error: io::Error = io::Error::other(format!("{error}: {source}"));
    tracing::warn!(cgroup = cgroup.path(), %error, "a limit could not be put back after a failed update");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_what_changes() {
        let old = Resources {
            cpu_shares: Some(2),
            memory_limit: Some(100),
            memory_swap_limit: Some(100),
            hugepage_limits: BTreeMap::from([("2MB".to_owned(), 1)]),
            ..Resources::default()
        };
        let new = Resources {
            memory_limit: Some(300),
            cpuset_cpus: Some("0".into()),
            hugepage_limits: BTreeMap::from([("1GB".to_owned(), 2)]),
            ..Resources::default()
        };
        let merged = merge(&old, &new);
        assert_eq!((merged.cpu_shares, merged.memory_limit), (Some(2), Some(300)));
        assert_eq!(merged.memory_swap_limit, Some(300), "no swap, as before");
        assert_eq!((merged.cpuset_cpus.as_deref(), merged.hugepage_limits.len()), (Some("0"), 2));
        let swapping = Resources { memory_swap_limit: Some(150), ..old.clone() };
        assert_eq!(merge(&swapping, &new).memory_swap_limit, Some(350));
        let unlimited = Resources { memory_swap_limit: Some(-1), ..old.clone() };
        assert_eq!(merge(&unlimited, &new).memory_swap_limit, Some(-1));
        let asked = Resources { memory_swap_limit: Some(400), ..new };
        assert_eq!(merge(&old, &asked).memory_swap_limit, Some(400));
        assert_eq!(merge(&old, &Resources::default()), old);
    }
}
