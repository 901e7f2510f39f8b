//! A pod's limits: resources and overhead added up, as writes to cgroup files.
//!
//! Overhead raises a limit that is there; it never makes one, for the overhead alone would then bound the
//! whole pod. Shares are a weight, not a bound: they add up from either side.

use std::collections::BTreeMap;

use crate::pod::spec::Resources;

use super::error::CgroupError;

/// The kernel's default `cpu.cfs_period_us`, in microseconds.
const PERIOD: u64 = 100_000;

/// One value for one file of a controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub controller: String,
    pub file: String,
    pub value: String,
    /// It only says that nothing is swapped.
    pub no_swap: bool,
}

fn write(controller: &str, file: &str, value: &dyn ToString) -> Write {
    let value = value.to_string();
    Write { controller: controller.to_owned(), file: file.to_owned(), value, no_swap: false }
}

/// What a pod may use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limits {
    pub shares: Option<u64>,
    /// Microseconds per period; `None`: no limit.
    pub quota: Option<u64>,
    /// No limit was asked for by name.
    pub unlimited: bool,
    pub period: Option<u64>,
    pub memory: Option<u64>,
    /// Memory and swap together; -1: no limit.
    both: Option<i64>,
    cpus: Option<String>,
    mems: Option<String>,
    hugepages: BTreeMap<String, u64>,
    unified: BTreeMap<String, String>,
}

impl Limits {
    pub(super) fn of(resources: &Resources, overhead: &Resources) -> Result<Self, CgroupError> {
        let period = resources.cpu_period;
        let quota = resources.cpu_quota.and_then(|q| u64::try_from(q).ok()).filter(|q| *q > 0).map(|quota| {
            let more = overhead.cpu_quota.and_then(|q| u64::try_from(q).ok()).unwrap_or(0);
            // The overhead's share of a CPU, in periods of the pod's length.
            let scaled = u128::from(more) * u128::from(period.unwrap_or(PERIOD))
                / u128::from(overhead.cpu_period.unwrap_or(PERIOD).max(1));
            quota.saturating_add(u64::try_from(scaled).unwrap_or(u64::MAX))
        });
        let memory = resources.memory_limit.map(|m| m.saturating_add(overhead.memory_limit.unwrap_or(0)));
        let both = match resources.memory_swap_limit {
            Some(both) if both > 0 => {
                // Overhead is memory: without a swap part of its own it raises the sum by as much.
                let more = overhead.memory_swap_limit.filter(|b| *b > 0);
                let more = more.or(overhead.memory_limit.and_then(|m| i64::try_from(m).ok())).unwrap_or(0);
                Some(both.saturating_add(more))
            }
            Some(_) => Some(-1),
            // Not said: no swap beyond the memory, as with other runtimes. Where nothing swaps it is not written.
            None => memory.and_then(|memory| i64::try_from(memory).ok()),
        };
        match (both, memory) {
            (Some(both), None) if both > 0 => return Err(CgroupError::SwapAlone { both }),
            (Some(both), Some(memory)) if u64::try_from(both).is_ok_and(|b| b < memory) => {
                return Err(CgroupError::SwapBelowMemory { both, memory });
            }
            _ => {}
        }
        let mut hugepages = resources.hugepage_limits.clone();
        for (size, limit) in &mut hugepages {
            *limit = limit.saturating_add(overhead.hugepage_limits.get(size).copied().unwrap_or(0));
        }
        let shares = match (resources.cpu_shares, overhead.cpu_shares) {
            (Some(a), Some(b)) => Some(a.saturating_add(b)),
            (a, b) => a.or(b),
        };
        Ok(Self {
            shares,
            quota,
            unlimited: resources.cpu_quota.is_some_and(|q| q <= 0),
            period,
            memory,
            both,
            cpus: resources.cpuset_cpus.clone(),
            mems: resources.cpuset_mems.clone(),
            hugepages,
            unified: resources.unified.clone(),
        })
    }

    /// The files of cgroup v1, in the order in which the kernel takes them: the period before the quota,
    /// memory before memory and swap.
    pub(super) fn v1(&self, layout: &'static str) -> Result<Vec<Write>, CgroupError> {
        if !self.unified.is_empty() {
            let keys = self.unified.keys().cloned().collect::<Vec<_>>().join(", ");
            return Err(CgroupError::UnifiedOnV1 { keys, layout });
        }
        let mut writes = Vec::new();
        writes.extend(self.shares.map(|v| write("cpu", "cpu.shares", &v)));
        writes.extend(self.period.map(|v| write("cpu", "cpu.cfs_period_us", &v)));
        writes.extend(self.quota.map(|v| write("cpu", "cpu.cfs_quota_us", &v)));
        writes.extend(self.memory.map(|v| write("memory", "memory.limit_in_bytes", &v)));
        // No limit is the state of a new cgroup: nothing to write, no swap accounting needed.
        let both = self.both.filter(|b| *b > 0);
        writes.extend(both.map(|v| Write {
            no_swap: u64::try_from(v).ok() == self.memory,
            ..write("memory", "memory.memsw.limit_in_bytes", &v)
        }));
        writes.extend(self.cpus.as_ref().map(|v| write("cpuset", "cpuset.cpus", v)));
        writes.extend(self.mems.as_ref().map(|v| write("cpuset", "cpuset.mems", v)));
        for (size, limit) in &self.hugepages {
            writes.push(write("hugetlb", &format!("hugetlb.{size}.limit_in_bytes"), limit));
        }
        Ok(writes)
    }

    /// The files of cgroup v2.
    pub(super) fn v2(&self) -> Result<Vec<Write>, CgroupError> {
        let mut writes = Vec::new();
        writes.extend(self.shares.map(|v| write("cpu", "cpu.weight", &weight(v))));
        if self.quota.is_some() || self.period.is_some() {
            let quota = self.quota.map_or("max".to_owned(), |q| q.to_string());
            writes.push(write("cpu", "cpu.max", &format!("{quota} {}", self.period.unwrap_or(PERIOD))));
        }
        writes.extend(self.memory.map(|v| write("memory", "memory.max", &v)));
        if let (Some(both), Some(memory)) = (self.both.and_then(|b| u64::try_from(b).ok()), self.memory) {
            let swap = both.saturating_sub(memory);
            writes.push(Write { no_swap: swap == 0, ..write("memory", "memory.swap.max", &swap) });
        }
        writes.extend(self.cpus.as_ref().map(|v| write("cpuset", "cpuset.cpus", v)));
        writes.extend(self.mems.as_ref().map(|v| write("cpuset", "cpuset.mems", v)));
        for (size, limit) in &self.hugepages {
            writes.push(write("hugetlb", &format!("hugetlb.{size}.max"), limit));
        }
        for (key, value) in &self.unified {
            let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
            match key.split_once('.') {
                // Files of the core would move processes or undo what was set up here.
                Some((controller, _))
                    if controller != "cgroup" && !controller.is_empty() && key.bytes().all(plain) =>
                {
                    writes.push(write(controller, key, value));
                }
                _ => return Err(CgroupError::UnifiedKey { key: key.clone() }),
            }
        }
        Ok(writes)
    }

    /// As [`Limits::v1`], for a cgroup that had limits before: what is to have none is written too.
    pub(super) fn v1_anew(&self, layout: &'static str) -> Result<Vec<Write>, CgroupError> {
        let mut writes = self.v1(layout)?;
        if self.unlimited {
            writes.push(write("cpu", "cpu.cfs_quota_us", &-1));
        }
        if self.both == Some(-1) {
            writes.push(Write { no_swap: true, ..write("memory", "memory.memsw.limit_in_bytes", &-1) });
        }
        Ok(writes)
    }

    /// As [`Limits::v2`], in the same way.
    pub(super) fn v2_anew(&self) -> Result<Vec<Write>, CgroupError> {
        let mut writes = self.v2()?;
        if self.unlimited && self.period.is_none() {
            writes.push(write("cpu", "cpu.max", &format!("max {PERIOD}")));
        }
        if self.both == Some(-1) {
            writes.push(Write { no_swap: true, ..write("memory", "memory.swap.max", &"max") });
        }
        Ok(writes)
    }
}

/// cpu.weight of v1 shares, by the formula that runc 1.4, crun 1.23 and kubelet use: 2, 1024 and 262144
/// shares are the weights 1, 100 and 10000 (kubernetes issue 131216, runc PR 4785). The earlier linear
/// formula made 1024 shares a weight of 39, less than a process outside any pod has.
pub(super) fn weight(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 10000")]
    let weight = 10f64.powf(exponent).ceil() as u64;
    weight.clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(writes: &[Write]) -> Vec<(&str, &str)> {
        writes.iter().map(|w| (w.file.as_str(), w.value.as_str())).collect()
    }

    fn full() -> Resources {
        Resources {
            cpu_period: Some(50_000),
            cpu_quota: Some(25_000),
            cpu_shares: Some(512),
            memory_limit: Some(100 << 20),
            memory_swap_limit: Some(150 << 20),
            cpuset_cpus: Some("0-1".into()),
            hugepage_limits: BTreeMap::from([("2MB".to_owned(), 4 << 20)]),
            ..Resources::default()
        }
    }

    // cri: LinuxContainerResources.hugepage_limits, HugepageLimit.page_size, HugepageLimit.limit
    #[test]
    fn overhead_is_added_where_a_limit_is() {
        let overhead = Resources {
            cpu_quota: Some(10_000), // of 100 ms: 5 ms of the pod's 50
            cpu_shares: Some(512),
            memory_limit: Some(20 << 20),
            ..Resources::default()
        };
        let limits = Limits::of(&full(), &overhead).unwrap();
        let expected = [
            ("cpu.shares", "1024"),
            ("cpu.cfs_period_us", "50000"),
            ("cpu.cfs_quota_us", "30000"),
            ("memory.limit_in_bytes", "125829120"),
            ("memory.memsw.limit_in_bytes", "178257920"),
            ("cpuset.cpus", "0-1"),
            ("hugetlb.2MB.limit_in_bytes", "4194304"),
        ];
        assert_eq!(files(&limits.v1("v1").unwrap()), expected);
        let expected = [
            ("cpu.weight", "100"),
            ("cpu.max", "30000 50000"),
            ("memory.max", "125829120"),
            ("memory.swap.max", "52428800"),
            ("cpuset.cpus", "0-1"),
            ("hugetlb.2MB.max", "4194304"),
        ];
        assert_eq!(files(&limits.v2().unwrap()), expected);
        let alone = Limits::of(&Resources::default(), &overhead).unwrap();
        assert_eq!(files(&alone.v1("v1").unwrap()), [("cpu.shares", "512")]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let mut resources = Resources { memory_swap_limit: Some(5), ..Resources::default() };
        let none = Resources::default();
        assert!(matches!(Limits::of(&resources, &none), Err(CgroupError::SwapAlone { both: 5 })));
        resources.memory_limit = Some(6);
        assert!(matches!(Limits::of(&resources, &none), Err(CgroupError::SwapBelowMemory { .. })));
        resources.memory_swap_limit = Some(-1);
        resources.unified.insert("memory.high".into(), "1".into());
        let limits = Limits::of(&resources, &none).unwrap();
        assert!(limits.v1("hybrid").unwrap_err().to_string().contains("memory.high"));
        assert_eq!(files(&limits.v2().unwrap()), [("memory.max", "6"), ("memory.high", "1")]);
        for key in ["../x.y", "cgroup.procs", "memory", ".x", "a/b.c"] {
            let unified = BTreeMap::from([(key.to_owned(), "1".to_owned())]);
            let limits = Limits { unified, ..Limits::default() };
            assert!(matches!(limits.v2(), Err(CgroupError::UnifiedKey { .. })), "{key}");
        }
    }

    #[test]
    fn weights_of_shares() {
        for (shares, expected) in
            [(0, 1), (2, 1), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000), (102, 17)]
        {
            assert_eq!(weight(shares), expected, "{shares}");
        }
        assert!((3..262_144).step_by(97).all(|s| weight(s) <= weight(s + 97)));
    }
}
