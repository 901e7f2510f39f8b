//! Names of capabilities, namespace flags and mount flags.

use crate::pod::model::NsKind;

/// Number to name (include/uapi/linux/capability.h).
const CAPABILITIES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

pub const CAP_SYS_CHROOT: u32 = 18;
pub const CAP_SYS_PTRACE: u32 = 19;
pub const CAP_SYS_ADMIN: u32 = 21;

/// The last number that can have a name one day: sets of capabilities have 64 bits.
pub const CAPABILITY_LAST: u32 = 63;

/// The name of a capability; a number newer than this table stays a number.
#[must_use]
pub fn capability(number: u32) -> String {
    let name = usize::try_from(number).ok().and_then(|n| CAPABILITIES.get(n));
    name.map_or_else(|| format!("CAP_{number}"), |name| (*name).to_string())
}

/// The CLONE_NEW* flags (include/uapi/linux/sched.h), in the order in which tools print them.
const NAMESPACES: [(u64, NsKind); 8] = [
    (0x1000_0000, NsKind::User),
    (0x4000_0000, NsKind::Net),
    (0x0002_0000, NsKind::Mnt),
    (0x2000_0000, NsKind::Pid),
    (0x0800_0000, NsKind::Ipc),
    (0x0400_0000, NsKind::Uts),
    (0x0200_0000, NsKind::Cgroup),
    (0x0000_0080, NsKind::Time),
];

/// The namespaces that the flags of setns, unshare, clone or clone3 name.
#[must_use]
pub fn namespace_kinds(flags: u64) -> Vec<NsKind> {
    NAMESPACES.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, kind)| *kind).collect()
}

/// "net|user"; empty where none is named (setns with type 0 takes what the descriptor is).
#[must_use]
pub fn namespace_list(flags: u64) -> String {
    namespace_kinds(flags).iter().map(|kind| kind.name()).collect::<Vec<_>>().join("|")
}

/// mount(2) flags with which the file-system type is not looked at.
pub const MS_REMOUNT: u64 = 0x20;
pub const MS_BIND: u64 = 0x1000;
const MS_MOVE: u64 = 0x2000;
/// fsconfig(2): change the file system that was picked (include/uapi/linux/mount.h).
pub const FSCONFIG_CMD_RECONFIGURE: u64 = 7;
/// MS_UNBINDABLE, MS_PRIVATE, MS_SLAVE, MS_SHARED.
const MS_PROPAGATION: u64 = 0b1111 << 17;

/// What a mount(2) with these flags does other than mounting a file system anew.
#[must_use]
pub fn mount_operation(flags: u64) -> Option<&'static str> {
    if flags & MS_REMOUNT != 0 {
        Some("remount")
    } else if flags & MS_BIND != 0 {
        Some("bind")
    } else if flags & MS_PROPAGATION != 0 {
        Some("propagation")
    } else if flags & MS_MOVE != 0 {
        Some("move")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_have_their_numbers() {
        assert_eq!(capability(0), "CAP_CHOWN");
        assert_eq!(capability(CAP_SYS_CHROOT), "CAP_SYS_CHROOT");
        assert_eq!(capability(CAP_SYS_ADMIN), "CAP_SYS_ADMIN");
        assert_eq!(capability(40), "CAP_CHECKPOINT_RESTORE");
        assert_eq!(capability(41), "CAP_41");
    }

    #[test]
    fn flags_name_namespaces() {
        let both = u64::from((libc::CLONE_NEWNET | libc::CLONE_NEWUSER).cast_unsigned());
        assert_eq!(namespace_list(both), "user|net");
        assert_eq!(namespace_list(0), "");
        assert_eq!(namespace_list(u64::from(libc::SIGCHLD.cast_unsigned())), "");
    }

    #[test]
    fn operations_of_mount_are_told_apart() {
        assert_eq!(mount_operation(libc::MS_BIND | libc::MS_REC), Some("bind"));
        assert_eq!(mount_operation(libc::MS_REMOUNT | libc::MS_BIND), Some("remount"));
        assert_eq!(mount_operation(libc::MS_PRIVATE | libc::MS_REC), Some("propagation"));
        assert_eq!(mount_operation(libc::MS_SLAVE), Some("propagation"));
        assert_eq!(mount_operation(libc::MS_SHARED), Some("propagation"));
        assert_eq!(mount_operation(libc::MS_NOSUID | libc::MS_NODEV | libc::MS_POSIXACL), None);
    }
}
