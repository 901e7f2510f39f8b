//! What the process may do: limits, ids, capabilities, seccomp; and exec.

use std::convert::Infallible;
use std::ffi::CString;
use std::os::fd::BorrowedFd;

use rustix::io::Errno;
use sandboxd_shim::plan::container::Command;
use sandboxd_shim::plan::{Capabilities, Rlimit};

use super::{lookup, resolve};
use crate::kernel::{Guest, Last, here};
use crate::step::{Step, StepError};

/// Where [`streams`] leaves the link to the shim, where the label goes to, the master of the terminal.
pub const REPORT_FD: i32 = 3;
const LABEL_FD: i32 = 4;
pub const MASTER_FD: i32 = 5;
/// Capability numbers (capabilities(7)).
const CAP_SYS_ADMIN: u64 = 1 << 21;

/// First thing in the new process: root of the user namespace it is in, in a session of its own.
pub fn settle<K: Guest>(kernel: &K, user_namespace: bool) -> Result<(), StepError> {
    kernel.default_signals().step(|| "reset the signals".into())?;
    kernel.new_session().step(|| "make a session".into())?;
    if user_namespace {
        kernel.groups(&[]).step(|| "clear the supplementary groups".into())?;
        kernel.gids(0).step(|| "become gid 0 of the user namespace".into())?;
        kernel.uids(0).step(|| "become uid 0 of the user namespace".into())?;
    }
    kernel.die_with_parent().step(|| "ask to die with the shim".into())
}

/// Limits and capabilities as far as the process may have them, and warnings where that is not all.
pub fn clamp<K: Guest>(kernel: &K, command: &mut Command) -> Result<Vec<String>, StepError> {
    let mut warnings = Vec::new();
    for limit in &mut command.process.rlimits {
        let most = kernel.hard_limit(limit.resource);
        let most = most.step(|| format!("read resource limit {}", limit.resource))?;
        if limit.hard > most {
            let clamped = Rlimit { soft: limit.soft.min(most), hard: most, ..*limit };
            warnings.push(format!(
                "resource limit {}: asked for {}:{}, clamped to {}:{} (CAP_SYS_RESOURCE is missing)",
                limit.resource, limit.soft, limit.hard, clamped.soft, clamped.hard
            ));
            *limit = clamped;
        }
    }
    let sets = &mut command.process.capabilities;
    let held = kernel.held().step(|| "read the capabilities".into())?;
    let asked = sets.bounding | sets.permitted | sets.effective | sets.inheritable | sets.ambient;
    if asked & !held != 0 {
        warnings.push(format!(
            "capabilities: asked for {asked:#x}, kept {:#x}, which the shim has",
            asked & held
        ));
    }
    for set in [
        &mut sets.bounding,
        &mut sets.permitted,
        &mut sets.effective,
        &mut sets.inheritable,
        &mut sets.ambient,
    ] {
        *set &= held;
    }
    Ok(warnings)
}

/// What the process keeps of all that the shim has open.
#[derive(Debug)]
pub struct Keep<'a> {
    pub streams: [BorrowedFd<'a>; 3],
    pub link: BorrowedFd<'a>,
    pub label: Option<BorrowedFd<'a>>,
    /// The terminal's, whose slave the streams are.
    pub master: Option<BorrowedFd<'a>>,
}

/// Closes everything but that. A terminal becomes the session's.
pub fn keep<K: Guest>(kernel: &K, keep: &Keep<'_>) -> Result<(), StepError> {
    let mut kept = vec![keep.link, keep.label.unwrap_or(keep.link)];
    kept.extend(keep.master);
    kernel.only_fds(keep.streams, &kept).step(|| "close inherited descriptors".into())?;
    if keep.master.is_some() {
        // SAFETY: `only_fds` put it there.
        let own = unsafe { BorrowedFd::borrow_raw(0) };
        kernel.control(own).step(|| "make the terminal the session's".into())?;
    }
    Ok(())
}

/// Gives up what the process may not have, the filter last, and executes the command.
pub fn enter<K: Guest>(
    kernel: &K,
    command: &Command,
    seccomp: Option<&[u8]>,
) -> Result<Infallible, StepError> {
    let process = &command.process;
    let args = command.args.iter().map(|one| CString::new(one.as_str())).collect::<Result<Vec<_>, _>>();
    let args = args.map_err(|_| Errno::INVAL).step(|| "read the arguments (a NUL)".into())?;
    let name = command.args.first().ok_or(Errno::INVAL).step(|| "find a command to execute".into())?;

    kernel.umask(process.umask);
    // As root, who sees every directory; else as the user, whom a file server may know better.
    let cwd = || {
        let root = kernel.resolve(here(), "/", Last::Follow)?;
        let dir =
            kernel.resolve(std::os::fd::AsFd::as_fd(&root), resolve::relative(&command.cwd), Last::Follow)?;
        kernel.enter_dir(std::os::fd::AsFd::as_fd(&dir))
    };
    // The root itself is where the process is by now.
    let entered = cwd();
    // A filter without no_new_privs takes CAP_SYS_ADMIN, and so is installed before that is given up.
    let admin = if seccomp.is_some() && !process.no_new_privs { CAP_SYS_ADMIN } else { 0 };
    let sets = process.capabilities;
    kernel.bounding(sets.bounding).step(|| "drop capabilities from the bounding set".into())?;
    kernel.keep_once().step(|| "keep capabilities over the change of ids".into())?;
    kernel.groups(&process.groups).step(|| format!("set the supplementary groups {:?}", process.groups))?;
    kernel.gids(process.gid).step(|| format!("become gid {}", process.gid))?;
    kernel.uids(process.uid).step(|| format!("become uid {}", process.uid))?;
    let until_filtered =
        Capabilities { permitted: sets.permitted | admin, effective: sets.effective | admin, ..sets };
    kernel.capabilities(until_filtered).step(|| "set the capabilities".into())?;
    if sets.ambient != 0 {
        kernel
            .raise_ambient(sets.ambient)
            .step(|| format!("raise ambient capabilities {:#x}", sets.ambient))?;
    }
    // A change of ids forgets it.
    kernel.die_with_parent().step(|| "ask to die with the shim".into())?;
    if entered.is_err() {
        cwd().step(|| format!("enter the working directory {}", command.cwd))?;
    }
    let path = lookup::command(kernel, name, &command.env)?;
    if let Some(label) = &command.label {
        // SAFETY: `streams` put it there, whenever there is a label.
        let file = unsafe { BorrowedFd::borrow_raw(LABEL_FD) };
        kernel.put(file, label.as_bytes()).step(|| match label.strip_prefix("exec ") {
            Some(profile) => format!("enter the AppArmor profile {profile:?}"),
            None => format!("ask for the SELinux label {label:?}"),
        })?;
    }
    if process.no_new_privs {
        kernel.no_new_privs().step(|| "set no_new_privs".into())?;
    }
    for limit in &process.rlimits {
        kernel
            .limit(limit.resource, limit.soft, limit.hard)
            .step(|| format!("set resource limit {} to {}:{}", limit.resource, limit.soft, limit.hard))?;
    }
    if let Some(program) = seccomp {
        kernel.seccomp(program).step(|| "install the seccomp filter".into())?;
        if admin & !(sets.permitted & sets.effective) != 0 {
            kernel.drop_to(sets).step(|| "give up CAP_SYS_ADMIN".into())?;
        }
    }
    kernel.run(&path, &args, &command.env).step(|| format!("exec {}", path.to_string_lossy()))
}
