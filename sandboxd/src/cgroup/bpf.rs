//! Device access on cgroup v2: a BPF_PROG_TYPE_CGROUP_DEVICE program, written here instruction by
//! instruction and attached to the cgroup, whose it is from then on. It needs no helper, no map and no BTF.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::devices::{MKNOD, READ, Rule, WRITE};
use super::error::CgroupError;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_ATTACH: libc::c_int = 8;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
/// Beside programs of others: an access needs the consent of all.
const BPF_F_ALLOW_MULTI: u32 = 2;

/// `struct bpf_insn`: registers are two nibbles, the destination the low one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn insn(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Insn {
    Insn { code, registers: source << 4 | destination, offset, immediate }
}

/// `*(u32 *)(src + offset)`
const fn load(destination: u8, source: u8, offset: i16) -> Insn {
    insn(0x61, destination, source, offset, 0)
}
const fn move_immediate(destination: u8, value: i32) -> Insn {
    insn(0xb7, destination, 0, 0, value)
}
const fn move_register(destination: u8, source: u8) -> Insn {
    insn(0xbf, destination, source, 0, 0)
}
const fn and(destination: u8, value: i32) -> Insn {
    insn(0x57, destination, 0, 0, value)
}
const fn shift_right(destination: u8, by: i32) -> Insn {
    insn(0x77, destination, 0, 0, by)
}
/// Jumps over the rest of a rule where the 32-bit values differ; its length is put in later.
const fn differs(register: u8, value: i32) -> Insn {
    insn(0x56, register, 0, 0, value)
}
const fn differs_register(register: u8, other: u8) -> Insn {
    insn(0x5e, register, other, 0, 0)
}
const EXIT: Insn = insn(0x95, 0, 0, 0, 0);

/// The program: for each rule compare and allow, and deny at the end. r2 is the kind, r3 the access asked
/// for, r4 and r5 the numbers of the device.
pub(super) fn program(rules: &[Rule]) -> Vec<Insn> {
    let mut program = vec![
        load(2, 1, 0),
        move_register(3, 2),
        and(2, 0xffff),
        shift_right(3, 16),
        load(4, 1, 4),
        load(5, 1, 8),
    ];
    for rule in rules {
        let mut block = Vec::with_capacity(7);
        if let Some(kind) = rule.kind {
            block.push(differs(2, kind as i32));
        }
        if rule.access != MKNOD | READ | WRITE {
            // Everything asked for has to be in the rule.
            block.push(move_register(1, 3));
            block.push(and(1, i32::from(rule.access)));
            block.push(differs_register(1, 3));
        }
        block.extend(rule.major.map(|major| differs(4, major.cast_signed())));
        block.extend(rule.minor.map(|minor| differs(5, minor.cast_signed())));
        block.extend([move_immediate(0, 1), EXIT]);
        let length = block.len();
        for (at, insn) in block.iter_mut().enumerate() {
            if matches!(insn.code, 0x56 | 0x5e) {
                insn.offset = i16::try_from(length - at - 1).unwrap_or(0);
            }
        }
        program.extend(block);
    }
    program.extend([move_immediate(0, 0), EXIT]);
    program
}

/// `union bpf_attr` of BPF_PROG_LOAD, as far as it is used: the kernel takes a shorter one.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
}

/// `union bpf_attr` of BPF_PROG_ATTACH.
#[repr(C)]
struct AttachAttr {
    target_fd: RawFd,
    attach_bpf_fd: RawFd,
    attach_type: u32,
    attach_flags: u32,
}

/// bpf(2).
///
/// # Safety
/// `attr` is the command's part of `union bpf_attr`, and what it points to is alive and as long as it says.
unsafe fn bpf<T>(command: libc::c_int, attr: &T) -> io::Result<RawFd> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes at `attr`; the rest is the caller's promise.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    RawFd::try_from(answer).map_err(io::Error::other)
}

/// Loads a program.
pub(super) fn load_program(program: &[Insn]) -> io::Result<OwnedFd> {
    let attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(io::Error::other)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `insns` points to `insn_cnt` instructions that live until the call returns; the licence is a
    // static string with its NUL.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &attr) }?;
    // SAFETY: a successful BPF_PROG_LOAD answers with a new descriptor, which nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Allows the processes of a v2 cgroup these devices and no others.
pub(super) fn attach(dir: &Path, rules: &[Rule]) -> Result<(), CgroupError> {
    let error = |source| CgroupError::Io {
        action: "attaching a BPF program (BPF_CGROUP_DEVICE) to cgroup",
        path: dir.to_owned(),
        source,
    };
    let cgroup = File::open(dir).map_err(error)?;
    let program = load_program(&program(rules)).map_err(|source| CgroupError::Io {
        action: "loading a BPF program (BPF_PROG_TYPE_CGROUP_DEVICE) for cgroup",
        path: dir.to_owned(),
        source,
    })?;
    let attr = AttachAttr {
        target_fd: cgroup.as_raw_fd(),
        attach_bpf_fd: program.as_raw_fd(),
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: it points to nothing.
    unsafe { bpf(BPF_PROG_ATTACH, &attr) }.map_err(error)?;
    Ok(())
}
