//! The text of the default profiles: what a container that is not privileged may not do to the machine, whichever
//! capabilities it has.
//!
//! Nothing is included but the ABI, where the parser has it: it is pinned because from 4.0 on the same rules grant
//! less (no unix sockets by `network`, no user namespaces). With `file`, children stay in the profile.
//!
//! The rules are about paths, and who can mount proc elsewhere gets around them: so nothing is mounted. In a pod with
//! a user namespace the kernel itself keeps the files of the machine's root from the pod's, lets it mount only what
//! shows no more than is mounted already, and shows it its own sysctls: there a container that was given
//! CAP_SYS_ADMIN may mount and write those, as without AppArmor.

/// For containers with the node's user namespace.
pub const NAME: &str = "sandboxd-default";
/// For those of pods with one of their own.
pub const USERNS: &str = "sandboxd-default-userns";

/// Both profiles. `abi`: the parser has that of AppArmor 3.0. `daemon`: the label of the daemon and its shims, where
/// they are confined.
pub fn text(abi: bool, daemon: Option<&str>) -> String {
    let abi = if abi { "abi <abi/3.0>,\n" } else { "" };
    let daemon = daemon.map(|label| format!("  signal (receive) peer=\"{label}\",\n")).unwrap_or_default();
    let host = "  deny mount,\n  deny /proc/sys/** w,\n";
    let userns = "  mount,\n  pivot_root,\n";
    let one = |name: &str, differs: &str| {
        let rules = RULES.replace("{name}", name);
        format!("profile {name} flags=(attach_disconnected,mediate_deleted) {{\n{rules}{daemon}{differs}}}\n")
    };
    format!("{abi}{}{}", one(NAME, host), one(USERNS, userns))
}

const RULES: &str = "  capability,
  network,
  unix,
  file,
  umount,

  # The shims', and those of runc and crun where these have a profile of their own, as on Ubuntu.
  signal (receive) peer=unconfined,
  signal (receive) peer={,/usr/bin/,/usr/sbin/}{runc,crun},
  signal (send, receive) peer={name},
  ptrace (trace, read, tracedby, readby) peer={name},

  # Of /proc, only what belongs to a process is written; sysctls see below.
  deny /proc/* w,
  deny /proc/[^0-9s/]*/** w,
  deny /proc/s[^y/]*/** w,
  deny /proc/sysvipc/** w,
  deny /proc/{kcore,sysrq-trigger} rwklx,

  # Of /sys, only cgroups.
  deny /sys/[^f/]*/** wkl,
  deny /sys/f[^s/]*/** wkl,
  deny /sys/fs/[^c/]*/** wkl,
  deny /sys/fs/c[^g/]*/** wkl,
  # Firmware and its keys, policies of this very kind, and what the machine draws, which tells what it computes.
  deny /sys/firmware/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,

";

#[cfg(test)]
mod tests {
    use super::*;

    fn profile(text: &str, name: &str) -> String {
        let (_, rest) = text.split_once(&format!("profile {name} ")).unwrap();
        rest.split_once("\n}\n").unwrap().0.to_owned()
    }

    #[test]
    fn each_profile_knows_itself_and_only_with_a_user_namespace_is_mounting_left_to_the_kernel() {
        let text = text(false, None);
        assert!(!text.contains("abi/") && !text.contains("{name}") && !text.contains("include"), "{text}");
        let (host, userns) = (profile(&text, NAME), profile(&text, USERNS));
        for (rules, name) in [(&host, NAME), (&userns, USERNS)] {
            assert!(rules.contains(&format!("signal (send, receive) peer={name},")), "{rules}");
            assert!(rules.contains(&format!("readby) peer={name},")), "{rules}");
            assert!(rules.contains("deny /proc/{kcore,sysrq-trigger} rwklx,"), "{rules}");
            assert!(!rules.contains("change_profile"), "{rules}");
        }
        assert!(host.contains("\n  deny mount,\n") && host.contains("deny /proc/sys/** w,"), "{host}");
        assert!(userns.contains("\n  mount,\n") && !userns.contains("/proc/sys/"), "{userns}");
    }

    #[test]
    fn the_abi_comes_first_and_a_confined_daemon_may_end_its_containers() {
        let text = text(true, Some("my daemon"));
        assert!(text.starts_with("abi <abi/3.0>,\nprofile "), "{text}");
        assert_eq!(text.matches("signal (receive) peer=\"my daemon\",").count(), 2, "{text}");
    }
}
