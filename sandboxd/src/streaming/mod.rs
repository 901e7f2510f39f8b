//! Exec, attach and port-forward: from an rpc to a URL, from the URL to a process or a port of a pod.
//!
//! ```text
//!  cri ── Exec ──▶ Streaming ── checks, Target ──▶ sandboxd-streaming ──▶ URL
//!  client ── URL ──▶ sandboxd-streaming ──▶ Rooms (the crate's Backend)
//!                                             ├─ exec    Task::exec, its pipes, its exit code
//!                                             ├─ attach  Task::attach, until the container ends
//!                                             └─ connect a socket made in the pod's network namespace
//! ```
//! The protocols are the crate's; here are the container and the pod behind them. A client that goes leaves its
//! process alone: its input is at its end, its output is not read any more.

mod attach;
mod connect;
mod error;
mod exec;
mod pipe;
mod service;
mod targets;
#[cfg(test)]
mod tests;

pub use error::StreamingError;
pub(crate) use exec::start as start_exec;
pub use service::{Served, Streaming};
pub use targets::{NodeTargets, Targets};
