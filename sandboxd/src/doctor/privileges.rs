//! Capabilities of the daemon.

use super::Check;

/// Bit numbers of capabilities(7) and what they are for.
const NEEDED: [(u32, &str, &str); 10] = [
    (0, "CAP_CHOWN", "giving files to the pods' mapped roots"),
    (1, "CAP_DAC_OVERRIDE", "reaching files of mapped ids"),
    (3, "CAP_FOWNER", "setting modes of files of mapped ids"),
    (5, "CAP_KILL", "ending pods' processes"),
    (6, "CAP_SETGID", "writing gid maps"),
    (7, "CAP_SETUID", "writing uid maps"),
    (12, "CAP_NET_ADMIN", "the pods' network"),
    (18, "CAP_SYS_CHROOT", "entering the pods' mount namespaces"),
    (19, "CAP_SYS_PTRACE", "looking at the namespaces of the pods' processes"),
    (CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "namespaces and mounts"),
];
const CAP_SYS_ADMIN: u32 = 21;
const CAP_SYS_RESOURCE: u32 = 24;

/// Whether the daemon has CAP_SYS_ADMIN: what it would serve without is a CRI that makes no pod. Where proc
/// cannot be read, the daemon finds out by trying.
#[must_use]
pub fn may_make_pods() -> bool {
    effective().is_none_or(|effective| has(effective, CAP_SYS_ADMIN))
}

pub(super) fn checks() -> Vec<Check> {
    let Some(effective) = effective() else {
        return vec![Check::fail(
            "capabilities",
            "CapEff is not readable in /proc/self/status",
            "mount proc on /proc, and run as root",
        )];
    };
    vec![needed(effective), resource(effective)]
}

fn has(effective: u64, bit: u32) -> bool {
    effective & (1 << bit) != 0
}

fn needed(effective: u64) -> Check {
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|(bit, ..)| !has(effective, *bit))
        .map(|(_, name, purpose)| format!("{name} ({purpose})"))
        .collect();
    if missing.is_empty() {
        return Check::ok("capabilities", "every capability that pods need is there");
    }
    let reason = format!("missing: {}", missing.join(", "));
    Check::fail("capabilities", reason, "run sandboxd as root with a full bounding set")
}

fn resource(effective: u64) -> Check {
    if has(effective, CAP_SYS_RESOURCE) {
        return Check::ok("cap_sys_resource", "oom_score_adj and rlimits are set as asked");
    }
    Check::warn(
        "cap_sys_resource",
        "CAP_SYS_RESOURCE is missing: oom_score_adj cannot be lowered below the daemon's own and hard rlimits \
         cannot be raised; both are clamped, with a warning that names the two values",
        "grant it (it is part of root's full set), or give kubelet oomScoreAdj: 0",
    )
}

fn effective() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("CapEff:"))?;
    u64::from_str_radix(line.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn missing_ones_are_named_with_what_follows() {
        let all = u64::MAX;
        assert_eq!(needed(all).verdict, Verdict::Ok);
        let check = needed(all & !(1 << 12));
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.reason.contains("CAP_NET_ADMIN (the pods' network)"), "{}", check.reason);
        assert_eq!(resource(all & !(1 << 24)).verdict, Verdict::Warn);
    }
}
