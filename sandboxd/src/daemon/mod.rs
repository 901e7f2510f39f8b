//! The daemon's life, in stages.
//!
//! ```text
//! command line ─▶ cli ─▶ Config ─▶ Daemon::build ─▶ Daemon::run ─▶ drained
//!                                   directories      READY=1        STOPPING=1: no new connections,
//!                                   locks            serving        rpcs in flight finish (bounded),
//!                                   sockets                         pods live on with their shims
//!                                   rooms
//! ```
//! A failure while building undoes what was built: locks and sockets go with their values.

mod accept;
mod authority;
mod build;
pub mod cli;
mod dirs;
mod error;
pub mod logging;
pub mod memory;
mod node;
mod run;
mod signals;
mod socket;

pub use authority::Connection;
pub use build::Daemon;
pub use error::DaemonError;
pub use signals::Signals;

/// The async runtime: two workers are enough for a node's rpcs and cost little when idle; blocking threads
/// (file systems, self-tests) end after ten idle seconds.
///
/// # Errors
/// When the threads cannot be made.
pub fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(32)
        .thread_name("sandboxd")
        .enable_all()
        .build()
}
