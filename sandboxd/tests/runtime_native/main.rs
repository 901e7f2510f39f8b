//! The native runtime against the real kernel, as root: what a pod is made of, how it lives and what it leaves.

mod failures;
mod figures;
mod host;
mod life;
mod setup;
mod userns;
