//! What the observer can see here, and what it cannot.

use sandboxd_ebpf::Counters;
use serde::{Deserialize, Serialize};

/// A way to see the kernel's checks, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rung {
    /// A BTF tracepoint program on `cap_capable` (kernels from about 6.14).
    TpBtf,
    /// A trampoline at the end of the function `cap_capable` (BTF and trampolines).
    Fexit,
    /// A kprobe and a kretprobe on the function `cap_capable`.
    Kprobe,
}

impl Rung {
    /// All of them, best first.
    pub const LADDER: [Self; 3] = [Self::TpBtf, Self::Fexit, Self::Kprobe];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::TpBtf => "tp_btf",
            Self::Fexit => "fexit",
            Self::Kprobe => "kprobe",
        }
    }
}

/// Whether the results of the syscalls are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SyscallResults {
    Off,
    /// Where trampolines at the end of the functions of those syscalls can be used.
    #[default]
    Auto,
    /// Else at the end of every syscall of the machine.
    On,
}

/// A way to read the results of syscalls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultsThrough {
    /// Trampolines at the end of the functions of those syscalls.
    Fexit,
    /// The tracepoint at the end of every syscall.
    SysExit,
}

impl ResultsThrough {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Fexit => "fexit",
            Self::SysExit => "sys_exit",
        }
    }
}

/// A named step down from seeing everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Degradation {
    /// The kernel does not describe itself: no program can find its way.
    NoBtf { problem: String },
    /// A rung did not load or attach.
    Refused { rung: Rung, problem: String },
    /// The results of syscalls cannot be read in this way.
    ResultsRefused { through: ResultsThrough, problem: String },
    /// A kernel structure lacks a member: the fields that need it stay unknown.
    MemberMissing { structure: &'static str, member: &'static str },
    /// The thread that reads the ring buffer could not be started, or ended.
    ReaderGone { problem: String },
}

impl Degradation {
    /// Stable, as logs, metrics and the console show it.
    #[must_use]
    pub fn name(&self) -> String {
        match self {
            Self::NoBtf { .. } => "observer.no_btf".to_string(),
            Self::Refused { rung, .. } => format!("observer.no_{}", rung.name()),
            Self::ResultsRefused { through, .. } => format!("observer.no_results.{}", through.name()),
            Self::MemberMissing { structure, member } => format!("observer.no_member.{structure}.{member}"),
            Self::ReaderGone { .. } => "observer.no_reader".to_string(),
        }
    }

    pub(super) fn log(&self) {
        tracing::warn!(name = self.name(), "{}", self.message());
    }

    /// What is not seen, and why.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::NoBtf { problem } => format!(
                "the kernel's own type information cannot be read ({problem}): a kernel built with \
                 CONFIG_DEBUG_INFO_BTF has it"
            ),
            Self::Refused { rung, problem } => {
                format!("the {} program on cap_capable cannot be used ({problem})", rung.name())
            }
            Self::ResultsRefused { through: ResultsThrough::Fexit, problem } => format!(
                "the results of system calls cannot be read through trampolines ({problem}): only \
                 observer.syscall_results = \"on\" shows them, which makes every system call slower"
            ),
            Self::ResultsRefused { through: ResultsThrough::SysExit, problem } => format!(
                "the results of system calls cannot be read through the tracepoint sys_exit ({problem})"
            ),
            Self::MemberMissing { structure, member } => format!(
                "this kernel's struct {structure} has no member {member}: what is read through it is not \
                 known"
            ),
            Self::ReaderGone { problem } => format!("recorded checks are not read ({problem})"),
        }
    }
}

/// Whether checks are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running(Rung),
    /// Built without the feature `observer`.
    NotBuiltIn,
    /// The kernel or a privilege is missing.
    Unavailable,
    /// By configuration.
    Disabled,
}

/// A snapshot of the observer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub state: State,
    /// How the results of syscalls are read, where they are.
    pub results: Option<ResultsThrough>,
    /// One sentence for an operator.
    pub message: String,
    /// What the program counted in the kernel: `produced == seen + sampled_out + lost` once the ring is drained.
    pub kernel: Counters,
    /// Checks and failed calls kept one by one, and those only counted, here or in the kernel.
    pub seen: u64,
    pub sampled_out: u64,
    /// Of both together, checks that were allowed and denied, and calls that failed without a denied one.
    pub allowed: u64,
    pub denied: u64,
    pub failed: u64,
    /// What the history has now, its memory (about), and what has left it.
    pub kept: usize,
    pub history_bytes: usize,
    pub forgotten: u64,
    pub degradations: Vec<Degradation>,
}

impl Status {
    /// The observer's sentence for a state.
    pub(super) fn sentence(
        state: State,
        results: Option<ResultsThrough>,
        degradations: &[Degradation],
    ) -> String {
        match state {
            State::Running(rung) => {
                let checks = format!("capability checks are recorded through {}", rung.name());
                match results {
                    Some(through) => format!("{checks}, results of system calls through {}", through.name()),
                    None => checks,
                }
            }
            State::NotBuiltIn => "this sandboxd was built without the eBPF object, so no capability check \
                                  is seen: build it with `cargo xtask build-ebpf` and the feature `observer`"
                .to_string(),
            State::Disabled => "switched off by configuration: no capability check is seen".to_string(),
            State::Unavailable => {
                let why: Vec<_> = degradations.iter().map(Degradation::message).collect();
                format!("no capability check is seen: {}", why.join("; "))
            }
        }
    }
}
