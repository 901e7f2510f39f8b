//! The shim's side of making the process: namespaces in one clone3, maps, oom score.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use sandboxd_shim::plan::{IdMaps, Net, Plan};

use crate::kernel::{Forked, Kernel, here};
use crate::step::{Step, StepError};

/// The namespaces that clone3 makes. The kernel makes the user namespace first, whatever the order of the bits:
/// it owns the others (copy_creds before copy_namespaces in copy_process).
fn flags(plan: &Plan) -> u64 {
    let namespaces = &plan.namespaces;
    [
        (true, libc::CLONE_NEWNS),
        (namespaces.user.is_some(), libc::CLONE_NEWUSER),
        (namespaces.net == Net::New, libc::CLONE_NEWNET),
        (namespaces.pid, libc::CLONE_NEWPID),
        (namespaces.ipc, libc::CLONE_NEWIPC),
        (namespaces.uts, libc::CLONE_NEWUTS),
    ]
    .into_iter()
    .filter(|(new, _)| *new)
    .fold(0, |bits, (_, flag)| bits | u64::from(flag.unsigned_abs()))
}

/// Makes the process. Around the call the shim is the mapped root, with its capabilities: the owner of a user
/// namespace, charged for all that is made in it, is the effective uid that makes it.
pub fn fork<K: Kernel>(kernel: &K, plan: &Plan, fds: &[OwnedFd]) -> Result<Forked, StepError> {
    for limit in &plan.process.rlimits {
        // Only the initial user namespace's CAP_SYS_RESOURCE raises limits. Where it is missing the process
        // clamps and warns.
        let hard =
            kernel.hard_limit(limit.resource).step(|| format!("read resource limit {}", limit.resource))?;
        if limit.hard > hard {
            let _ = kernel.limit(limit.resource, limit.soft, limit.hard);
        }
    }
    let own_net = match plan.namespaces.net {
        Net::Join(index) => {
            let netns = fds.get(usize::from(index)).ok_or(Errno::BADF).step(|| {
                format!("find the network namespace among the message's descriptors (number {index})")
            })?;
            let own =
                kernel.open(here(), "/proc/self/ns/net", false).step(|| "open the shim's netns".into())?;
            kernel
                .join(netns.as_fd(), libc::CLONE_NEWNET)
                .step(|| "join the pod's network namespace".into())?;
            Some(own)
        }
        Net::New | Net::Host => None,
    };
    let owner = plan.namespaces.user.as_ref().map(|maps| maps.owner);
    if let Some((uid, gid)) = owner {
        kernel.keep_capabilities(true).step(|| "keep capabilities over a change of ids".into())?;
        kernel.effective_ids(uid, gid).step(|| format!("become the mapped root, {uid}:{gid}"))?;
    }
    let forked = kernel.clone3(flags(plan)).step(|| "make the pod's namespaces (clone3)".into());
    if matches!(forked, Ok(Forked::Child)) {
        return forked;
    }
    if owner.is_some() {
        kernel.effective_ids(0, 0).step(|| "become root again".into())?;
        kernel.keep_capabilities(false).step(|| "reset the secure bits".into())?;
    }
    if let Some(own) = own_net {
        kernel.join(own.as_fd(), libc::CLONE_NEWNET).step(|| "rejoin the shim's network namespace".into())?;
    }
    forked
}

/// Writes the id maps and the oom score. Returns warnings.
pub fn configure<K: Kernel>(kernel: &K, plan: &Plan, pid: i32) -> Result<Vec<String>, StepError> {
    let mut warnings = Vec::new();
    if let Some(maps) = &plan.namespaces.user {
        write_maps(kernel, maps, pid)?;
    }
    if let Some(score) = plan.process.oom_score_adj {
        let words = || format!("set oom_score_adj to {score}");
        match kernel.write(here(), &format!("/proc/{pid}/oom_score_adj"), score.to_string().as_bytes()) {
            Err(Errno::ACCESS | Errno::PERM) => warnings.push(format!(
                "oom_score_adj: asked for {score}, kept at the shim's own {} (CAP_SYS_RESOURCE is missing)",
                own_oom_score()
            )),
            other => other.step(words)?,
        }
    }
    Ok(warnings)
}

/// Writes uid_map and gid_map.
pub fn write_maps<K: Kernel>(kernel: &K, maps: &IdMaps, pid: i32) -> Result<(), StepError> {
    for (name, lines) in [("uid_map", &maps.uids), ("gid_map", &maps.gids)] {
        let text: String =
            lines.iter().map(|(inside, outside, length)| format!("{inside} {outside} {length}\n")).collect();
        kernel
            .write(here(), &format!("/proc/{pid}/{name}"), text.as_bytes())
            .step(|| format!("write {name} ({})", text.trim_end().replace('\n', ", ")))?;
    }
    Ok(())
}

fn own_oom_score() -> String {
    std::fs::read_to_string("/proc/self/oom_score_adj").map_or_else(|_| "value".into(), |s| s.trim().into())
}
