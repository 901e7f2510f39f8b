//! Exec, attach and port-forward as clients speak them: SPDY/3.1 and WebSocket over HTTP, behind one-shot tokens.
//!
//! This crate knows HTTP and the stream protocols; what a session is connected to is the daemon's ([`Backend`]).
//!
//! ```text
//!  CRI Exec ──▶ Server::url_for ──▶ token ──▶ URL ──▶ client
//!  client ── GET /exec/TOKEN, Upgrade ──▶ server ──▶ spdy | ws ──▶ remote | forward ──▶ Backend
//! ```

mod backend;
#[cfg(feature = "client")]
pub mod client;
mod copy;
mod forward;
mod remote;
mod server;
mod spdy;
mod ws;

pub use backend::{Backend, BackendError, Connection, Exited, Session, Size, Target, Wanted};
pub use server::{Certificates, Full, MinVersion, Server, ServerError, Settings, Tls, TlsError, Urls};

/// Bytes that are moved at once, and in one frame or message.
const CHUNK: usize = 32 << 10;
