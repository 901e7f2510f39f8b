//! Clients of the streaming server, for tests: they speak as kubectl, crictl and older ones do.
//!
//! ```text
//!  Endpoint ── exec, attach ──▶ Remote (SPDY) or Channels (WebSocket)
//!           └─ port-forward ──▶ Forward (SPDY, or SPDY through WebSocket) or Channels
//! ```

mod endpoint;
mod forward;
mod remote;
mod websocket;

pub use endpoint::{ClientError, Endpoint};
pub use forward::{Forward, Forwarded};
pub use remote::{Outcome, Remote};
pub use websocket::Channels;

/// What is read from the server.
pub type Reader = Box<dyn tokio::io::AsyncRead + Send + Unpin>;
/// What is written to the server.
pub type Writer = Box<dyn tokio::io::AsyncWrite + Send + Unpin>;
