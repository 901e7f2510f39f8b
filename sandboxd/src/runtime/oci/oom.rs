//! The score by which the kernel chooses whom to kill, where it is out of reach.
//!
//! Lowering it takes CAP_SYS_RESOURCE. Kubelet asks for negative scores for critical pods, which static ones are,
//! and for guaranteed ones; an OCI runtime without the capability fails at that with words about a pipe.

use oci_spec::runtime::{Capability, Process};

use crate::runtime::capabilities;

/// Puts the daemon's own score for a lower one that cannot be had, and says so.
pub fn within_reach(process: &mut Process) -> Option<String> {
    let asked = process.oom_score_adj()?;
    if capabilities::own().is_ok_and(|own| own.contains(&Capability::SysResource)) {
        return None;
    }
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    let given = nearest(asked, own)?;
    process.set_oom_score_adj(Some(given));
    Some(format!(
        "oom_score_adj: asked for {asked}, is the daemon's own {given} (CAP_SYS_RESOURCE is missing)"
    ))
}

/// What is had instead, with a score of one's own.
fn nearest(asked: i32, own: i32) -> Option<i32> {
    (asked < own).then_some(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_lower_is_out_of_reach() {
        assert_eq!(
            [(-997, 0), (-997, -999), (-5, -5)].map(|(asked, own)| nearest(asked, own)),
            [Some(0), None, None]
        );
        let mut process = Process::default();
        process.set_oom_score_adj(Some(500));
        assert_eq!((within_reach(&mut process), process.oom_score_adj()), (None, Some(500)));
    }
}
