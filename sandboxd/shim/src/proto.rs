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
//!   │ ─ Kill ────────────────────▶ │
//!   │ ◀─ Killed{exit} ──────────── │  and the shim is gone
//! ```
//!
//! The two binaries are installed together, but a shim outlives an upgrade of the daemon: every message starts
//! with [`VERSION`], and a daemon that meets another one says so instead of guessing.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::plan::{Plan, SysfsKind};

/// First byte of every message. Raised when a message changes its meaning.
pub const VERSION: u8 = 1;
/// Longest message in bytes: a seccomp program of 32 KiB (BPF_MAXINSNS) and a plan beside it.
pub const MAX_MESSAGE: usize = 96 * 1024;
/// Most file descriptors with one message.
pub const MAX_FDS: usize = 16;
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
}

/// How the infra container ended.
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
}

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
