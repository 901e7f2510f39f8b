//! How long a client of the console protocol waits before it connects anew: doubling from 250 ms to 10 s, less a random half, so
//! that many do not come back in step when a daemon restarts.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(250);
const CAP: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The wait after one more failure; `random` in 0..=255 picks within the upper half of it.
    pub fn next(&mut self, random: u8) -> Duration {
        let full = FIRST.saturating_mul(1 << self.attempts.min(16)).min(CAP);
        self.attempts = self.attempts.saturating_add(1);
        full / 2 + full / 2 * u32::from(random) / 255
    }

    /// After a connection that worked.
    pub fn reset(&mut self) {
        self.attempts = 0;
    }
}

/// A byte for [`Backoff::next`]; without the kernel's randomness the middle will do.
pub fn random() -> u8 {
    let mut byte = [128];
    if getrandom::fill(&mut byte).is_err() {
        byte = [128];
    }
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_cap_and_keep_half_of_it() {
        let mut backoff = Backoff::default();
        assert_eq!(backoff.next(255), Duration::from_millis(250));
        assert_eq!(backoff.next(0), Duration::from_millis(250));
        for _ in 0..50 {
            let wait = backoff.next(random());
            assert!(wait >= FIRST / 2 && wait <= CAP, "{wait:?}");
        }
        assert_eq!(backoff.next(255), CAP);
        backoff.reset();
        assert_eq!(backoff.next(0), Duration::from_millis(125));
    }
}
