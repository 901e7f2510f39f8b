//! AppArmor: whether containers that ask for nothing are confined where it is enabled.

use super::Check;

const NAME: &str = "apparmor";

/// `running`: as the daemon, which has loaded the profile if it can be.
pub(super) fn check(running: bool) -> Check {
    match crate::apparmor::examine(running) {
        Ok(reason) => Check::ok(NAME, reason),
        Err((reason, remedy)) => Check::warn(NAME, reason, remedy),
    }
}
