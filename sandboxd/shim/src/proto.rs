//! Requests and replies, their bounds and their version.
//!
//! ```text
//! daemon                         shim
//!   │ ─ Create(plan) + fds ──────▶ │  makes namespaces and rootfs, stops before exec
//!   │ ◀─ Created{pid} + pidfd ──── │  or Failed, and the shim is gone
//!   │ ─ Start ───────────────────▶ │  execs the pause
//!   │ ◀─ Started ───────────────── │  or Failed, and infra container and shim are gone
//!   │ ─ State ───────────────────▶ │  any time, also from a restarted daemon
//!   │ ◀─ State{…} + pidfd ──────── │
//!   │ ─ Container(id, …) ────────▶ │  containers and execs of the pod, once it is started
//!   │ ◀─ … ─────────────────────── │  a failure leaves the shim and the rest of the pod as they are
//!   │ ─ Kill ────────────────────▶ │
//!   │ ◀─ Killed{exit} ──────────── │  and the shim is gone
//! ```
//!
//! A container that an OCI runtime carries out has a shim of its own, which no pod is made in:
//!
//! ```text
//!   │ ─ CreateOci(plan) + fds ───▶ │  runs `create`, takes the container's process over
//!   │ ◀─ ContainerCreated ──────── │  or NotDone, and the shim is gone
//!   │ ─ Container(id, …) ────────▶ │  as above; after Remove the shim is gone
//! ```
//!
//! A request that is longer than a message may be lies in a sealed memory file, the first of the descriptors.
//!
//! The two binaries are installed together, but a shim outlives an upgrade of the daemon: every message starts
//! with [`VERSION`], and a daemon that meets another one says so instead of guessing.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::plan::container::{ContainerPlan, ExecPlan};
use crate::plan::oci::{OciExecPlan, OciPlan};
use crate::plan::{Plan, SysfsKind};

/// First byte of every message. Raised when a message changes its meaning.
pub const VERSION: u8 = 2;
/// Longest message in bytes: a seccomp program of 32 KiB (BPF_MAXINSNS) and a plan beside it.
pub const MAX_MESSAGE: usize = 96 * 1024;
/// Longest request in a memory file: an environment may have megabytes (execve(2): 6 MiB at most).
pub const MAX_FAR: usize = 8 * 1024 * 1024;
/// Most file descriptors with one message (the kernel's SCM_MAX_FD is 253).
pub const MAX_FDS: usize = 250;
/// The shim's socket in the pod's directory.
pub const SOCKET_NAME: &str = "shim.sock";

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Create(Box<Plan>),
    Start,
    State,
    Kill,
    /// Tries out what pods need, in namespaces of its own, and ends the shim.
    SelfTest,
    /// The request proper, of so many bytes, lies in the first descriptor.
    Far {
        length: u32,
    },
    CreateContainer(Box<ContainerPlan>),
    Container {
        id: String,
        verb: Verb,
    },
    Exec(Box<ExecPlan>),
    Process {
        exec: u64,
        verb: ExecVerb,
    },
    /// A detached copy of the pod's /dev/shm.
    Shm,
    /// To a shim of its own, which has no pod: it ends when the container is removed.
    CreateOci(Box<OciPlan>),
    ExecOci(Box<OciExecPlan>),
    /// [`Request::CreateOci`] in a user namespace, whose root has this uid and gid on the host.
    CreateOciMapped(Box<OciPlan>, (u32, u32)),
}

/// What to do to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verb {
    Start,
    State,
    /// To its first process, or to all of them.
    Signal {
        signal: i32,
        all: bool,
    },
    /// With the new log.
    ReopenLog,
    Attach(Wanted),
    Resize {
        columns: u16,
        rows: u16,
    },
    /// Kills what is left of it and forgets it.
    Remove,
}

/// What to do to a process that was executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecVerb {
    State,
    Resize {
        columns: u16,
        rows: u16,
    },
    /// Kills it and all its descendants.
    Kill,
    /// Nobody will ask for it again. With `drop`, nobody has its streams either: what it writes is dropped.
    Release {
        drop: bool,
    },
}

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// What the shim answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// With the pidfd of the infra container.
    Created {
        pid: i32,
        warnings: Vec<String>,
    },
    Started,
    /// With the pidfd of the infra container.
    State {
        pod: String,
        pid: i32,
        sysfs: SysfsKind,
        started: bool,
        exit: Option<Exit>,
    },
    Killed {
        exit: Exit,
    },
    /// A step failed. Everything made is unmade, the shim ends.
    Failed(Failure),
    /// The request does not fit the state: nothing was done.
    Refused(Refusal),
    SelfTest(SelfTest),
    /// With the pidfd of the container's first process.
    ContainerCreated {
        pid: i32,
        warnings: Vec<String>,
    },
    /// Of a container or an exec: nothing is left of it, the pod goes on.
    NotDone(Failure),
    /// With the pidfd, unless the process has ended and was waited for.
    ContainerState(ContainerState),
    Done,
    Removed {
        exit: Option<Ended>,
    },
    /// With the streams that there are, of those wanted, in the order of the fields.
    Attached(Wanted),
    /// With the pidfd, and then the streams as of [`Reply::Attached`].
    Executed {
        exec: u64,
        pid: i32,
        streams: Wanted,
        warnings: Vec<String>,
    },
    /// `None`: it runs.
    ExecState {
        exit: Option<Ended>,
    },
}

/// A container as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    pub pid: i32,
    pub started: bool,
    pub exit: Option<Ended>,
    /// What it wrote that its log could not take, and the last errno of a write.
    pub lost_bytes: u64,
    pub log_errno: Option<i32>,
    /// What it wrote that attached clients were too slow for.
    pub missed_bytes: u64,
}

/// How and when a process ended (nanoseconds since the Unix epoch).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    pub exit: Exit,
    pub at_ns: i64,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Exit {
    Code(i32),
    Signal(i32),
    Unknown,
}

/// A step that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The call and its object ("mount sysfs on /sys").
    pub step: String,
    pub errno: i32,
    /// The infra container's pid in the shim's pid namespace; `None`: it failed outside of it.
    pub pid: Option<i32>,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    NotCreated,
    AlreadyCreated,
    AlreadyStarted,
    Ended,
    Version(u8),
    Malformed,
    /// The pod has no such container, or the container no such process.
    Unknown,
    /// The pod has such a container already.
    Exists,
    NotStarted,
    /// The container has no terminal, no standard input, or no log to reopen.
    NoStream,
}

/// `errno` of a [`Failure`] that has nothing to add to its step, which is the whole message: the greatest number
/// the kernel could give, which it gives to none.
pub const SAID: i32 = 4095;

/// What works on this machine; each failure with its step.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfTest {
    pub user_namespace: Option<Failure>,
    pub idmapped_mount: Option<Failure>,
    pub recursive_read_only: Option<Failure>,
}

/// Why bytes are not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtoError {
    /// The other side speaks another version.
    Version(u8),
    /// Longer than [`MAX_MESSAGE`].
    TooLong(usize),
    /// Empty, cut off, or followed by bytes that belong to nothing.
    Malformed,
}

impl std::fmt::Display for ProtoError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Version(theirs) => {
                write!(f, "the message has protocol version {theirs}, this binary speaks {VERSION}")
            }
            Self::TooLong(length) => write!(f, "the message has {length} bytes, {MAX_MESSAGE} are the most"),
            Self::Malformed => f.write_str("the message is malformed"),
        }
    }
}

impl std::error::Error for ProtoError {}

/// The bytes of a message.
///
/// # Errors
/// [`ProtoError::TooLong`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, ProtoError> {
    let mut bytes = vec![VERSION];
    bytes = postcard::to_extend(message, bytes).map_err(|_| ProtoError::Malformed)?;
    if bytes.len() > MAX_MESSAGE { Err(ProtoError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// The message in `bytes`, which must hold it and nothing else.
///
/// # Errors
/// Every [`ProtoError`].
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProtoError> {
    if bytes.len() > MAX_MESSAGE {
        return Err(ProtoError::TooLong(bytes.len()));
    }
    decode_any(bytes)
}

/// The bytes of a request of any length, up to [`MAX_FAR`].
///
/// # Errors
/// [`ProtoError::TooLong`].
pub fn encode_any(request: &Request) -> Result<Vec<u8>, ProtoError> {
    let bytes = postcard::to_extend(request, vec![VERSION]).map_err(|_| ProtoError::Malformed)?;
    if bytes.len() > MAX_FAR { Err(ProtoError::TooLong(bytes.len())) } else { Ok(bytes) }
}

/// As [`decode`], whatever the length.
///
/// # Errors
/// [`ProtoError::Version`] and [`ProtoError::Malformed`].
pub fn decode_any<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ProtoError> {
    match bytes.split_first() {
        None => Err(ProtoError::Malformed),
        Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
            Ok((message, [])) => Ok(message),
            _ => Err(ProtoError::Malformed),
        },
        Some((&theirs, _)) => Err(ProtoError::Version(theirs)),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    #[test]
    fn a_message_comes_back_as_it_was() {
        let request = Request::Kill;
        assert_eq!(decode::<Request>(&encode(&request).unwrap()), Ok(request));
        let reply = Reply::Failed(Failure { step: "mount sysfs on /sys".into(), errno: 1, pid: Some(7) });
        assert_eq!(decode::<Reply>(&encode(&reply).unwrap()), Ok(reply));
    }

    #[test]
    fn hostile_bytes_are_errors() {
        assert_eq!(decode::<Request>(&[]), Err(ProtoError::Malformed));
        assert_eq!(decode::<Request>(&[VERSION]), Err(ProtoError::Malformed));
        assert_eq!(decode::<Request>(&[VERSION + 1, 1]), Err(ProtoError::Version(VERSION + 1)));
        assert_eq!(
            decode::<Request>(&vec![VERSION; MAX_MESSAGE + 1]),
            Err(ProtoError::TooLong(MAX_MESSAGE + 1))
        );
        let mut trailing = encode(&Request::Start).unwrap();
        trailing.push(0);
        assert_eq!(decode::<Request>(&trailing), Err(ProtoError::Malformed));
        // A string that claims to be four gigabytes long must not be allocated.
        assert_eq!(
            decode::<Request>(&[VERSION, 0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
            Err(ProtoError::Malformed)
        );
    }

    // What a shim of an earlier release reads, whose variables are strings.
    #[test]
    fn text_in_an_environment_is_sent_as_it_always_was() {
        let earlier = vec!["A=b".to_owned(), "B=\u{e9}".to_owned(), String::new()];
        let now: Vec<CString> = earlier.iter().map(|one| CString::new(one.as_str()).unwrap()).collect();
        assert_eq!(encode(&earlier), encode(&now));
        assert_eq!(decode(&encode(&now).unwrap()), Ok(earlier));
        let binary = vec![c"A=\xff\x80".to_owned()];
        assert_eq!(decode(&encode(&binary).unwrap()), Ok(binary.clone()));
        assert_eq!(decode::<Vec<String>>(&encode(&binary).unwrap()), Err(ProtoError::Malformed));
    }

    #[test]
    fn too_long_a_message_is_not_sent() {
        let failure = Failure { step: "x".repeat(MAX_MESSAGE), errno: 1, pid: None };
        assert!(matches!(encode(&Reply::Failed(failure)), Err(ProtoError::TooLong(_))));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = decode::<Request>(&bytes);
            let _ = decode::<Reply>(&bytes);
        }
    }
}
