//! The programs that report the kernel's capability checks.
//!
//! ```text
//! cap_capable() ──▶ one hook ──▶ which syscall is it in? ──▶ a namespace or mount one? ──▶ ring buffer
//!                                        (pt_regs)             no: return, nothing written
//! ```
//!
//! The hook is the best that the kernel has: the tracepoint `cap_capable` (`tp_btf`), the function's end
//! (`fexit`), or its begin and return (`kprobe`, `kretprobe`); the daemon loads one of them.
//!
//! There is no hook on syscall entry: the number and the arguments are read from the task's saved
//! registers inside the check, so that no other syscall of the machine slows down. rustc emits no CO-RE
//! relocations; the offsets of kernel structures are globals that the loader fills from the running
//! kernel's BTF, and the verifier sees them as constants. A member that the kernel does not have switches
//! off the one field that needs it.
//!
//! The results of the syscalls come from `results`: programs that are loaded only where they cost other
//! syscalls nothing, or on request.
//!
//! A 32-bit program on a 64-bit kernel has other syscall numbers: its calls are not recognised.
#![no_std]
#![no_main]

mod failure;
mod kernel;
mod limit;
mod results;
mod usage;

use aya_ebpf::btf_maps::{LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::generated::bpf_get_current_comm;
use aya_ebpf::helpers::{
    bpf_get_current_cgroup_id, bpf_get_current_pid_tgid, bpf_get_current_task_btf, bpf_ktime_get_boot_ns,
    bpf_probe_read_user, bpf_probe_read_user_str_bytes,
};
use aya_ebpf::macros::{btf_map, btf_tracepoint, fexit, kprobe, kretprobe};
use aya_ebpf::programs::{BtfTracePointContext, FExitContext, ProbeContext, RetProbeContext};
use sandboxd_ebpf::{
    CAP_SYS_ADMIN, COMM_LEN, CheckRecord, Counters, FlowKey, INIT_USERNS, RING_BYTES, Syscall, valid,
};

use kernel::{Memory, Probed, Ptr, Regs, Typed};

// Maps described in BTF: so the object carries the layout of the record, which the daemon's tests compare.
#[btf_map]
static CHECKS: RingBuf<CheckRecord, { RING_BYTES as usize }> = RingBuf::new();

#[btf_map]
static COUNTERS: PerCpuArray<Counters, 1> = PerCpuArray::new();

/// The CLONE_NEW* flags of clone(2): all but CLONE_NEWTIME, which is clone3's and unshare's only.
const CLONE_NEW: u64 = 0x7e02_0000;
const CLONE_NEWTIME: u64 = 0x80;
const CLONE_NEWUSER: u64 = 0x1000_0000;

/// `TP_PROTO(const struct cred *cred, struct user_namespace *target_ns,
/// const struct user_namespace *capable_ns, int cap, int ret)`.
#[btf_tracepoint(function = "cap_capable")]
fn cap_capable_tp(ctx: BtfTracePointContext) -> i32 {
    report::<Typed>(&Check {
        cred: Ptr::new(ctx.arg::<u64>(0)),
        target: Ptr::new(ctx.arg::<u64>(1)),
        capability: ctx.arg(3),
        ret: ctx.arg(4),
    });
    0
}

/// `int cap_capable(const struct cred *cred, struct user_namespace *targ_ns, int cap, unsigned int opts)`; the
/// result comes after the arguments.
#[fexit(function = "cap_capable")]
fn cap_capable_fexit(ctx: FExitContext) -> i32 {
    report::<Typed>(&Check {
        cred: Ptr::new(ctx.arg::<u64>(0)),
        target: Ptr::new(ctx.arg::<u64>(1)),
        capability: ctx.arg(2),
        ret: ctx.arg(4),
    });
    0
}

/// What a check that has begun was asked, until it ends.
#[repr(C)]
#[derive(Clone, Copy)]
struct Begun {
    cred: u64,
    target: u64,
    capability: u64,
}

/// By thread: a check does not sleep, and a thread makes one at a time. One that never ends (its thread was
/// missed at the return) is pushed out by newer ones.
#[btf_map]
static BEGUN: LruHashMap<u64, Begun, 1024> = LruHashMap::new();

#[kprobe]
fn cap_capable_kprobe(ctx: ProbeContext) -> u32 {
    // SAFETY: as in `report`. Unasked-for checks end here, at the price of one load.
    let task = Ptr::new(unsafe { bpf_get_current_task_btf() } as u64);
    if !usage::is_on() && kernel::gated(Regs::of(task).number()).is_none() {
        return 0;
    }
    let (Some(cred), Some(target), Some(capability)) = (ctx.arg(0), ctx.arg(1), ctx.arg::<u32>(2)) else {
        return 0;
    };
    // A full map evicts; there is nothing else to do about a failed insert than to miss the check.
    let _ = BEGUN.insert(
        bpf_get_current_pid_tgid(),
        Begun { cred, target, capability: u64::from(capability) },
        0,
    );
    0
}

#[kretprobe]
fn cap_capable_kretprobe(ctx: RetProbeContext) -> u32 {
    let thread = bpf_get_current_pid_tgid();
    // SAFETY: copied out at once; only this thread writes its entry.
    let Some(begun) = (unsafe { BEGUN.get(thread) }).copied() else { return 0 };
    let _ = BEGUN.remove(thread);
    report::<Probed>(&Check {
        cred: Ptr::new(begun.cred),
        target: Ptr::new(begun.target),
        capability: begun.capability as u32,
        ret: ctx.ret(),
    });
    0
}

/// The arguments of the check, whichever hook they came through.
struct Check<M: Memory> {
    cred: Ptr<M>,
    target: Ptr<M>,
    capability: u32,
    ret: i32,
}

#[inline(always)]
fn report<M: Memory>(check: &Check<M>) {
    // SAFETY: a helper without arguments; never null in a tracing program.
    let task = Ptr::<Typed>::new(unsafe { bpf_get_current_task_btf() } as u64);
    let regs = Regs::of(task);
    let syscall = kernel::gated(regs.number());
    if usage::is_on() && !counts_memory(check, syscall, &regs) {
        usage::count(task, check.capability, check.ret);
    }
    let Some(syscall) = syscall else { return };
    if kernel::is_kernel_thread(task) {
        return;
    }
    let asked = Asked::read(syscall, &regs);
    if is_fork(syscall) && asked.flags & (CLONE_NEW | CLONE_NEWTIME) == 0 {
        return;
    }
    let Some(counters) = COUNTERS.get_ptr_mut(0) else { return };

    let caller_userns = kernel::inum_of_userns(check.cred.follow(kernel::CRED_USER_NS.load()));
    let target_userns = kernel::inum_of_userns(check.target);
    if is_fork(syscall) && is_memory_accounting(check, &asked, caller_userns, target_userns) {
        // SAFETY: the verifier has seen the null check; the map is per CPU and tracing programs are not
        // preempted by themselves, so nobody else writes this slot.
        unsafe { (*counters).filtered += 1 };
        return;
    }

    // SAFETY: as above.
    unsafe { (*counters).produced += 1 };
    let key = FlowKey {
        caller_userns,
        target_userns,
        netns: kernel::inum(kernel::netns(task), kernel::NET_NS.load()).unwrap_or(0),
        mntns: kernel::inum(kernel::mntns(task), kernel::MNT_NS.load()).unwrap_or(0),
        what: FlowKey::what(syscall as u32, check.capability, check.ret != 0),
    };
    let denied = check.ret != 0;
    if !limit::admit(&key) {
        // SAFETY: as above.
        unsafe {
            if denied {
                (*counters).held_denied += 1;
            } else {
                (*counters).held_allowed += 1;
            }
        }
        note(syscall, check.capability, denied, false);
        return;
    }
    // Nothing is called between this and the end of the record: the compiler would look at a copy of whether there is
    // one, and verifiers (that of 6.1) do not know what that says of the record.
    let Some(mut entry) = CHECKS.reserve(0) else {
        // SAFETY: as above.
        unsafe { (*counters).lost += 1 };
        note(syscall, check.capability, denied, false);
        return;
    };
    // SAFETY: reserve gives room for one record, aligned to 8.
    let out = unsafe { &mut *entry.as_mut_ptr() };
    blank(out);
    out.syscall = syscall as u32;
    out.capability = check.capability;
    out.ret = check.ret;
    let mut seen = Caller { task, cred: check.cred, userns: caller_userns }.fill(out, &asked);
    let mut known = |bit: u32, value: Option<u32>| known(&mut seen, bit, value);
    out.target_userns = known(valid::TARGET_USERNS, (target_userns != 0).then_some(target_userns));
    out.target_uid = known(valid::TARGET_UID, check.target.read_u32(kernel::USERNS_OWNER.load()));
    out.target_parent = known(valid::TARGET_PARENT, kernel::userns_parent(check.target));
    out.valid = seen;
    entry.submit(0);
    note(syscall, check.capability, denied, true);
}

/// Of clones no results are read.
#[inline(always)]
fn note(syscall: Syscall, capability: u32, denied: bool, reported: bool) {
    if !is_fork(syscall) {
        results::checked(syscall, capability, denied, reported);
    }
}

/// A fork checks CAP_SYS_ADMIN against the initial user namespace once for each mapping it copies
/// (cap_vm_enough_memory). In the same syscall only a refused clone with new namespaces, by a caller of the
/// initial user namespace, is asked there too: that one must not be lost.
#[inline(always)]
fn is_memory_accounting<M: Memory>(check: &Check<M>, asked: &Asked, caller: u32, target: u32) -> bool {
    let about_namespaces = caller == INIT_USERNS && asked.flags & CLONE_NEWUSER == 0 && check.ret != 0;
    target == INIT_USERNS && !about_namespaces
}

/// Whether a check is one of those that are made for each mapping (cap_vm_enough_memory) and decide nothing: they would
/// look as if every container used CAP_SYS_ADMIN, or was denied it, all the time.
#[inline(always)]
fn counts_memory<M: Memory>(check: &Check<M>, syscall: Option<Syscall>, regs: &Regs) -> bool {
    if check.capability != CAP_SYS_ADMIN || kernel::inum_of_userns(check.target) != INIT_USERNS {
        return false;
    }
    match syscall {
        Some(fork) if is_fork(fork) => Asked::read(fork, regs).flags & (CLONE_NEW | CLONE_NEWTIME) == 0,
        Some(_) => false,
        None => usage::maps_memory(regs.number()),
    }
}

#[inline(always)]
fn is_fork(syscall: Syscall) -> bool {
    matches!(syscall, Syscall::Clone | Syscall::Clone3)
}

/// Notes that a field was read.
#[inline(always)]
fn known(seen: &mut u32, bit: u32, value: Option<u32>) -> u32 {
    if value.is_some() {
        *seen |= bit;
    }
    value.unwrap_or(0)
}

/// Who makes the call.
struct Caller<M: Memory> {
    task: Ptr<Typed>,
    /// The credentials that count.
    cred: Ptr<M>,
    userns: u32,
}

impl<M: Memory> Caller<M> {
    /// Fills in what is known of the caller and of the call; gives the bits of [`valid`] of what was read.
    #[inline(always)]
    fn fill(&self, out: &mut CheckRecord, asked: &Asked) -> u32 {
        let task = self.task;
        let mut seen = asked.valid;
        let mut known = |bit: u32, value: Option<u32>| known(&mut seen, bit, value);
        let pid_tgid = bpf_get_current_pid_tgid();
        // SAFETY: helpers without arguments.
        (out.time_ns, out.cgroup_id) = unsafe { (bpf_ktime_get_boot_ns(), bpf_get_current_cgroup_id()) };
        out.flags = asked.flags;
        out.pid = (pid_tgid >> 32) as u32;
        out.tid = pid_tgid as u32;
        out.caller_userns = known(valid::CALLER_USERNS, (self.userns != 0).then_some(self.userns));
        out.ppid = known(valid::PARENT, kernel::parent(task));
        out.caller_uid = known(valid::CALLER_UID, self.cred.read_u32(kernel::CRED_EUID.load()));

        let net = kernel::netns(task);
        out.netns = known(valid::NETNS, kernel::inum(net, kernel::NET_NS.load()));
        out.netns_owner = known(valid::NETNS_OWNER, kernel::owner(net, kernel::NET_USER_NS.load()));
        let mnt = kernel::mntns(task);
        out.mntns = known(valid::MNTNS, kernel::inum(mnt, kernel::MNT_NS.load()));
        out.mntns_owner = known(valid::MNTNS_OWNER, kernel::owner(mnt, kernel::MNT_USER_NS.load()));
        let (pidns, pidns_owner) = kernel::active_pidns(task);
        out.pidns = known(valid::PIDNS, pidns);
        out.pidns_owner = known(valid::PIDNS_OWNER, pidns_owner);
        if asked.fs_type != 0 {
            // SAFETY: the helper checks the user's address and writes at most the slice's length.
            let read = unsafe { bpf_probe_read_user_str_bytes(asked.fs_type as *const u8, &mut out.fs_type) };
            if read.is_ok() {
                seen |= valid::FS_TYPE;
            }
        }
        // SAFETY: the helper writes at most the length it is given. It fails only without a task.
        unsafe { bpf_get_current_comm(out.comm.as_mut_ptr().cast(), COMM_LEN as u32) };
        seen
    }
}

/// Word by word: a memset would be a loop in a function of its own, which the verifiers of kernels before 6.2
/// follow once for each path that leads there.
#[inline(always)]
fn blank(out: &mut CheckRecord) {
    let words = core::ptr::from_mut(out).cast::<u64>();
    for word in 0..size_of::<CheckRecord>() / 8 {
        // SAFETY: inside the record, whose size and alignment are multiples of eight.
        unsafe { words.add(word).write_volatile(0) };
    }
}

/// What the syscall was asked for.
struct Asked {
    flags: u64,
    /// User address of the file-system type's name, or 0.
    fs_type: u64,
    valid: u32,
}

impl Asked {
    #[inline(always)]
    fn read(syscall: Syscall, regs: &Regs) -> Self {
        let (flags, fs_type) = match syscall {
            Syscall::Mount => (Some(regs.arg3()), regs.arg2()),
            Syscall::Fsopen => (Some(regs.arg1()), regs.arg0()),
            Syscall::Fsconfig | Syscall::Fsmount | Syscall::Setns => (Some(regs.arg1()), 0),
            Syscall::Unshare | Syscall::Clone => (Some(regs.arg0()), 0),
            // SAFETY: the helper checks the user's address; struct clone_args begins with the flags.
            Syscall::Clone3 => (unsafe { bpf_probe_read_user(regs.arg0() as *const u64) }.ok(), 0),
            Syscall::MoveMount => (None, 0),
        };
        let valid = if flags.is_some() { valid::FLAGS } else { 0 };
        Self { flags: flags.unwrap_or(0), fs_type, valid }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// The helpers that read kernel memory are for programs under a licence compatible with the GPL.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
