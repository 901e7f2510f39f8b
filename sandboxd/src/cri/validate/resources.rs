//! `LinuxContainerResources` of the pod: 0 and "" are proto3's "not set".

use std::collections::BTreeMap;

use sandboxd_api::cri;

use super::{Invalid, Why, count, text};
use crate::pod::spec::Resources;

/// Microseconds: the kernel's bounds (`min_cfs_quota_period`, `max_cfs_quota_period`).
const CPU_PERIOD: (i64, i64) = (1_000, 1_000_000);
const CPU_QUOTA_MIN: i64 = 1_000;
/// `MIN_SHARES` and `MAX_SHARES` of the scheduler.
const CPU_SHARES: (i64, i64) = (2, 262_144);
/// proc_pid_oom_score_adj(5).
const OOM_SCORE_ADJ: (i64, i64) = (-1000, 1000);
const CPU_LIST_MAX: usize = 4095;
const ENTRIES_MAX: usize = 256;

/// # Errors
/// The first field that no cgroup can carry out.
pub fn resources(field: &str, resources: Option<cri::LinuxContainerResources>) -> Result<Resources, Invalid> {
    any_resources(field, resources, false)
}

/// [`resources`] of an update, in which what is not set stays as it is.
///
/// # Errors
/// Those of [`resources`].
pub fn changed_resources(
    field: &str,
    resources: Option<cri::LinuxContainerResources>,
) -> Result<Resources, Invalid> {
    any_resources(field, resources, true)
}

fn any_resources(
    field: &str,
    resources: Option<cri::LinuxContainerResources>,
    is_change: bool,
) -> Result<Resources, Invalid> {
    let Some(r) = resources else { return Ok(Resources::default()) };
    let at = |name: &str| format!("{field}.{name}");
    let cpu_period = range(&at("cpu_period"), r.cpu_period, CPU_PERIOD)?;
    let cpu_shares = range(&at("cpu_shares"), r.cpu_shares, CPU_SHARES)?;
    let oom_score_adj = range(&at("oom_score_adj"), r.oom_score_adj, OOM_SCORE_ADJ)?;
    let cpu_quota = match r.cpu_quota {
        0 => None,
        quota if quota == -1 || quota >= CPU_QUOTA_MIN => Some(quota),
        quota => return Err(Invalid::new(at("cpu_quota"), quota, Why::CpuQuota)),
    };
    let memory_limit = u64::try_from(r.memory_limit_in_bytes)
        .map_err(|_| Invalid::new(at("memory_limit_in_bytes"), r.memory_limit_in_bytes, Why::MemoryLimit))?;
    let memory_swap_limit = match r.memory_swap_limit_in_bytes {
        0 => None,
        swap if swap == -1 || (memory_limit > 0 && swap >= r.memory_limit_in_bytes) => Some(swap),
        // Compared with the limit that is there.
        swap if is_change && memory_limit == 0 && swap > 0 => Some(swap),
        swap => return Err(Invalid::new(at("memory_swap_limit_in_bytes"), swap, Why::SwapLimit)),
    };
    Ok(Resources {
        cpu_period,
        cpu_quota,
        cpu_shares,
        memory_limit: (memory_limit > 0).then_some(memory_limit),
        memory_swap_limit,
        oom_score_adj,
        cpuset_cpus: cpu_list(&at("cpuset_cpus"), r.cpuset_cpus)?,
        cpuset_mems: cpu_list(&at("cpuset_mems"), r.cpuset_mems)?,
        hugepage_limits: hugepages(&at("hugepage_limits"), r.hugepage_limits)?,
        unified: unified(&at("unified"), r.unified)?,
    })
}

fn range<T: TryFrom<i64>>(field: &str, value: i64, (min, max): (i64, i64)) -> Result<Option<T>, Invalid> {
    if value == 0 {
        return Ok(None);
    }
    let inside = (min..=max).contains(&value).then_some(value).and_then(|v| T::try_from(v).ok());
    inside.map(Some).ok_or_else(|| Invalid::new(field, value, Why::Range { min, max }))
}

/// The list format of cpuset(7): "0-3,8".
fn cpu_list(field: &str, list: String) -> Result<Option<String>, Invalid> {
    if list.is_empty() {
        return Ok(None);
    }
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u16>().ok()).flatten();
    let part = |part: &str| match part.split_once('-') {
        None => number(part).is_some(),
        Some((from, to)) => number(from).zip(number(to)).is_some_and(|(from, to)| from <= to),
    };
    if list.len() > CPU_LIST_MAX || !list.split(',').all(part) {
        return Err(Invalid::new(field, list, Why::CpuList));
    }
    Ok(Some(list))
}

fn hugepages(field: &str, limits: Vec<cri::HugepageLimit>) -> Result<BTreeMap<String, u64>, Invalid> {
    count(field, limits.len(), ENTRIES_MAX)?;
    let mut kept = BTreeMap::new();
    for (i, limit) in limits.into_iter().enumerate() {
        let at = format!("{field}[{i}].page_size");
        let size = limit.page_size;
        let digits = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit));
        let fine = digits.is_some_and(|d| {
            (1..=6).contains(&d.len()) && !d.starts_with('0') && d.bytes().all(|b| b.is_ascii_digit())
        });
        if !fine {
            return Err(Invalid::new(at, size, Why::PageSize));
        }
        if kept.contains_key(&size) {
            return Err(Invalid::new(at, size, Why::Twice));
        }
        kept.insert(size, limit.limit);
    }
    Ok(kept)
}

fn unified(
    field: &str,
    files: std::collections::HashMap<String, String>,
) -> Result<BTreeMap<String, String>, Invalid> {
    count(field, files.len(), ENTRIES_MAX)?;
    let files: BTreeMap<_, _> = files.into_iter().collect();
    for (name, value) in &files {
        let at = format!("{field}[{name:?}]");
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
        // Every settable file has its controller before a dot; this leaves out ".." and cgroup's own.
        let controller = name.split_once('.').is_some_and(|(c, f)| !c.is_empty() && !f.is_empty());
        if !controller || name.len() > 255 || !name.bytes().all(allowed) || name.starts_with("cgroup.") {
            return Err(Invalid::new(at, value, Why::UnifiedName));
        }
        text(&at, value, CPU_LIST_MAX)?;
    }
    Ok(files)
}
