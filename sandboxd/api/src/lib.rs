//! The wire types that the daemon, the console and the tests share.

#[cfg(feature = "backoff")]
pub mod backoff;
#[cfg(feature = "json")]
mod json;

/// The Container Runtime Interface, `runtime.v1`.
#[allow(
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod cri {
    tonic::include_proto!("runtime.v1");
}

/// The console protocol, `sandboxd.console.v1`.
#[allow(
    missing_debug_implementations,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
pub mod console {
    tonic::include_proto!("sandboxd.console.v1");
}

/// The largest gRPC message either side takes, in bytes: what kubelet sets for itself.
pub const MAX_MESSAGE_SIZE: usize = 16 * 1024 * 1024;
