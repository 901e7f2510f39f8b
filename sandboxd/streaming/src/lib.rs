//! Exec, attach and port-forward as clients speak them: SPDY/3.1 and WebSocket over HTTP, behind one-shot tokens.
//!
//! This crate knows HTTP and the stream protocols; what a session is connected to is the daemon's ([`Backend`]).

mod backend;

pub use backend::{Backend, BackendError, Connection, Exited, Session, Size, Target, Wanted};
