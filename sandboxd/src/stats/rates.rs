//! CPU time per second: the difference to the sample before, taken when somebody asked.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Below this the clock ticks of v1 and the scheduler's slices make noise of a rate.
const SHORTEST: Duration = Duration::from_millis(500);
/// A sample that nobody asked about for so long is of something that is gone.
const FORGOTTEN: Duration = Duration::from_secs(600);
/// Samples are looked through for forgotten ones when there are twice as many as last time, and so many.
const FEW: usize = 64;

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    asked: Instant,
    total: u64,
    rate: u64,
}

/// The newest sample of each container and pod.
#[derive(Debug, Default)]
pub(super) struct Rates {
    samples: Mutex<(HashMap<String, Sample>, usize)>,
}

impl Rates {
    /// Nanoseconds of CPU per second, of a total that is known now. Without a sample: since the beginning.
    pub(super) fn rate(&self, id: &str, begun_ns: i64, at_ns: i64, total: u64) -> u64 {
        let since_begin = Duration::from_nanos(u64::try_from(at_ns.saturating_sub(begun_ns)).unwrap_or(0));
        self.rate_at(id, since_begin, Instant::now(), total)
    }

    fn rate_at(&self, id: &str, since_begin: Duration, now: Instant, total: u64) -> u64 {
        let mut guard = self.samples.lock().unwrap_or_else(PoisonError::into_inner);
        let (samples, before) = &mut *guard;
        if samples.len() >= (*before * 2).max(FEW) {
            samples.retain(|_, sample| now.duration_since(sample.asked) < FORGOTTEN);
            *before = samples.len();
        }
        match samples.get_mut(id) {
            // The counter began again: a new cgroup of the same name.
            Some(sample) if total >= sample.total => {
                sample.asked = now;
                let elapsed = now.duration_since(sample.at);
                if elapsed >= SHORTEST {
                    let rate = per_second(total - sample.total, elapsed);
                    *sample = Sample { at: now, asked: now, total, rate };
                }
                sample.rate
            }
            _ => {
                let rate = per_second(total, since_begin);
                samples.insert(id.to_owned(), Sample { at: now, asked: now, total, rate });
                rate
            }
        }
    }
}

fn per_second(nanos: u64, elapsed: Duration) -> u64 {
    let elapsed = elapsed.as_nanos().max(1);
    u64::try_from(u128::from(nanos) * 1_000_000_000 / elapsed).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const HALF_A_CORE: u64 = 500_000_000;

    #[test]
    fn rates_of_what_was_asked() {
        let (rates, now) = (Rates::default(), Instant::now());
        let first = rates.rate_at("a", 10 * SECOND, now, 5_000_000_000);
        assert_eq!(first, HALF_A_CORE, "since the beginning");
        let soon = rates.rate_at("a", SECOND, now + SECOND / 10, 5_100_000_000);
        assert_eq!(soon, HALF_A_CORE, "too soon to tell");
        let second = rates.rate_at("a", SECOND, now + 2 * SECOND, 7_000_000_000);
        assert_eq!(second, 1_000_000_000);
        let anew = rates.rate_at("a", 2 * SECOND, now + 4 * SECOND, 1_000_000_000);
        assert_eq!(anew, HALF_A_CORE, "the counter began again");
    }

    #[test]
    fn samples_are_bounded() {
        let (rates, now) = (Rates::default(), Instant::now());
        for n in 0..10_000u32 {
            rates.rate_at(&n.to_string(), SECOND, now + n * SECOND, 1);
        }
        let kept = rates.samples.lock().unwrap().0.len();
        assert!(kept <= 1300, "{kept}");
    }
}
