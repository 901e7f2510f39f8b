//! Histograms of latencies, in atomics: nothing waits to count.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Rpc;
use crate::pod::model::{Step, StepName};

/// Upper bounds in seconds: a step of the flow takes a millisecond, CNI tens, a pull seconds to minutes.
pub const BOUNDS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 300.0];

/// A latency's distribution.
#[derive(Debug, Default)]
pub struct Histogram {
    /// Those up to each bound and above the one before; the last is beyond all.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    nanos: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// (upper bound in seconds, observations up to it)
    pub cumulative: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
}

impl Histogram {
    pub fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let at = BOUNDS.iter().position(|bound| seconds <= *bound).unwrap_or(BOUNDS.len());
        self.buckets[at].fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Consistent in itself: the count is what the buckets add up to.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let mut count = 0;
        let mut cumulative = Vec::with_capacity(BOUNDS.len());
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            count += bucket.load(Ordering::Relaxed);
            cumulative.push((*bound, count));
        }
        count += self.buckets[BOUNDS.len()].load(Ordering::Relaxed);
        let sum = Duration::from_nanos(self.nanos.load(Ordering::Relaxed)).as_secs_f64();
        Snapshot { cumulative, count, sum }
    }
}

/// All histograms of the daemon.
#[derive(Debug, Default)]
pub struct Figures {
    steps: [Histogram; StepName::ALL.len()],
    failed_steps: [AtomicU64; StepName::ALL.len()],
    cni: Histogram,
    /// Answered, and failed.
    rpcs: [[Histogram; 2]; Rpc::ALL.len()],
}

impl Figures {
    pub(super) fn step(&self, step: &Step) {
        let at = step.name as usize;
        self.steps[at].observe(step.duration);
        if step.error.is_some() {
            self.failed_steps[at].fetch_add(1, Ordering::Relaxed);
        }
        if !step.cni.is_zero() {
            self.cni.observe(step.cni);
        }
    }

    pub(super) fn rpc(&self, rpc: Rpc, answered: bool, took: Duration) {
        self.rpcs[rpc as usize][usize::from(!answered)].observe(took);
    }

    /// Each step with its latencies and how many of it failed.
    pub fn steps(&self) -> impl Iterator<Item = (StepName, Snapshot, u64)> {
        StepName::ALL.into_iter().map(|name| {
            let at = name as usize;
            (name, self.steps[at].snapshot(), self.failed_steps[at].load(Ordering::Relaxed))
        })
    }

    /// CNI ADD of pods' networks, as far as it ended.
    #[must_use]
    pub fn cni(&self) -> Snapshot {
        self.cni.snapshot()
    }

    /// Each rpc, whether it was answered, and its latencies.
    pub fn rpcs(&self) -> impl Iterator<Item = (Rpc, bool, Snapshot)> {
        Rpc::ALL.into_iter().flat_map(|rpc| {
            let [answered, failed] = &self.rpcs[rpc as usize];
            [(rpc, true, answered.snapshot()), (rpc, false, failed.snapshot())]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_is_within_it() {
        let histogram = Histogram::default();
        for millis in [1, 1, 2, 400_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        let told = histogram.snapshot();
        assert_eq!(told.cumulative[..3], [(0.0005, 0), (0.001, 2), (0.0025, 3)]);
        assert_eq!((told.cumulative.last(), told.count), (Some(&(300.0, 3)), 4));
        assert!((told.sum - 400.004).abs() < 1e-9, "{}", told.sum);
    }

    #[test]
    fn steps_and_rpcs_are_counted_in_their_own() {
        let figures = Figures::default();
        let step = Step {
            name: StepName::Networked,
            started_at_ns: 0,
            duration: Duration::from_millis(7),
            cni: Duration::from_millis(6),
            error: Some("no".into()),
        };
        figures.step(&step);
        figures.rpc(Rpc::PullImage, false, Duration::from_secs(1));
        let counted: Vec<_> = figures.steps().filter(|s| s.1.count > 0).map(|s| (s.0, s.2)).collect();
        assert_eq!(counted, [(StepName::Networked, 1)]);
        assert_eq!(figures.cni().count, 1);
        let counted: Vec<_> = figures.rpcs().filter(|r| r.2.count > 0).map(|r| (r.0, r.1)).collect();
        assert_eq!(counted, [(Rpc::PullImage, false)]);
    }
}
