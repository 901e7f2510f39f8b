//! Seccomp profiles, compiled by libseccomp into the BPF program that the shim installs as bytes.
//!
//! A profile is the OCI runtime spec's `linux.seccomp`: the default one of [`default`], or a JSON file.

pub mod default;
mod newer;

use std::collections::VecDeque;
use std::io::{Read, Seek};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use libseccomp::error::SeccompError as LibError;
use libseccomp::{ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall};
use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag, LinuxSeccompOperator,
};

use super::RuntimeError;

/// Most instructions a program may have (BPF_MAXINSNS in linux/bpf_common.h), of 8 bytes each.
const MAX_PROGRAM: usize = 4096 * 8;
/// Longest profile file read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("reading the seccomp profile {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("the seccomp profile {path} is longer than {MAX_FILE} bytes")]
    TooLong { path: PathBuf },
    #[error("the seccomp profile {path} is not JSON of the OCI runtime spec's linux.seccomp")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("the seccomp profile asks for {what}, which is not supported: take it out of the profile")]
    Unsupported { what: String },
    #[error("{action} (libseccomp)")]
    Library {
        action: String,
        #[source]
        source: LibError,
    },
    #[error("taking the compiled seccomp filter from libseccomp")]
    Export(#[source] std::io::Error),
    #[error("the compiled seccomp filter has {bytes} bytes, the kernel takes {MAX_PROGRAM}: use fewer rules")]
    TooManyRules { bytes: usize },
}

impl SeccompError {
    /// As the pod's error, which has one line for the whole cause.
    #[must_use]
    pub fn unsupported(self) -> RuntimeError {
        let mut what = self.to_string();
        let mut cause = std::error::Error::source(&self);
        while let Some(error) = cause {
            what = format!("{what}: {error}");
            cause = error.source();
        }
        RuntimeError::Unsupported { what }
    }
}

/// A compiled profile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// `struct sock_filter[]`.
    pub program: Vec<u8>,
    /// Names this libseccomp does not know: their calls get the profile's default action.
    pub unknown: Vec<String>,
}

/// Reads a profile file.
///
/// # Errors
/// [`SeccompError::Read`], [`SeccompError::TooLong`], [`SeccompError::Parse`].
pub fn load(path: &Path) -> Result<LinuxSeccomp, SeccompError> {
    let read = |source| SeccompError::Read { path: path.to_owned(), source };
    let mut text = Vec::new();
    let file = std::fs::File::open(path).map_err(read)?;
    file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_FILE {
        return Err(SeccompError::TooLong { path: path.to_owned() });
    }
    serde_json::from_slice(&text).map_err(|source| SeccompError::Parse { path: path.to_owned(), source })
}

/// Compiled profiles kept: pods of a node have few different ones.
const KEPT: usize = 32;

/// Compiles a profile, or finds it compiled: that takes a millisecond, and most containers have the same one.
///
/// # Errors
/// Those of [`compile`].
pub fn compiled(profile: &LinuxSeccomp) -> Result<Arc<Filter>, SeccompError> {
    static CACHE: Mutex<VecDeque<(LinuxSeccomp, Arc<Filter>)>> = Mutex::new(VecDeque::new());
    let known = |cache: &VecDeque<(LinuxSeccomp, Arc<Filter>)>| {
        cache.iter().find(|(known, _)| known == profile).map(|(_, filter)| Arc::clone(filter))
    };
    if let Some(filter) = known(&CACHE.lock().unwrap_or_else(PoisonError::into_inner)) {
        return Ok(filter);
    }
    let filter = Arc::new(compile(profile)?);
    let mut cache = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    // Somebody else may have been as fast.
    if known(&cache).is_none() {
        // The default profile, compiled first, is the one that must not go.
        if cache.len() >= KEPT {
            cache.remove(1);
        }
        cache.push_back((profile.clone(), Arc::clone(&filter)));
    }
    Ok(filter)
}

/// Compiles a profile.
///
/// # Errors
/// [`SeccompError::Unsupported`] for what the shim could not install, [`SeccompError::Library`] for what
/// libseccomp turns down.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, SeccompError> {
    if profile.listener_path().is_some() {
        return Err(SeccompError::Unsupported { what: "a listener (listenerPath)".into() });
    }
    for flag in profile.flags().iter().flatten() {
        // TSYNC means nothing to a process with one thread; SPEC_ALLOW and the rest are flags of the call.
        if !matches!(flag, LinuxSeccompFilterFlag::SeccompFilterFlagTsync) {
            return Err(SeccompError::Unsupported { what: format!("the filter flag {flag:?}") });
        }
    }
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let library = |action: &str, source| SeccompError::Library { action: action.to_owned(), source };
    let mut context =
        ScmpFilterContext::new(default).map_err(|e| library("making a filter with the default action", e))?;
    context.set_ctl_nnp(false).map_err(|e| library("leaving no_new_privs to the runtime", e))?;
    // A binary tree instead of a list: a dozen comparisons for a call instead of hundreds. Libraries before
    // 2.5 do not have it and stay with the list.
    let _ = context.set_ctl_optimize(2);
    let mut architectures = vec![ScmpArch::native()];
    for arch in profile.architectures().iter().flatten() {
        let arch = architecture(*arch)?;
        if !architectures.contains(&arch) {
            architectures.push(arch);
        }
        // The machine's own is there from the beginning; libseccomp takes it again.
        context.add_arch(arch).map_err(|e| library(&format!("adding the architecture {arch:?}"), e))?;
    }
    let mut unknown = Vec::new();
    for rule in profile.syscalls().iter().flatten() {
        let action = action(rule.action(), rule.errno_ret())?;
        if action == default {
            // libseccomp refuses a rule that changes nothing.
            continue;
        }
        let comparators = rule.args().iter().flatten().map(comparator).collect::<Result<Vec<_>, _>>()?;
        for name in rule.names() {
            let Ok(syscall) = ScmpSyscall::from_name(name) else {
                unknown.push(name.clone());
                continue;
            };
            add(&mut context, action, syscall, &comparators)
                .map_err(|e| library(&format!("adding a rule for {name}"), e))?;
        }
    }
    let mut program = match default {
        ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_) => Vec::new(),
        _ => newer::prefix(profile, &architectures),
    };
    program.extend(export(&context)?);
    if program.len() > MAX_PROGRAM {
        return Err(SeccompError::TooManyRules { bytes: program.len() });
    }
    Ok(Filter { program, unknown })
}

/// Several comparisons of one argument are alternatives (the OCI runtime spec leaves it open, runc decided);
/// comparisons of different arguments hold together.
fn add(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    syscall: ScmpSyscall,
    comparators: &[(u32, ScmpArgCompare)],
) -> Result<(), LibError> {
    let repeated = comparators
        .iter()
        .enumerate()
        .any(|(at, (index, _))| comparators.iter().take(at).any(|(earlier, _)| earlier == index));
    if repeated {
        for (_, comparator) in comparators {
            context.add_rule_conditional(action, syscall, &[*comparator])?;
        }
        return Ok(());
    }
    let all: Vec<ScmpArgCompare> = comparators.iter().map(|(_, comparator)| *comparator).collect();
    if all.is_empty() {
        context.add_rule(action, syscall).map(drop)
    } else {
        context.add_rule_conditional(action, syscall, &all).map(drop)
    }
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<ScmpAction, SeccompError> {
    let value = errno.unwrap_or(libc::EPERM.unsigned_abs());
    let value = u16::try_from(value)
        .map_err(|_| SeccompError::Unsupported { what: format!("the errno value {value}") })?;
    Ok(match action {
        LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => ScmpAction::KillThread,
        LinuxSeccompAction::ScmpActKillProcess => ScmpAction::KillProcess,
        LinuxSeccompAction::ScmpActTrap => ScmpAction::Trap,
        LinuxSeccompAction::ScmpActErrno => ScmpAction::Errno(i32::from(value)),
        LinuxSeccompAction::ScmpActTrace => ScmpAction::Trace(value),
        LinuxSeccompAction::ScmpActLog => ScmpAction::Log,
        LinuxSeccompAction::ScmpActAllow => ScmpAction::Allow,
        LinuxSeccompAction::ScmpActNotify => {
            return Err(SeccompError::Unsupported { what: "the action SCMP_ACT_NOTIFY".into() });
        }
    })
}

/// By name: the two lists are the same but for their newest entries.
fn architecture(arch: Arch) -> Result<ScmpArch, SeccompError> {
    let name = arch.to_string();
    ScmpArch::from_str(&name)
        .map_err(|_| SeccompError::Unsupported { what: format!("the architecture {name}") })
}

fn comparator(arg: &LinuxSeccompArg) -> Result<(u32, ScmpArgCompare), SeccompError> {
    let index = u32::try_from(arg.index())
        .ok()
        .filter(|index| *index < 6)
        .ok_or_else(|| SeccompError::Unsupported { what: format!("argument {} of a call", arg.index()) })?;
    let (op, value) = match arg.op() {
        LinuxSeccompOperator::ScmpCmpNe => (ScmpCompareOp::NotEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpLt => (ScmpCompareOp::Less, arg.value()),
        LinuxSeccompOperator::ScmpCmpLe => (ScmpCompareOp::LessOrEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpEq => (ScmpCompareOp::Equal, arg.value()),
        LinuxSeccompOperator::ScmpCmpGe => (ScmpCompareOp::GreaterEqual, arg.value()),
        LinuxSeccompOperator::ScmpCmpGt => (ScmpCompareOp::Greater, arg.value()),
        LinuxSeccompOperator::ScmpCmpMaskedEq => {
            (ScmpCompareOp::MaskedEqual(arg.value()), arg.value_two().unwrap_or_default())
        }
    };
    Ok((index, ScmpArgCompare::new(index, op, value)))
}

/// The program, by way of a memory file: libseccomp writes to descriptors.
fn export(context: &ScmpFilterContext) -> Result<Vec<u8>, SeccompError> {
    let memory = rustix::fs::memfd_create("seccomp", rustix::fs::MemfdFlags::CLOEXEC)
        .map_err(|errno| SeccompError::Export(errno.into()))?;
    context
        .export_bpf(&memory)
        .map_err(|source| SeccompError::Library { action: "compiling the filter".into(), source })?;
    let mut file = std::fs::File::from(memory);
    let mut program = Vec::new();
    file.rewind().and_then(|()| file.read_to_end(&mut program)).map_err(SeccompError::Export)?;
    Ok(program)
}

#[cfg(test)]
mod tests;
