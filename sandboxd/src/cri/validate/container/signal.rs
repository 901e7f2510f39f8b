//! `Signal` to the number it has on Linux.

use sandboxd_api::cri::Signal;

use super::super::{Invalid, known};
use crate::container::signal;

/// `None` for RUNTIME_DEFAULT.
pub(super) fn number(number: i32) -> Result<Option<i32>, Invalid> {
    let asked: Signal = known("config.stop_signal", number)?;
    if asked == Signal::RuntimeDefault {
        return Ok(None);
    }
    // "SIGNAL_SIGRTMINPLUS3" is SIGRTMIN+3: the wire's names are the signals'.
    let name = asked.as_str_name().trim_start_matches("SIGNAL_");
    Ok(signal::by_name(name))
}
