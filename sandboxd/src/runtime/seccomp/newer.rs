//! System calls that are newer than a profile.
//!
//! A profile that allows what it names denies a call that it could not have named, and a C library that tries the call
//! takes EPERM for the answer to what it asked, where ENOSYS would have it fall back to an older call. So, as runc does
//! (libcontainer/seccomp/patchbpf), calls with numbers above all that a profile names fail with ENOSYS.
//!
//! ```text
//!  for each architecture of the profile:   arch? ──▶ number above the highest named ──▶ ENOSYS
//!                                                    else ──▶ the program that libseccomp made
//! ```

use libseccomp::{ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;

/// `struct seccomp_data`: the number, the architecture.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_JMP|BPF_JGT|BPF_K, BPF_RET|BPF_K (linux/filter.h).
const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
const ABOVE: u16 = 0x25;
const RETURN: u16 = 0x06;
const SECCOMP_RET_ERRNO: u32 = 0x0005_0000;
/// Numbers with this bit are x32's (__X32_SYSCALL_BIT).
const X32: u32 = 0x4000_0000;

/// What is put before the program of a profile for these architectures.
pub(super) fn prefix(profile: &LinuxSeccomp, architectures: &[ScmpArch]) -> Vec<u8> {
    let mut program = Vec::new();
    for arch in architectures {
        if let (Some(token), Some(highest)) = (token(*arch), highest(profile, *arch)) {
            program.extend(segment(token, highest).into_iter().flatten());
        }
    }
    program
}

/// AUDIT_ARCH_* of linux/audit.h. Of others nothing is known here, and they keep what the profile says.
fn token(arch: ScmpArch) -> Option<u32> {
    match arch {
        ScmpArch::X8664 => Some(0xc000_003e),
        ScmpArch::X86 => Some(0x4000_0003),
        ScmpArch::Aarch64 => Some(0xc000_00b7),
        ScmpArch::Arm => Some(0x4000_0028),
        _ => None,
    }
}

fn highest(profile: &LinuxSeccomp, arch: ScmpArch) -> Option<u32> {
    let names = profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let numbers = names.filter_map(|name| ScmpSyscall::from_name_by_arch(name, arch).ok());
    // libseccomp has negative numbers for those that this architecture does not have.
    numbers.filter_map(|number| u32::try_from(i32::from(number)).ok()).filter(|number| *number < X32).max()
}

fn segment(token: u32, highest: u32) -> [[u8; 8]; 6] {
    let enosys = SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    [
        instruction(LOAD, 0, 0, ARCHITECTURE),
        instruction(EQUAL, 0, 4, token),
        instruction(LOAD, 0, 0, NUMBER),
        instruction(ABOVE, 2, 0, X32 - 1),
        instruction(ABOVE, 0, 1, highest),
        instruction(RETURN, 0, 0, enosys),
    ]
}

/// `struct sock_filter`.
fn instruction(code: u16, yes: u8, no: u8, value: u32) -> [u8; 8] {
    let ([a, b], [c, d, e, f]) = (code.to_ne_bytes(), value.to_ne_bytes());
    [a, b, yes, no, c, d, e, f]
}
