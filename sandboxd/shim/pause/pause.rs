//! The infra container's process: PID 1 of a pod, a file of about a kilobyte.
//!
//! It waits. As PID 1 of a shared pid namespace it also reaps what is reparented to it, and it ends with 0 on
//! SIGTERM or SIGINT. No libc, no allocation, no writable data: what it costs a pod is its stack.
//!
//! The three signals are blocked and taken with rt_sigtimedwait(2), so there is no handler, no race between
//! "no child left" and "wait", and PID 1 gets signals it would otherwise be shielded from (signal(7): a blocked
//! signal is queued whatever its disposition). The shim has blocked them before exec, so that none is lost in
//! between; blocking them again here makes the pause right on its own.

#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

#[cfg(target_arch = "x86_64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 14;
    pub const WAIT4: usize = 61;
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const EXIT_GROUP: usize = 231;
}

#[cfg(target_arch = "aarch64")]
mod nr {
    pub const RT_SIGPROCMASK: usize = 135;
    pub const WAIT4: usize = 260;
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const EXIT_GROUP: usize = 94;
}

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "and rsp, -16", "call {run}", "ud2", run = sym run);

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "bl {run}", "brk #1", run = sym run);

const SIGINT: isize = 2;
const SIGTERM: isize = 15;
const SIGCHLD: isize = 17;
const SIG_BLOCK: usize = 0;
const WNOHANG: usize = 1;
const EINTR: isize = -4;
/// The kernel's sigset_t, in bytes.
const SET_BYTES: usize = 8;
/// EX_OSERR of sysexits.h: the kernel refused to wait (a seccomp profile that is too strict).
const REFUSED: usize = 71;

extern "C" fn run() -> ! {
    let set: u64 = 1 << (SIGINT - 1) | 1 << (SIGTERM - 1) | 1 << (SIGCHLD - 1);
    let set = (&raw const set) as usize;
    call(nr::RT_SIGPROCMASK, [SIG_BLOCK, set, 0, SET_BYTES]);
    loop {
        match call(nr::RT_SIGTIMEDWAIT, [set, 0, 0, SET_BYTES]) {
            SIGINT | SIGTERM => exit(0),
            SIGCHLD => while call(nr::WAIT4, [usize::MAX, 0, WNOHANG, 0]) > 0 {},
            EINTR => {}
            _ => exit(REFUSED),
        }
    }
}

fn exit(code: usize) -> ! {
    loop {
        call(nr::EXIT_GROUP, [code, 0, 0, 0]);
    }
}

#[cfg(target_arch = "x86_64")]
fn call(number: usize, args: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: the four calls above read the set on `run`'s stack, which lives as long as the process, and
    // write nothing; rcx and r11 are what `syscall` itself overwrites.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") args[0], in("rsi") args[1],
             in("rdx") args[2], in("r10") args[3], lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

#[cfg(target_arch = "aarch64")]
fn call(number: usize, args: [usize; 4]) -> isize {
    let result: isize;
    // SAFETY: as on x86-64; `svc 0` preserves every register but x0.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") args[0] => result, in("x1") args[1], in("x2") args[2],
             in("x3") args[3], options(nostack));
    }
    result
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    exit(REFUSED)
}
