//! CRI as kubelet speaks it, against the real daemon: a module for each group of rpcs, a test for each group of
//! fields. `// cri:` above a test names what it shows; `cargo xtask cri-table` writes docs/cri.md from that.

#![expect(clippy::cloned_ref_to_slice_refs, reason = "ids are compared with lists of ids")]
#![expect(clippy::needless_pass_by_value, reason = "a test is a closure written where it is passed")]

mod authority;
mod command;
mod devices;
mod exec_sync;
mod handlers;
mod life;
mod logs;
mod mounts;
mod namespaces;
mod pod_stats;
mod pods;
mod resources;
mod security;
mod stats;
mod stdin;
mod streaming;
mod support;
mod version_and_status;
