//! Exact counts of all checks, whether they were kept one by one or not.

use std::collections::{BTreeMap, HashMap};

use sandboxd_ebpf::Syscall;

use super::check::{Check, PodRef, Verdict};
use super::reason::Reason;
use crate::container::model::ContainerId;
use crate::pod::model::PodId;

/// What is counted of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub pod: Option<PodRef>,
    pub verdict: Verdict,
    /// The reason's code, empty for an allowed check.
    pub reason: &'static str,
    /// Whether the denial is what made the syscall fail.
    pub decisive: bool,
    /// `None`: none was asked, or it was counted with the check that asked.
    pub capability: Option<u32>,
    pub syscall: Syscall,
}

impl Told {
    #[must_use]
    pub fn of(check: &Check) -> Self {
        let reason = check.reason.as_ref();
        Self {
            pod: check.pod.clone(),
            verdict: check.verdict,
            reason: reason.map_or("", Reason::code),
            decisive: reason.is_some_and(Reason::is_decisive),
            capability: match check.verdict {
                Verdict::Allowed | Verdict::Denied => check.capability,
                Verdict::Refused | Verdict::Failed => None,
            },
            syscall: check.syscall,
        }
    }
}

/// Counted since the pod was first seen, whatever the history forgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PodCounts {
    pub allowed: u64,
    /// Denied by a check that decides, or refused without a denied check.
    pub denied: u64,
    /// Of all of its checks, those that were only counted.
    pub sampled_out: u64,
}

/// How one capability was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CapabilityCount {
    pub used: u64,
    pub denied: u64,
    /// Nanoseconds since the epoch.
    pub last_ns: i64,
    /// `None`: in a syscall that is not recorded.
    pub last_syscall: Option<Syscall>,
}

/// All that a container asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllCapabilities {
    pub since_ns: i64,
    pub counts: CapabilityCounts,
}

/// By capability.
pub type CapabilityCounts = BTreeMap<u32, CapabilityCount>;

/// Who in a pod: a container, or "infra", "shim" and what is not known (by name).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Who {
    Container(ContainerId),
    Role(Box<str>),
}

#[derive(Debug, Default)]
struct OfPod {
    counts: PodCounts,
    last_ns: i64,
    capabilities: HashMap<Who, CapabilityCounts>,
}

/// Pods whose checks are counted; beyond it those that made none for longest are dropped.
const PODS_COUNTED: usize = 4096;
/// Containers of a pod that are told apart; a pod that has had more has restarted often.
const CONTAINERS_COUNTED: usize = 64;

/// All counts.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pods: HashMap<PodId, OfPod>,
    /// By verdict and code of the reason: both are few.
    reasons: BTreeMap<(&'static str, &'static str), u64>,
}

/// How a check came to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    OneByOne,
    SampledOut,
    /// The kernel did not report it: it was concluded from a check that was.
    Concluded,
}

impl Tally {
    pub fn add(&mut self, told: &Told, n: u64, last_ns: i64, kept: Kept) {
        *self.reasons.entry((told.verdict.name(), told.reason)).or_default() += n;
        let Some(pod) = &told.pod else { return };
        if self.pods.len() >= PODS_COUNTED && !self.pods.contains_key(&pod.id) {
            let quietest = self.pods.iter().min_by_key(|(_, of_pod)| of_pod.last_ns);
            if let Some(quietest) = quietest.map(|(id, _)| id.clone()) {
                self.pods.remove(&quietest);
            }
        }
        if !self.pods.contains_key(&pod.id) {
            self.pods.insert(pod.id.clone(), OfPod::default());
        }
        let Some(of_pod) = self.pods.get_mut(&pod.id) else { return };
        of_pod.last_ns = of_pod.last_ns.max(last_ns);
        of_pod.count(told, n, kept);
        of_pod.capability(told, pod, n, last_ns);
    }

    pub fn pod(&self, pod: &PodId) -> PodCounts {
        self.pods.get(pod).map(|of_pod| of_pod.counts).unwrap_or_default()
    }

    /// Of a container, by its id.
    pub fn container(&self, pod: &PodId, id: &ContainerId) -> CapabilityCounts {
        self.capabilities(pod, &Who::Container(id.clone()))
    }

    /// Of the processes of a pod that are no container's, by role.
    pub fn role(&self, pod: &PodId, role: &str) -> CapabilityCounts {
        self.capabilities(pod, &Who::Role(role.into()))
    }

    fn capabilities(&self, pod: &PodId, who: &Who) -> CapabilityCounts {
        self.pods.get(pod).and_then(|of_pod| of_pod.capabilities.get(who)).cloned().unwrap_or_default()
    }

    /// (verdict, reason, how many); the reason is empty for what was allowed.
    pub fn reasons(&self) -> Vec<(&'static str, &'static str, u64)> {
        self.reasons.iter().map(|(&(verdict, reason), &n)| (verdict, reason, n)).collect()
    }
}

impl OfPod {
    fn count(&mut self, told: &Told, n: u64, kept: Kept) {
        match told.verdict {
            Verdict::Allowed => self.counts.allowed += n,
            // A check the syscall gets along without is no denial an operator should look at.
            Verdict::Denied if !told.decisive => {}
            Verdict::Denied | Verdict::Refused => self.counts.denied += n,
            // Nobody denied it.
            Verdict::Failed => {}
        }
        if kept == Kept::SampledOut {
            self.counts.sampled_out += n;
        }
    }

    fn capability(&mut self, told: &Told, pod: &PodRef, n: u64, last_ns: i64) {
        let Some(capability) = told.capability else { return };
        let who = match &pod.container_id {
            Some(id) => Who::Container(id.clone()),
            None => Who::Role(pod.container.as_ref().into()),
        };
        if self.capabilities.len() >= CONTAINERS_COUNTED && !self.capabilities.contains_key(&who) {
            // What a restarted container's predecessors did is the least that is missed.
            let oldest =
                self.capabilities.iter().min_by_key(|(_, counts)| counts.values().map(|c| c.last_ns).max());
            if let Some(oldest) = oldest.map(|(who, _)| who.clone()) {
                self.capabilities.remove(&oldest);
            }
        }
        let counts = self.capabilities.entry(who).or_default();
        let fresh = CapabilityCount { used: 0, denied: 0, last_ns, last_syscall: None };
        let count = counts.entry(capability).or_insert(fresh);
        if told.verdict == Verdict::Allowed {
            count.used += n;
        } else {
            count.denied += n;
        }
        if last_ns >= count.last_ns {
            (count.last_ns, count.last_syscall) = (last_ns, Some(told.syscall));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{check, record};
    use super::*;

    fn told(verdict: Verdict, container: Option<&str>) -> Told {
        let id = container.map(|id| ContainerId::from_string(id.to_string()));
        let pod = PodRef {
            id: PodId::from_string("a".to_string()),
            name: "default/a".into(),
            container: "infra".into(),
            container_id: id,
        };
        let mut check = check(&record());
        check.verdict = verdict;
        check.reason = Reason::of(&check);
        check.pod = Some(pod);
        Told::of(&check)
    }

    #[test]
    fn what_is_sampled_out_is_in_the_totals() {
        let mut tally = Tally::default();
        let pod = PodId::from_string("a".to_string());
        tally.add(&told(Verdict::Denied, None), 1, 10, Kept::OneByOne);
        tally.add(&told(Verdict::Denied, None), 41, 11, Kept::SampledOut);
        tally.add(&told(Verdict::Allowed, None), 2, 12, Kept::OneByOne);
        assert_eq!(tally.pod(&pod), PodCounts { allowed: 2, denied: 42, sampled_out: 41 });
        let reasons = [("allowed", "", 2), ("denied", "netns-owned-by-other-userns", 42)];
        assert_eq!(tally.reasons(), reasons);
        let infra = tally.role(&pod, "infra")[&21];
        assert_eq!((infra.used, infra.denied, infra.last_ns), (2, 42, 12));
    }

    #[test]
    fn containers_are_told_apart_and_bounded() {
        let mut tally = Tally::default();
        let pod = PodId::from_string("a".to_string());
        for n in 0..200i64 {
            tally.add(&told(Verdict::Allowed, Some(&n.to_string())), 1, n, Kept::OneByOne);
        }
        let of = |id: &str| tally.container(&pod, &ContainerId::from_string(id.to_string()));
        assert!(of("0").is_empty());
        assert_eq!(of("199")[&21].used, 1);
        assert_eq!(tally.pods[&pod].capabilities.len(), CONTAINERS_COUNTED);
    }
}
