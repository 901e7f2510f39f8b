//! The native runtime against the real kernel, as root: what a pod is made of, how it lives and what it leaves.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is the verdict")]

mod bench_box;
mod containers;
mod execs;
mod failures;
mod figures;
mod host;
mod life;
mod prepared;
mod sessions;
mod setup;
mod streams;
mod userns;
mod volumes;
