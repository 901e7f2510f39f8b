//! The security modules of this kernel that have a say in mounts and user namespaces.

use std::sync::OnceLock;

/// All that is active, as the kernel lists it; securityfs is not mounted everywhere.
const LISTED: &str = "/sys/kernel/security/lsm";
/// Those with a hook on mounting or on making user namespaces: the others have nothing to say about either. Numbers as
/// in linux/lsm.h.
const WITH_A_SAY: [(u64, &str); 6] =
    [(101, "selinux"), (102, "smack"), (103, "tomoyo"), (104, "apparmor"), (109, "bpf"), (110, "landlock")];
/// lsm_list_modules(2), from 6.8; the same number on every architecture.
const SYS_LSM_LIST_MODULES: libc::c_long = 461;

/// Their names. `None`: this kernel does not say. They do not change while it runs.
pub(super) fn candidates() -> Option<&'static [&'static str]> {
    static CANDIDATES: OnceLock<Option<Vec<&'static str>>> = OnceLock::new();
    CANDIDATES.get_or_init(|| listed().or_else(asked)).as_deref()
}

fn listed() -> Option<Vec<&'static str>> {
    std::fs::read_to_string(LISTED).ok().map(|list| with_a_say(&list))
}

fn with_a_say(list: &str) -> Vec<&'static str> {
    let listed = |name: &str| list.trim().split(',').any(|listed| listed == name);
    WITH_A_SAY.into_iter().map(|(_, name)| name).filter(|name| listed(name)).collect()
}

fn asked() -> Option<Vec<&'static str>> {
    let mut ids = [0u64; 32];
    let mut size = u32::try_from(size_of_val(&ids)).ok()?;
    // SAFETY: the kernel writes at most `size` bytes to `ids`, and what it wrote to `size`.
    let count = unsafe { libc::syscall(SYS_LSM_LIST_MODULES, ids.as_mut_ptr(), &raw mut size, 0) };
    let ids = ids.get(..usize::try_from(count).ok()?)?;
    Some(WITH_A_SAY.into_iter().filter(|(id, _)| ids.contains(id)).map(|(_, name)| name).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_without_a_say_are_left_out() {
        assert_eq!(with_a_say("lockdown,capability,landlock,bpf\n"), ["bpf", "landlock"]);
        assert_eq!(with_a_say("capability,yama,apparmor"), ["apparmor"]);
        assert!(with_a_say("").is_empty());
    }

    /// The list, from a securityfs of this thread's own: not every machine has it mounted.
    fn listed_from_a_mount_of_its_own() -> Result<Option<Vec<&'static str>>, nix::Error> {
        let thread = std::thread::spawn(|| {
            use nix::mount::{MsFlags, mount};
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
            mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_SLAVE, None::<&str>)?;
            let (name, at) = (Some("securityfs"), "/sys/kernel/security");
            match mount(name, at, name, MsFlags::empty(), None::<&str>) {
                // Mounted there already.
                Ok(()) | Err(nix::Error::EBUSY) => Ok(listed()),
                Err(error) => Err(error),
            }
        });
        thread.join().unwrap()
    }

    #[test]
    fn both_ways_to_ask_agree() {
        if !nix::unistd::Uid::effective().is_root() {
            return eprintln!("SKIPPED: both_ways_to_ask_agree: needs root to mount securityfs");
        }
        let Some(asked) = asked() else {
            return eprintln!(
                "SKIPPED: both_ways_to_ask_agree: kernel before 6.8 has no lsm_list_modules(2)"
            );
        };
        let listed =
            listed_from_a_mount_of_its_own().expect("securityfs in a mount namespace of this thread's own");
        assert_eq!(listed, Some(asked));
    }
}
