//! The observer's values as the console's messages.

use sandboxd_api::console;

use super::check::{Check, Verdict};
use super::explain::Explanation;
use super::names;
use super::reason;
use super::status::{Degradation, State, Status};
use crate::pod::model::NsInode;

fn inode(ns: Option<NsInode>) -> u64 {
    ns.map_or(0, |ns| ns.0)
}

impl From<&Check> for console::Check {
    fn from(check: &Check) -> Self {
        let verdict = match check.verdict {
            Verdict::Allowed => console::check::Verdict::Allowed,
            Verdict::Denied => console::check::Verdict::Denied,
            Verdict::Refused => console::check::Verdict::Refused,
            Verdict::Failed => console::check::Verdict::Failed,
        };
        let pod = check.pod.as_ref();
        Self {
            seq: check.seq,
            time_ns: check.time_ns,
            pid: check.pid,
            tid: check.tid,
            comm: check.comm.to_string(),
            syscall: check.syscall.name().to_string(),
            argument: check.argument(),
            capability: check.capability.unwrap_or_default(),
            capability_name: check.capability.map(names::capability).unwrap_or_default(),
            verdict: verdict.into(),
            caller_userns: inode(check.caller_userns),
            target_userns: inode(check.target_userns),
            caller_netns: inode(check.net.inode),
            caller_mntns: inode(check.mnt.inode),
            caller_pidns: inode(check.pidns.inode),
            pod_id: pod.map(|p| p.id.to_string()).unwrap_or_default(),
            pod_name: pod.map(|p| p.name.to_string()).unwrap_or_default(),
            container: pod.map(|p| p.container.to_string()).unwrap_or_default(),
            reason: check.reason.as_ref().map(|r| r.code().to_string()).unwrap_or_default(),
            summary: reason::summary(check),
            result: check.result,
        }
    }
}

impl From<Explanation> for console::Explanation {
    fn from(told: Explanation) -> Self {
        Self {
            reason: told.code.to_string(),
            headline: told.headline,
            asked: told.asked,
            target: told.target,
            caller: told.caller,
            made_by: told.made_by,
            fix: told.fix,
            sources: told.sources.into_iter().map(str::to_string).collect(),
        }
    }
}

impl From<&Degradation> for console::Degradation {
    fn from(step: &Degradation) -> Self {
        Self { name: step.name(), message: step.message() }
    }
}

impl From<&Status> for console::Observer {
    fn from(status: &Status) -> Self {
        use console::observer::State as Wire;
        let (state, rung) = match status.state {
            State::Running(rung) => (Wire::Running, rung.name()),
            State::NotBuiltIn => (Wire::NotBuiltIn, ""),
            State::Unavailable => (Wire::Unavailable, ""),
            State::Disabled => (Wire::Disabled, ""),
        };
        Self {
            state: state.into(),
            rung: rung.to_string(),
            message: status.message.clone(),
            produced: status.kernel.produced,
            seen: status.seen,
            lost: status.kernel.lost,
            allowed: status.allowed,
            denied: status.denied,
            degradations: status.degradations.iter().map(Into::into).collect(),
            sampled_out: status.sampled_out,
            history_bytes: status.history_bytes as u64,
            forgotten: status.forgotten,
            failed: status.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::tests::{check, record};
    use super::super::reason::Reason;
    use super::*;

    #[test]
    fn a_check_on_the_wire_has_its_names() {
        let mut denied = check(&record());
        denied.reason = Reason::of(&denied);
        let wire = console::Check::from(&denied);
        assert_eq!((wire.syscall.as_str(), wire.argument.as_str()), ("mount", "sysfs"));
        assert_eq!(wire.capability_name, "CAP_SYS_ADMIN");
        assert_eq!(wire.verdict(), console::check::Verdict::Denied);
        assert_eq!((wire.caller_userns, wire.target_userns, wire.caller_netns), (100, 4_026_531_837, 200));
        assert_eq!(wire.reason, "netns-owned-by-other-userns");
        assert_eq!(wire.pod_id, "");
    }
}
