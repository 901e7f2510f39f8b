//! Capabilities by number, as the kernel counts them (linux/capability.h), and as the OCI runtime spec names
//! them.

use std::str::FromStr;

use oci_spec::runtime::{Capabilities, Capability};

/// Index n is capability n, without its prefix.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What container runtimes grant by default.
pub const DEFAULT: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

/// Bit n for capability n.
#[must_use]
pub fn bits(capabilities: &Capabilities) -> u64 {
    capabilities
        .iter()
        .filter_map(|capability| NAMES.iter().position(|name| *name == capability.to_string()))
        .fold(0, |bits, number| bits | 1 << number)
}

/// The capabilities of a mask; numbers without a name are left out.
#[must_use]
pub fn from_bits(bits: u64) -> Capabilities {
    NAMES
        .iter()
        .enumerate()
        .filter(|(number, _)| bits & 1 << number != 0)
        .filter_map(|(_, name)| Capability::from_str(name).ok())
        .collect()
}

/// The number of a capability by its name, in any case, with or without "CAP_".
#[must_use]
pub fn number(name: &str) -> Option<u32> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    NAMES.iter().position(|known| *known == name).and_then(|number| u32::try_from(number).ok())
}

/// Every capability there is.
#[must_use]
pub fn all() -> u64 {
    (1 << NAMES.len()) - 1
}

/// What this process could give at most: permitted, and in the bounding set.
///
/// # Errors
/// Those of capget(2).
pub fn own() -> std::io::Result<Capabilities> {
    let permitted = rustix::thread::capabilities(None)?.permitted;
    let bits = (0..NAMES.len()).map(|number| 1u64 << number).filter(|bit| {
        let capability = rustix::thread::CapabilitySet::from_bits_retain(*bit);
        permitted.bits() & bit != 0
            && rustix::thread::capability_is_in_bounding_set(capability).unwrap_or(false)
    });
    Ok(from_bits(bits.fold(0, |all, bit| all | bit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_known_to_the_spec_and_keeps_its_number() {
        for (number, name) in NAMES.iter().enumerate() {
            let one = from_bits(1 << number);
            assert_eq!(one.len(), 1, "{name}");
            assert_eq!(bits(&one), 1 << number);
        }
    }

    #[test]
    fn the_default_set_is_the_usual_mask() {
        assert_eq!(bits(&DEFAULT.into_iter().collect()), 0xa804_25fb);
    }
}
