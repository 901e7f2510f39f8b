//! Medians.

use std::time::Duration;

/// Values of one figure.
#[derive(Debug, Default, Clone)]
pub struct Series(Vec<f64>);

impl Series {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// In milliseconds.
    pub fn push_time(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1_000.0);
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Median, minimum, maximum, count; zeros where there is none.
    #[must_use]
    pub fn summary(&self) -> (f64, f64, f64, usize) {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return (0.0, 0.0, 0.0, 0) };
        let median = if n % 2 == 1 { sorted[n / 2] } else { f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]) };
        (median, *min, *max, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_none() {
        let series = |values: &[f64]| Series(values.to_vec()).summary();
        assert_eq!(series(&[3.0, 1.0, 2.0]), (2.0, 1.0, 3.0, 3));
        assert_eq!(series(&[4.0, 1.0, 2.0, 3.0]), (2.5, 1.0, 4.0, 4));
        assert_eq!(series(&[]), (0.0, 0.0, 0.0, 0));
    }
}
