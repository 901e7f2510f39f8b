//! Reading the kernel's structures at offsets found at load time.

use core::marker::PhantomData;

use aya_ebpf::Global;
use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_task_pt_regs, generated};
use sandboxd_ebpf::{MISSING, Syscall};

macro_rules! declare {
    ($($name:ident: $structure:ident.$member:ident,)*) => {
        $(#[unsafe(no_mangle)] pub static $name: Global<u32> = Global::new(MISSING);)*
    };
}
sandboxd_ebpf::kernel_members!(declare);

macro_rules! globals {
    ($($name:ident)*) => {
        $(#[unsafe(no_mangle)] static $name: Global<u32> = Global::new(MISSING);)*
    };
}
globals! { UPID_SIZE REGS_NR REGS_ARG0 REGS_ARG1 REGS_ARG2 REGS_ARG3 }
globals! { NR_MOUNT NR_FSOPEN NR_FSCONFIG NR_FSMOUNT NR_MOVE_MOUNT NR_SETNS NR_UNSHARE NR_CLONE NR_CLONE3 }
globals! { RESULTS_FROM }

/// PF_KTHREAD of include/linux/sched.h: a kernel thread has no saved user registers.
const PF_KTHREAD: u32 = 0x0020_0000;

/// How memory of the kernel is read.
pub trait Memory: Copy {
    /// Whether an address that is none reads as 0.
    const ANY_ADDRESS: bool;

    /// # Safety
    /// `address` is in a structure of the kernel; it may be a bad one.
    unsafe fn u32(address: u64) -> u32;
    /// # Safety
    /// As [`Memory::u32`].
    unsafe fn u64(address: u64) -> u64;
}

/// Through pointers that the verifier knows the type of: plain loads. A bad address reads as 0.
#[derive(Clone, Copy)]
pub struct Typed;

impl Memory for Typed {
    const ANY_ADDRESS: bool = false;

    #[inline(always)]
    unsafe fn u32(address: u64) -> u32 {
        // SAFETY: a load through a BTF pointer: the verifier checks type and offset, the kernel faults.
        unsafe { (address as *const u32).read_volatile() }
    }

    #[inline(always)]
    unsafe fn u64(address: u64) -> u64 {
        // SAFETY: as above.
        unsafe { (address as *const u64).read_volatile() }
    }
}

/// Through pointers that are only numbers to the verifier (arguments of a kprobe): a helper reads.
#[derive(Clone, Copy)]
pub struct Probed;

impl Memory for Probed {
    const ANY_ADDRESS: bool = true;

    #[inline(always)]
    unsafe fn u32(address: u64) -> u32 {
        let mut value = 0u32;
        // SAFETY: the helper checks the address, and writes zeroes where it cannot read. Its result is not looked at:
        // each branch on it would double what a verifier has to follow from there.
        unsafe { generated::bpf_probe_read_kernel((&raw mut value).cast(), 4, address as *const _) };
        value
    }

    #[inline(always)]
    unsafe fn u64(address: u64) -> u64 {
        let mut value = 0u64;
        // SAFETY: as above.
        unsafe { generated::bpf_probe_read_kernel((&raw mut value).cast(), 8, address as *const _) };
        value
    }
}

/// A pointer into the kernel, and how to read through it.
#[derive(Clone, Copy)]
pub struct Ptr<M: Memory>(u64, PhantomData<M>);

impl<M: Memory> Ptr<M> {
    #[inline(always)]
    pub fn new(address: u64) -> Self {
        Self(address, PhantomData)
    }

    /// The pointer in the member at `offset`; null when this kernel has no such member.
    #[inline(always)]
    pub fn follow(self, offset: u32) -> Self {
        if offset == MISSING {
            return Self::new(0);
        }
        // SAFETY: a member of a structure of the kernel.
        Self::new(unsafe { M::u64(self.0 + u64::from(offset)) })
    }

    /// The same pointer, read through a helper: for what the verifier does not follow.
    #[inline(always)]
    pub fn probed(self) -> Ptr<Probed> {
        Ptr::new(self.0)
    }

    #[inline(always)]
    pub fn is_null(self) -> bool {
        self.0 == 0
    }

    /// Null, where that is to be looked at. The helper reads zeroes from there anyway.
    #[inline(always)]
    fn is_refused(self) -> bool {
        !M::ANY_ADDRESS && self.is_null()
    }

    /// The structure inside this one at `offset`; null when this kernel has no such member.
    #[inline(always)]
    pub fn inside(self, offset: u32) -> Self {
        if offset == MISSING || self.is_refused() {
            Self::new(0)
        } else {
            Self::new(self.0 + u64::from(offset))
        }
    }

    /// The structure that has this one at `offset`.
    #[inline(always)]
    pub fn around(self, offset: u32) -> Self {
        if offset == MISSING || self.is_refused() {
            Self::new(0)
        } else {
            Self::new(self.0 - u64::from(offset))
        }
    }

    /// The pointer in a slot of the array that this one points to.
    #[inline(always)]
    pub fn slot(self, index: u32) -> Self {
        // SAFETY: as in `follow`; the caller has looked at the array's length.
        Self::new(unsafe { M::u64(self.0 + u64::from(index) * 8) })
    }

    /// So many bytes on.
    #[inline(always)]
    pub fn after(self, bytes: u64) -> Self {
        Self::new(self.0 + bytes)
    }

    #[inline(always)]
    pub fn is(self, other: Self) -> bool {
        self.0 == other.0
    }

    /// The eight bytes at `offset`; `None` when this kernel has no such member.
    #[inline(always)]
    pub fn read_u64(self, offset: u32) -> Option<u64> {
        if offset == MISSING || self.is_refused() {
            return None;
        }
        // SAFETY: as in `follow`.
        Some(unsafe { M::u64(self.0 + u64::from(offset)) })
    }

    /// The four bytes at `offset`; `None` when this kernel has no such member.
    #[inline(always)]
    pub fn read_u32(self, offset: u32) -> Option<u32> {
        if offset == MISSING || self.is_refused() {
            return None;
        }
        // SAFETY: as in `follow`.
        Some(unsafe { M::u32(self.0 + u64::from(offset)) })
    }
}

/// The user registers a task saved when it entered the kernel.
pub struct Regs(Ptr<Typed>);

impl Regs {
    #[inline(always)]
    pub fn of(task: Ptr<Typed>) -> Self {
        // SAFETY: `task` is what bpf_get_current_task_btf gave.
        Self(Ptr::new(unsafe { bpf_task_pt_regs(task.0 as *mut _) } as u64))
    }

    /// Those at an address that the verifier knows the type of.
    #[inline(always)]
    pub fn at(regs: Ptr<Typed>) -> Self {
        Self(regs)
    }

    #[inline(always)]
    pub fn number(&self) -> u64 {
        self.load(REGS_NR.load())
    }

    #[inline(always)]
    pub fn arg0(&self) -> u64 {
        self.load(REGS_ARG0.load())
    }

    #[inline(always)]
    pub fn arg1(&self) -> u64 {
        self.load(REGS_ARG1.load())
    }

    #[inline(always)]
    pub fn arg2(&self) -> u64 {
        self.load(REGS_ARG2.load())
    }

    #[inline(always)]
    pub fn arg3(&self) -> u64 {
        self.load(REGS_ARG3.load())
    }

    #[inline(always)]
    fn load(&self, offset: u32) -> u64 {
        // SAFETY: as in `Ptr::follow`; the loader refuses to run without these offsets.
        unsafe { Typed::u64(self.0.0 + u64::from(offset)) }
    }
}

/// The gated syscall with this number.
#[inline(always)]
pub fn gated(number: u64) -> Option<Syscall> {
    // Both halves: a 64-bit pt_regs slot holds -1 outside a syscall.
    let is = |global: &Global<u32>| number == u64::from(global.load());
    Some(if is(&NR_MOUNT) {
        Syscall::Mount
    } else if is(&NR_CLONE) {
        Syscall::Clone
    } else if is(&NR_CLONE3) {
        Syscall::Clone3
    } else if is(&NR_SETNS) {
        Syscall::Setns
    } else if is(&NR_UNSHARE) {
        Syscall::Unshare
    } else if is(&NR_FSOPEN) {
        Syscall::Fsopen
    } else if is(&NR_FSCONFIG) {
        Syscall::Fsconfig
    } else if is(&NR_FSMOUNT) {
        Syscall::Fsmount
    } else if is(&NR_MOVE_MOUNT) {
        Syscall::MoveMount
    } else {
        return None;
    })
}

/// Whether a syscall's result may be reported: the one question that every syscall of the machine is asked, so
/// it is answered for nearly all of them by one comparison.
#[inline(always)]
pub fn may_have_result(number: u64) -> bool {
    number >= u64::from(RESULTS_FROM.load())
}

#[inline(always)]
pub fn is_kernel_thread(task: Ptr<Typed>) -> bool {
    task.read_u32(TASK_FLAGS.load()).is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// Thread group of the task's parent.
#[inline(always)]
pub fn parent(task: Ptr<Typed>) -> Option<u32> {
    task.follow(TASK_REAL_PARENT.load()).read_u32(TASK_TGID.load())
}

/// The inode of a namespace whose `struct ns_common` is at `ns_offset`. An inode is never 0.
#[inline(always)]
pub fn inum<M: Memory>(namespace: Ptr<M>, ns_offset: u32) -> Option<u32> {
    let inum_offset = NS_INUM.load();
    if ns_offset == MISSING || inum_offset == MISSING {
        return None;
    }
    namespace.read_u32(ns_offset + inum_offset).filter(|inum| *inum != 0)
}

#[inline(always)]
pub fn inum_of_userns<M: Memory>(userns: Ptr<M>) -> u32 {
    inum(userns, USERNS_NS.load()).unwrap_or(0)
}

/// The inode of the user namespace that owns a namespace.
#[inline(always)]
pub fn owner<M: Memory>(namespace: Ptr<M>, user_ns_offset: u32) -> Option<u32> {
    if namespace.0 == 0 {
        return None;
    }
    inum(namespace.follow(user_ns_offset), USERNS_NS.load())
}

/// The inode of the parent of a user namespace: 0 for the initial one, which has none.
#[inline(always)]
pub fn userns_parent<M: Memory>(userns: Ptr<M>) -> Option<u32> {
    let offset = USERNS_PARENT.load();
    (offset != MISSING).then(|| inum_of_userns(userns.follow(offset)))
}

#[inline(always)]
pub fn netns(task: Ptr<Typed>) -> Ptr<Typed> {
    follow_nsproxy(task, NSPROXY_NET.load())
}

#[inline(always)]
pub fn mntns(task: Ptr<Typed>) -> Ptr<Typed> {
    follow_nsproxy(task, NSPROXY_MNT.load())
}

#[inline(always)]
fn follow_nsproxy(task: Ptr<Typed>, offset: u32) -> Ptr<Typed> {
    let nsproxy = task.follow(TASK_NSPROXY.load());
    if nsproxy.0 == 0 { nsproxy } else { nsproxy.follow(offset) }
}

/// The pid namespace a task lives in (task_active_pid_ns), which is the one that mounting proc is checked
/// against, and the user namespace that owns it. `numbers[level]` is not an offset the verifier knows,
/// hence the helper.
#[inline(always)]
pub fn active_pidns(task: Ptr<Typed>) -> (Option<u32>, Option<u32>) {
    let (level, numbers, ns, size) = (PID_LEVEL.load(), PID_NUMBERS.load(), UPID_NS.load(), UPID_SIZE.load());
    if numbers == MISSING || ns == MISSING || size == MISSING {
        return (None, None);
    }
    let pid = task.follow(TASK_THREAD_PID.load());
    let Some(level) = pid.read_u32(level) else { return (None, None) };
    let at = pid.0 + u64::from(numbers) + u64::from(level) * u64::from(size) + u64::from(ns);
    // SAFETY: the helper checks every address it reads.
    let pidns = unsafe { bpf_probe_read_kernel(at as *const u64) }.unwrap_or(0);
    (probe_inum(pidns, PIDNS_NS.load()), probe_owner(pidns))
}

#[inline(always)]
fn probe_inum(namespace: u64, ns_offset: u32) -> Option<u32> {
    let inum = NS_INUM.load();
    if namespace == 0 || ns_offset == MISSING || inum == MISSING {
        return None;
    }
    let at = namespace + u64::from(ns_offset) + u64::from(inum);
    // SAFETY: as above.
    unsafe { bpf_probe_read_kernel(at as *const u32) }.ok().filter(|inum| *inum != 0)
}

#[inline(always)]
fn probe_owner(pidns: u64) -> Option<u32> {
    let offset = PIDNS_USER_NS.load();
    if pidns == 0 || offset == MISSING {
        return None;
    }
    // SAFETY: as above.
    let userns = unsafe { bpf_probe_read_kernel((pidns + u64::from(offset)) as *const u64) }.ok()?;
    probe_inum(userns, USERNS_NS.load())
}
