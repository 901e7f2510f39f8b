//! The results of the syscalls that checks are recorded of.
//!
//! One trampoline at the end of each syscall's own function, which no other syscall notices; or one program at the
//! end of every syscall of the machine. A result is a record in the same ring as the checks, so that it comes
//! after those of its syscall.
//!
//! ```text
//!                    a check was reported ──▶ reported, with what the call was
//!  end of a call ──▶ failed, and no check was denied ──▶ a failure: counted as produced, and reported
//!                    else ──▶ nothing                    as far as its bucket allows
//! ```

use aya_ebpf::Global;
use aya_ebpf::btf_maps::LruHashMap;
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::{btf_map, btf_tracepoint, fexit};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext};
use sandboxd_ebpf::{CAP_SYS_ADMIN, EPERM, FlowKey, INTERNAL_ERRNO, Outcome, Syscall, call, valid};

use crate::kernel::{self, Ptr, Regs, Typed};
use crate::{Asked, Caller, failure, limit};

/// Not 0: results are looked for.
#[unsafe(no_mangle)]
static RESULTS_WANTED: Global<u32> = Global::new(0);

/// What the threads' syscalls were so far: bits of [`call`]. Also of those whose checks were held back, so that their
/// results are not taken for those of calls in which nothing was checked. A full map evicts the oldest: more threads
/// would have to be in such calls at once than it has room for.
#[btf_map]
static CALLS: LruHashMap<u64, u32, 4096> = LruHashMap::new();

/// A check was made in this thread's syscall.
#[inline(always)]
pub fn checked(syscall: Syscall, capability: u32, denied: bool, reported: bool) {
    if RESULTS_WANTED.load() == 0 {
        return;
    }
    let thread = bpf_get_current_pid_tgid();
    let entry = CALLS.get_ptr_mut(thread);
    let mut state = match entry {
        // SAFETY: the verifier has seen the null check; only this thread writes its entry.
        Some(entry) => unsafe { *entry },
        None => 0,
    };
    state = call::one_more(state, call::MADE);
    if reported {
        state = call::one_more(state, call::REPORTED);
    }
    if capability == CAP_SYS_ADMIN {
        state = call::one_more(state, call::ADMIN);
    }
    if denied && syscall.is_decided_by(capability) {
        state |= call::DENIED;
    }
    match entry {
        // SAFETY: as above.
        Some(entry) => unsafe { *entry = state },
        None => drop(CALLS.insert(thread, state, 0)),
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
    // SAFETY: copied out at once; only this thread writes its entry.
    let state = unsafe { CALLS.get(pid_tgid) }.copied().unwrap_or(0);
    if state != 0 {
        let _ = CALLS.remove(pid_tgid);
    }
    let ret = if returned < 0 && returned >= -MAX_ERRNO { returned as i32 } else { 0 };
    let errno = -ret;
    let denied = state & call::DENIED != 0 && errno == EPERM;
    let is_failure = errno != 0 && errno < INTERNAL_ERRNO && !denied;
    let is_awaited = call::count(state, call::REPORTED) != 0;
    if !is_failure && !is_awaited {
        return;
    }
    let mut outcome = Outcome { call: state, ..Outcome::default() };
    if !is_failure {
        // A result that finds no room is not known, as one that is not looked for.
        let Some(mut entry) = crate::CHECKS.reserve(0) else { return };
        // SAFETY: reserve gives room for one record.
        let out = unsafe { &mut *entry.as_mut_ptr() };
        crate::blank(out);
        // SAFETY: a helper without arguments.
        out.time_ns = unsafe { bpf_ktime_get_boot_ns() };
        out.pid = (pid_tgid >> 32) as u32;
        out.tid = pid_tgid as u32;
        out.syscall = syscall as u32;
        out.ret = ret;
        out.valid = valid::RESULT;
        out.outcome = outcome;
        entry.submit(0);
        return;
    }
    let Some(counters) = crate::COUNTERS.get_ptr_mut(0) else { return };
    outcome.call |= call::FAILURE;
    let regs = Regs::of(task);
    let asked = Asked::read(syscall, &regs);
    let seen = failure::read(&mut outcome, task, syscall, (asked.flags, errno), regs.arg0());
    let cred = task.follow(kernel::TASK_CRED.load());
    let caller_userns = kernel::inum_of_userns(cred.follow(kernel::CRED_USER_NS.load()));
    // SAFETY: the verifier has seen the null check; the map is per CPU and tracing programs are not preempted by
    // themselves, so nobody else writes this slot.
    unsafe { (*counters).produced += 1 };
    // One whose checks were reported is let through: those were let through, too, and wait for it.
    if !is_awaited {
        let key = FlowKey {
            caller_userns,
            target_userns: outcome.fd_inode,
            netns: kernel::inum(kernel::netns(task), kernel::NET_NS.load()).unwrap_or(0),
            mntns: kernel::inum(kernel::mntns(task), kernel::MNT_NS.load()).unwrap_or(0),
            what: FlowKey::failed(syscall as u32, asked.flags, errno, &outcome),
        };
        if !limit::admit(&key) {
            // SAFETY: as above.
            unsafe { (*counters).held_failed += 1 };
            return;
        }
    }
    let Some(mut entry) = crate::CHECKS.reserve(0) else {
        // SAFETY: as above.
        unsafe { (*counters).lost += 1 };
        return;
    };
    // SAFETY: reserve gives room for one record.
    let out = unsafe { &mut *entry.as_mut_ptr() };
    crate::blank(out);
    out.syscall = syscall as u32;
    out.ret = ret;
    let read = Caller { task, cred, userns: caller_userns }.fill(out, &asked);
    out.valid = read | seen | valid::RESULT;
    out.outcome = outcome;
    entry.submit(0);
}
