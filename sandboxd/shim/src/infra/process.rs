//! What the process may do: limits, ids, capabilities, seccomp; and exec.

use std::convert::Infallible;
use std::os::fd::{BorrowedFd, IntoRawFd};

use rustix::io::Errno;
use sandboxd_shim::plan::Plan;

use super::rootfs::PAUSE_PATH;
use crate::kernel::{Kernel, here};
use crate::step::{Step, StepError};

/// First thing in the new process: become root of the new user namespace, in a session of its own.
pub fn settle<K: Kernel>(kernel: &K, plan: &Plan) -> Result<(), StepError> {
    kernel.pause_signals().step(|| "set the signals for the pause".into())?;
    kernel.new_session().step(|| "make a session".into())?;
    if plan.namespaces.user.is_some() {
        kernel.groups(&[]).step(|| "clear the supplementary groups".into())?;
        kernel.gids(0).step(|| "become gid 0 of the user namespace".into())?;
        kernel.uids(0).step(|| "become uid 0 of the user namespace".into())?;
    }
    kernel.die_with_parent().step(|| "ask to die with the shim".into())
}

/// Resource limits, clamped to what a process without CAP_SYS_RESOURCE may have. Returns warnings.
pub fn limits<K: Kernel>(kernel: &K, plan: &Plan) -> Result<Vec<String>, StepError> {
    let mut warnings = Vec::new();
    for limit in &plan.process.rlimits {
        let words = || format!("set resource limit {} to {}:{}", limit.resource, limit.soft, limit.hard);
        match kernel.limit(limit.resource, limit.soft, limit.hard) {
            Err(Errno::PERM) => {
                let most = kernel.hard_limit(limit.resource).step(words)?;
                let (soft, hard) = (limit.soft.min(most), limit.hard.min(most));
                kernel.limit(limit.resource, soft, hard).step(words)?;
                warnings.push(format!(
                    "resource limit {}: asked for {}:{}, clamped to {soft}:{hard} (CAP_SYS_RESOURCE is missing)",
                    limit.resource, limit.soft, limit.hard
                ));
            }
            other => other.step(words)?,
        }
    }
    Ok(warnings)
}

/// Gives up what the container may not have, the filter last, and execs the pause. `report` stays open until
/// exec, to tell what failed.
pub fn enter<K: Kernel>(kernel: &K, plan: &Plan, report: BorrowedFd<'_>) -> Result<Infallible, StepError> {
    let process = &plan.process;
    if plan.namespaces.cgroup {
        kernel.unshare(libc::CLONE_NEWCGROUP).step(|| "make the cgroup namespace".into())?;
    }
    // Never closed by a destructor: `only_fds` gives their numbers to others.
    let open = |path, write| kernel.open(here(), path, write).map(IntoRawFd::into_raw_fd);
    let null = open("/dev/null", true).step(|| "open /dev/null".into())?;
    let pause = open(PAUSE_PATH, false).step(|| format!("open {PAUSE_PATH}"))?;
    // SAFETY: open until `only_fds` closes them, which copies them first.
    let (null, pause) = unsafe { (BorrowedFd::borrow_raw(null), BorrowedFd::borrow_raw(pause)) };

    kernel.umask(process.umask);
    kernel.keep_capabilities(false).step(|| "reset the secure bits".into())?;
    kernel
        .bounding(process.capabilities.bounding)
        .step(|| "drop capabilities from the bounding set".into())?;
    kernel.groups(&process.groups).step(|| format!("set the supplementary groups {:?}", process.groups))?;
    kernel.gids(process.gid).step(|| format!("become gid {}", process.gid))?;
    kernel.uids(process.uid).step(|| format!("become uid {}", process.uid))?;
    kernel.capabilities(process.capabilities).step(|| "set the capabilities".into())?;
    // A change of ids forgets it.
    kernel.die_with_parent().step(|| "ask to die with the shim".into())?;
    if process.no_new_privs {
        kernel.no_new_privs().step(|| "set no_new_privs".into())?;
    }
    kernel.only_fds([null; 3], &[report, pause]).step(|| "close inherited descriptors".into())?;
    if let Some(program) = &process.seccomp {
        kernel.seccomp(program).step(|| "install the seccomp filter".into())?;
    }
    // SAFETY: `only_fds` put it there.
    let pause = unsafe { BorrowedFd::borrow_raw(PAUSE_FD) };
    kernel.exec(pause, PAUSE_PATH).step(|| format!("exec {PAUSE_PATH}"))
}

/// Where `only_fds` leaves the report socket and the pause.
pub const REPORT_FD: i32 = 3;
const PAUSE_FD: i32 = 4;
