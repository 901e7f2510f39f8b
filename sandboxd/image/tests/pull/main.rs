//! Pulls from a registry that lies, breaks off and hangs.

#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    reason = "a test that cannot go on; requests written where they are passed"
)]

mod auth;
mod blobs;
mod documents;
mod fake;
mod hosts;
mod shared;
mod support;
