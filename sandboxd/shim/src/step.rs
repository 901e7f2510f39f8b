//! A step and why it failed: words for the operator, the errno for the daemon.

use rustix::io::Errno;
use sandboxd_shim::proto::Failure;

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepError {
    /// The call and its object ("mount sysfs on /sys").
    pub step: String,
    pub errno: Errno,
}

impl StepError {
    /// As the daemon gets it; `pid` of the infra container where it failed inside.
    pub fn failure(self, pid: Option<i32>) -> Failure {
        Failure { step: self.step, errno: self.errno.raw_os_error(), pid }
    }
}

/// Names the step a call belongs to.
pub trait Step<T> {
    fn step(self, words: impl FnOnce() -> String) -> Result<T, StepError>;
}

impl<T> Step<T> for Result<T, Errno> {
    fn step(self, words: impl FnOnce() -> String) -> Result<T, StepError> {
        self.map_err(|errno| StepError { step: words(), errno })
    }
}
