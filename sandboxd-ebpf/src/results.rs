//! The results of the syscalls that checks are recorded of.
//!
//! One trampoline at the end of each syscall's own function, which no other syscall notices; or one program at the
//! end of every syscall of the machine. A result is a record in the same ring as the checks, so that it comes
//! after those of its syscall.

use aya_ebpf::Global;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::{btf_map, btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use sandboxd_ebpf::{CheckRecord, Syscall, valid};

use crate::kernel::{self, Ptr, Regs, Typed};

/// Not 0: results are looked for.
#[unsafe(no_mangle)]
static RESULTS_WANTED: Global<u32> = Global::new(0);

/// Threads in a syscall of which a check was reported: the results of others tell nobody anything, and those of a
/// flood of checks that were held back would be one.
#[btf_map]
static AWAITED: LruHashMap<u64, u32, 1024> = LruHashMap::new();

/// A check of this thread's syscall was reported.
#[inline(always)]
pub fn awaited() {
    if RESULTS_WANTED.load() != 0 {
        // A full map evicts; what is not in it stays without a result.
        let _ = AWAITED.insert(bpf_get_current_pid_tgid(), 1, 0);
    }
}

/// The largest errno (MAX_ERRNO of include/linux/err.h).
const MAX_ERRNO: i64 = 4095;

macro_rules! at_the_end_of {
    ($($program:ident: $syscall:ident,)*) => {
        $(
            /// `long __x64_sys_...(const struct pt_regs *regs)`; the result comes after the argument.
            #[fexit]
            fn $program(ctx: FExitContext) -> i32 {
                report(Syscall::$syscall, ctx.arg(1));
                0
            }
        )*
    };
}
at_the_end_of! {
    result_mount: Mount,
    result_fsopen: Fsopen,
    result_fsconfig: Fsconfig,
    result_fsmount: Fsmount,
    result_move_mount: MoveMount,
    result_setns: Setns,
    result_unshare: Unshare,
}

/// `TP_PROTO(struct pt_regs *regs, long ret)`.
#[btf_tracepoint(function = "sys_exit")]
fn results_sys_exit(ctx: BtfTracePointContext) -> i32 {
    let number = Regs::at(Ptr::new(ctx.arg::<u64>(0))).number();
    if !kernel::may_have_result(number) {
        return 0;
    }
    if let Some(syscall) = kernel::gated(number)
        && syscall.result_program().is_some()
    {
        report(syscall, ctx.arg(1));
    }
    0
}

#[inline(always)]
fn report(syscall: Syscall, returned: i64) {
    // SAFETY: a helper without arguments; never null in a tracing program.
    let task = Ptr::<Typed>::new(unsafe { bpf_get_current_task_btf() } as u64);
    if kernel::is_kernel_thread(task) {
        return;
    }
    let pid_tgid = bpf_get_current_pid_tgid();
    if AWAITED.remove(pid_tgid).is_err() {
        return;
    }
    // A result that finds no room is not known, as one that is not looked for.
    let Some(mut entry) = crate::CHECKS.reserve(0) else { return };
    let words = entry.as_mut_ptr().cast::<u64>();
    for word in 0..size_of::<CheckRecord>() / 8 {
        // SAFETY: inside the record, whose size and alignment are multiples of eight.
        unsafe { words.add(word).write_volatile(0) };
    }
    // SAFETY: reserve gives room for one record, which is all zeroes now: a value of each field.
    let out = unsafe { &mut *entry.as_mut_ptr() };
    // SAFETY: a helper without arguments.
    out.time_ns = unsafe { bpf_ktime_get_boot_ns() };
    out.pid = (pid_tgid >> 32) as u32;
    out.tid = pid_tgid as u32;
    out.syscall = syscall as u32;
    out.ret = if returned < 0 && returned >= -MAX_ERRNO { returned as i32 } else { 0 };
    out.valid = valid::RESULT;
    entry.submit(0);
}
