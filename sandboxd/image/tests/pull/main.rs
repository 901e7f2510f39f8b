//! Pulls from a registry that lies, breaks off and hangs.

mod auth;
mod blobs;
mod documents;
mod fake;
mod hosts;
mod shared;
mod support;
