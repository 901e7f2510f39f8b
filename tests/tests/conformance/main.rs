//! CRI as kubelet speaks it, against the real daemon: a module for each group of rpcs, a test for each group of
//! fields. `// cri:` above a test names what it shows; `cargo xtask cri-table` writes docs/cri.md from that.

mod command;
mod exec_sync;
mod images;
mod life;
mod logs;
mod mounts;
mod namespaces;
mod resources;
mod security;
mod stats;
mod support;
