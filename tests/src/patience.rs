//! How long a test waits for what must come. A machine that is slow throughout, such as an emulated one, is given a
//! factor; what a test asserts of the daemon stays the same.

use std::time::Duration;

/// Names the factor, a whole number.
pub const FACTOR: &str = "SANDBOXD_TEST_PATIENCE";

/// A deadline on this machine.
///
/// # Panics
/// When the factor is no number from 1 on.
#[must_use]
pub fn patient(deadline: Duration) -> Duration {
    times(deadline, std::env::var(FACTOR).ok().as_deref())
}

fn times(deadline: Duration, factor: Option<&str>) -> Duration {
    let Some(text) = factor else { return deadline };
    match text.parse() {
        Ok(factor @ 1..) => deadline * factor,
        _ => panic!("{FACTOR} is {text:?}, should be a whole number from 1 on"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_deadline_is_multiplied_where_a_factor_is_given() {
        assert_eq!(times(SECOND, None), SECOND);
        assert_eq!(times(SECOND, Some("6")), 6 * SECOND);
    }

    #[test]
    #[should_panic(expected = "SANDBOXD_TEST_PATIENCE is \"0\"")]
    fn a_factor_that_would_end_all_waiting_is_refused() {
        times(SECOND, Some("0"));
    }
}
