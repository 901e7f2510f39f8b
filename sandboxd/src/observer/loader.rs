//! Loads the object and attaches it: the ladder.
//!
//! ```text
//! tp_btf on cap_capable ──▶ fexit on cap_capable ──▶ kprobe and kretprobe on cap_capable ──▶ unavailable
//!                        each step: refused, a Degradation
//! ```
//!
//! What loads and attaches decides, never a kernel version. Each step down is a named [`Degradation`].

use aya::maps::{HashMap, MapData, PerCpuArray, PerCpuHashMap, RingBuf};
use aya::programs::{BtfTracePoint, FExit, KProbe, Program, ProgramError};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use sandboxd_ebpf::{
    ALL_CAPABILITIES, ALTERNATIVES, CAP_CAPABLE, COUNTERS_MAP, Counters, FEXIT_PROGRAM, FLOWS_MAP,
    KPROBE_PROGRAM, KRETPROBE_PROGRAM, MEMORY_CALLS, MEMORY_CALLS_MOST, MISSING, REGS_ARGS, REGS_NR,
    RESULTS_FROM, RESULTS_WANTED, RING_MAP, SYS_EXIT, SYS_EXIT_PROGRAM, Syscall, TP_BTF_PROGRAM, UPID_SIZE,
    USAGE_MAP, WATCHED_MAP,
};

use super::btf::Btf;
use super::held::Flows;
use super::status::{Degradation, ResultsThrough, Rung, SyscallResults};
use super::usage::UsageMaps;

static OBJECT: &[u8] = include_bytes_aligned!(env!("SANDBOXD_EBPF_OBJECT"));

const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

macro_rules! table {
    ($($name:ident: $structure:ident.$member:ident,)*) => {
        /// Global of the object, structure, member.
        const MEMBERS: &[(&str, &str, &str)] =
            &[$((stringify!($name), stringify!($structure), stringify!($member)),)*];
    };
}
sandboxd_ebpf::kernel_members!(table);

/// Where `struct pt_regs` keeps the syscall's number and its first four arguments.
#[cfg(target_arch = "x86_64")]
const REGISTERS: (&str, [(&str, u32); 4]) = ("orig_ax", [("di", 0), ("si", 0), ("dx", 0), ("r10", 0)]);
#[cfg(target_arch = "aarch64")]
const REGISTERS: (&str, [(&str, u32); 4]) =
    ("syscallno", [("orig_x0", 0), ("regs", 8), ("regs", 16), ("regs", 24)]);

/// The attached program and its maps. Dropping it detaches.
pub struct Attached {
    pub rung: Rung,
    pub results: Option<ResultsThrough>,
    pub ring: RingBuf<MapData>,
    pub counters: CounterMap,
    pub flows: Flows,
    /// `None`: not asked for.
    pub usage: Option<UsageMaps>,
    /// Attached for as long as this lives.
    pub program: Ebpf,
}

/// The per-CPU counters of the program.
pub struct CounterMap(PerCpuArray<MapData, PodCounters>);

#[derive(Clone, Copy)]
#[repr(transparent)]
struct PodCounters(Counters);

// SAFETY: Counters is repr(C), six u64 without padding; any bit pattern is a value.
unsafe impl aya::Pod for PodCounters {}

impl CounterMap {
    /// The sum over all CPUs. Zero where the map cannot be read, which does not happen to an array's slot 0.
    pub fn read(&self) -> Counters {
        let Ok(per_cpu) = self.0.get(&0, 0) else { return Counters::default() };
        per_cpu.iter().fold(Counters::default(), |sum, PodCounters(cpu)| Counters {
            produced: sum.produced + cpu.produced,
            lost: sum.lost + cpu.lost,
            filtered: sum.filtered + cpu.filtered,
            held_allowed: sum.held_allowed + cpu.held_allowed,
            held_denied: sum.held_denied + cpu.held_denied,
            held_failed: sum.held_failed + cpu.held_failed,
        })
    }
}

/// What the kernel's structures look like here.
struct Offsets {
    values: Vec<(&'static str, u32)>,
    missing: Vec<Degradation>,
}

/// Attaches on the first of the rungs that works.
pub fn attach(
    rungs: &[Rung],
    results: SyscallResults,
    all_capabilities: bool,
) -> Result<(Attached, Vec<Degradation>), Vec<Degradation>> {
    let result = climb(rungs, results, all_capabilities);
    give_memory_back();
    result
}

/// Reading the kernel's BTF takes some 20 MB of small pieces for a moment; glibc would keep them for the
/// life of the daemon.
fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: no memory of the program is touched, only what is free.
    unsafe {
        libc::malloc_trim(0);
    }
}

fn climb(
    rungs: &[Rung],
    results: SyscallResults,
    all_capabilities: bool,
) -> Result<(Attached, Vec<Degradation>), Vec<Degradation>> {
    let data = std::fs::read(VMLINUX_BTF)
        .map_err(|e| vec![Degradation::NoBtf { problem: format!("{VMLINUX_BTF}: {e}") }])?;
    let offsets = offsets(&data).map_err(|d| vec![d])?;
    drop(data);
    let btf = aya::Btf::from_sys_fs().map_err(|e| vec![Degradation::NoBtf { problem: chain(&e) }])?;
    let mut steps = Vec::new();
    for rung in rungs {
        match attach_on(*rung, &offsets, &btf, results != SyscallResults::Off, all_capabilities) {
            Ok(mut attached) => {
                attached.results = read_results(results, &mut attached.program, &btf, &mut steps);
                steps.extend(offsets.missing);
                return Ok((attached, steps));
            }
            Err(step) => steps.push(step),
        }
    }
    Err(steps)
}

fn attach_on(
    rung: Rung,
    offsets: &Offsets,
    btf: &aya::Btf,
    results: bool,
    all_capabilities: bool,
) -> Result<Attached, Degradation> {
    let refused = |problem: String| Degradation::Refused { rung, problem };
    let mut loader = EbpfLoader::new();
    loader.btf(Some(btf));
    for (name, value) in &offsets.values {
        loader.override_global(name, value, true);
    }
    let numbers = Syscall::ALL.map(|s| (s.global(), number(s)));
    for (name, value) in &numbers {
        loader.override_global(name, value, true);
    }
    let (wanted, all) = (u32::from(results), u32::from(all_capabilities));
    loader.override_global(RESULTS_WANTED, &wanted, true);
    loader.override_global(ALL_CAPABILITIES, &all, true);
    let memory_calls = memory_calls();
    loader.override_global(MEMORY_CALLS, &memory_calls, true);
    if !all_capabilities {
        // Its memory is taken in advance.
        loader.map_max_entries(USAGE_MAP, 1).map_max_entries(WATCHED_MAP, 1);
    }
    let reported = Syscall::ALL.into_iter().filter(|s| s.result_program().is_some()).map(number);
    let lowest = reported.min().unwrap_or(MISSING);
    loader.override_global(RESULTS_FROM, &lowest, true);
    let mut ebpf = loader.load(OBJECT).map_err(|e| refused(chain(&e)))?;
    hang_on(rung, &mut ebpf, btf).map_err(|e| refused(chain(&e)))?;
    let mut take =
        |name: &str| ebpf.take_map(name).ok_or_else(|| refused(format!("the object has no map {name}")));
    let ring = RingBuf::try_from(take(RING_MAP)?).map_err(|e| refused(chain(&e)))?;
    let counters = PerCpuArray::try_from(take(COUNTERS_MAP)?).map_err(|e| refused(chain(&e)))?;
    let flows = PerCpuHashMap::try_from(take(FLOWS_MAP)?).map_err(|e| refused(chain(&e)))?;
    let usage = PerCpuHashMap::try_from(take(USAGE_MAP)?).map_err(|e| refused(chain(&e)))?;
    let watched = HashMap::try_from(take(WATCHED_MAP)?).map_err(|e| refused(chain(&e)))?;
    let usage = all_capabilities.then_some(UsageMaps { usage, watched });
    Ok(Attached { rung, results: None, ring, counters: CounterMap(counters), flows, usage, program: ebpf })
}

/// Loads and attaches the programs of a rung, and no other.
fn hang_on(rung: Rung, ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<(), ProgramError> {
    match rung {
        Rung::TpBtf => {
            let program: &mut BtfTracePoint = program(ebpf, TP_BTF_PROGRAM)?;
            program.load(CAP_CAPABLE, btf)?;
            program.attach().map(drop)
        }
        Rung::Fexit => {
            let program: &mut FExit = program(ebpf, FEXIT_PROGRAM)?;
            program.load(CAP_CAPABLE, btf)?;
            program.attach().map(drop)
        }
        Rung::Kprobe => {
            // The return first: a check that begins before it is there would wait in the map for its end.
            for name in [KRETPROBE_PROGRAM, KPROBE_PROGRAM] {
                let program: &mut KProbe = program(ebpf, name)?;
                program.load()?;
                program.attach(CAP_CAPABLE, 0)?;
            }
            Ok(())
        }
    }
}

/// What the kernel calls the function of a syscall, before the syscall's name.
#[cfg(target_arch = "x86_64")]
const SYSCALL_PREFIX: &str = "__x64_sys_";
#[cfg(target_arch = "aarch64")]
const SYSCALL_PREFIX: &str = "__arm64_sys_";

/// Attaches what reads the results of syscalls, as far as it is wanted and works.
fn read_results(
    wanted: SyscallResults,
    ebpf: &mut Ebpf,
    btf: &aya::Btf,
    steps: &mut Vec<Degradation>,
) -> Option<ResultsThrough> {
    if wanted == SyscallResults::Off {
        return None;
    }
    let mut refused = |through, error: &ProgramError| {
        steps.push(Degradation::ResultsRefused { through, problem: chain(error) });
    };
    match trampolines(ebpf, btf) {
        Ok(()) => return Some(ResultsThrough::Fexit),
        Err(error) => refused(ResultsThrough::Fexit, &error),
    }
    if wanted == SyscallResults::Auto {
        return None;
    }
    let attached = program(ebpf, SYS_EXIT_PROGRAM).and_then(|program: &mut BtfTracePoint| {
        program.load(SYS_EXIT, btf)?;
        program.attach().map(drop)
    });
    match attached {
        Ok(()) => Some(ResultsThrough::SysExit),
        Err(error) => {
            refused(ResultsThrough::SysExit, &error);
            None
        }
    }
}

/// All of them, or none: a check that waits for a result waits for one that can come.
fn trampolines(ebpf: &mut Ebpf, btf: &aya::Btf) -> Result<(), ProgramError> {
    let names = Syscall::ALL.into_iter().filter_map(|s| Some((s, s.result_program()?)));
    let attached = names.clone().try_for_each(|(syscall, name)| {
        let program: &mut FExit = program(ebpf, name)?;
        program.load(&format!("{SYSCALL_PREFIX}{}", syscall.name()), btf)?;
        program.attach().map(drop)
    });
    if attached.is_err() {
        for (_, name) in names {
            if let Ok(program) = program::<&mut FExit>(ebpf, name) {
                // One that was not loaded has nothing to be taken back.
                let _ = program.unload();
            }
        }
    }
    attached
}

fn program<'a, P>(ebpf: &'a mut Ebpf, name: &str) -> Result<P, ProgramError>
where
    P: TryFrom<&'a mut Program, Error = ProgramError>,
{
    ebpf.program_mut(name).ok_or(ProgramError::NotLoaded)?.try_into()
}

fn offsets(data: &[u8]) -> Result<Offsets, Degradation> {
    let mut wanted: Vec<&str> = MEMBERS.iter().map(|(_, structure, _)| *structure).collect();
    wanted.extend(["pt_regs"]);
    wanted.sort_unstable();
    wanted.dedup();
    let btf = Btf::parse(data, &wanted).map_err(|e| Degradation::NoBtf { problem: e.to_string() })?;
    let mut found = Offsets { values: Vec::new(), missing: Vec::new() };
    let offset_of = |wanted: &str| {
        let (_, structure, member) = MEMBERS.iter().find(|(global, ..)| *global == wanted)?;
        btf.offset_of(structure, member)
    };
    // One of a pair is enough; where both are missing, the newer one is named.
    let dispensable = |global: &str| {
        ALTERNATIVES.iter().any(|(new, old)| global == *old || (global == *new && offset_of(old).is_some()))
    };
    for (global, structure, member) in MEMBERS {
        let offset = btf.offset_of(structure, member);
        if offset.is_none() && !dispensable(global) {
            found.missing.push(Degradation::MemberMissing { structure, member });
        }
        found.values.push((global, offset.unwrap_or(MISSING)));
    }
    found.values.push((UPID_SIZE, btf.size_of("upid").unwrap_or(MISSING)));

    let (nr, args) = REGISTERS;
    let register = |member: &'static str| {
        btf.offset_of("pt_regs", member).ok_or_else(|| Degradation::NoBtf {
            problem: format!("struct pt_regs has no member {member}, so no syscall can be told"),
        })
    };
    found.values.push((REGS_NR, register(nr)?));
    for (global, (member, inside)) in REGS_ARGS.into_iter().zip(args) {
        found.values.push((global, register(member)? + inside));
    }
    Ok(found)
}

/// This architecture's number of a syscall. Those from 424 on are the same everywhere.
fn number(syscall: Syscall) -> u32 {
    let number = match syscall {
        Syscall::Mount => libc::SYS_mount,
        Syscall::Fsopen => libc::SYS_fsopen,
        Syscall::Fsconfig => libc::SYS_fsconfig,
        Syscall::Fsmount => libc::SYS_fsmount,
        Syscall::MoveMount => libc::SYS_move_mount,
        Syscall::Setns => libc::SYS_setns,
        Syscall::Unshare => libc::SYS_unshare,
        Syscall::Clone => libc::SYS_clone,
        Syscall::Clone3 => libc::SYS_clone3,
    };
    u32::try_from(number).unwrap_or(MISSING)
}

/// The system calls in which the kernel accounts for new mappings (security_vm_enough_memory_mm).
fn memory_calls() -> [u32; MEMORY_CALLS_MOST] {
    let mut numbers = [MISSING; MEMORY_CALLS_MOST];
    let calls = [
        libc::SYS_mmap,
        libc::SYS_mprotect,
        libc::SYS_mremap,
        libc::SYS_brk,
        libc::SYS_execve,
        libc::SYS_execveat,
        // Those of x86-64 that arm64 has only as flags of clone.
        #[cfg(target_arch = "x86_64")]
        libc::SYS_fork,
        #[cfg(target_arch = "x86_64")]
        libc::SYS_vfork,
    ];
    for (to, call) in numbers.iter_mut().zip(calls) {
        *to = u32::try_from(call).unwrap_or(MISSING);
    }
    numbers
}

/// An error with its sources on one line. The verifier's log can be pages long: its end says what it wants.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    // Refused before the verifier had a word.
    let text = text.trim_end().trim_end_matches("Verifier output:").trim_end_matches(". ").to_owned();
    const LONGEST: usize = 600;
    match text.char_indices().nth_back(LONGEST) {
        Some((at, _)) => format!("…{}", &text[at..]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use sandboxd_ebpf::CheckRecord;

    use super::*;

    #[test]
    fn this_kernels_structures_are_found() {
        let Ok(data) = std::fs::read(VMLINUX_BTF) else {
            eprintln!("SKIPPED: no {VMLINUX_BTF}");
            return;
        };
        let found = offsets(&data).unwrap();
        assert_eq!(found.missing, Vec::new());
        let of = |name: &str| found.values.iter().find(|(n, _)| *n == name).unwrap().1;
        assert_ne!(of("CRED_USER_NS"), of("CRED_EUID"));
        assert_ne!(of(UPID_SIZE), MISSING);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn registers_are_where_the_abi_has_them() {
        let Ok(data) = std::fs::read(VMLINUX_BTF) else {
            eprintln!("SKIPPED: no {VMLINUX_BTF}");
            return;
        };
        let found = offsets(&data).unwrap();
        let of = |name: &str| found.values.iter().find(|(n, _)| *n == name).unwrap().1 as usize;
        // struct user_regs_struct of ptrace(2) has the same layout.
        assert_eq!(of(REGS_NR), std::mem::offset_of!(libc::user_regs_struct, orig_rax));
        assert_eq!(of(REGS_ARGS[0]), std::mem::offset_of!(libc::user_regs_struct, rdi));
        assert_eq!(of(REGS_ARGS[3]), std::mem::offset_of!(libc::user_regs_struct, r10));
    }

    #[test]
    fn the_objects_record_is_ours() {
        let at = OBJECT.len();
        assert!(at > 4096, "the object is not a stub");
        let section = btf_section(OBJECT).expect("the object has a .BTF section");
        let btf = Btf::parse(section, &["CheckRecord", "Counters"]).unwrap();
        assert_eq!(btf.size_of("CheckRecord"), u32::try_from(size_of::<CheckRecord>()).ok());
        assert_eq!(btf.offset_of("CheckRecord", "fs_type"), Some(96));
        assert_eq!(btf.offset_of("CheckRecord", "comm"), Some(112));
        assert_eq!(btf.offset_of("CheckRecord", "outcome"), Some(128));
        assert_eq!(btf.size_of("Counters"), Some(48));
    }

    /// The .BTF section of a little-endian ELF64 object.
    fn btf_section(elf: &[u8]) -> Option<&[u8]> {
        let u64_at = |at: usize| elf.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
        let u32_at = |at: usize| elf.get(at..at + 4)?.try_into().ok().map(u32::from_le_bytes);
        let u16_at = |at: usize| elf.get(at..at + 2)?.try_into().ok().map(u16::from_le_bytes);
        let table = usize::try_from(u64_at(40)?).ok()?;
        let (entry, count, names) = (usize::from(u16_at(58)?), u16_at(60)?, usize::from(u16_at(62)?));
        let contents = |index: usize| {
            let at = table + index * entry;
            let (start, len) =
                (usize::try_from(u64_at(at + 24)?).ok()?, usize::try_from(u64_at(at + 32)?).ok()?);
            elf.get(start..start + len)
        };
        let names = contents(names)?;
        (0..usize::from(count)).find_map(|index| {
            let name = names.get(u32_at(table + index * entry)? as usize..)?;
            name.starts_with(b".BTF\0").then(|| contents(index)).flatten()
        })
    }
}
