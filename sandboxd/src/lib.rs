//! sandboxd: a container runtime whose pods own their namespaces.
//!
//! A request enters at [`cri`], is validated into the types of [`pod::spec`], goes down through
//! [`pod`] (the flow), [`runtime`], [`cgroup`] and [`network`], and comes back once. [`observer`]
//! watches the kernel, [`console`] shows it. `ARCHITECTURE.md` has the map.

pub mod apparmor;
pub mod cgroup;
pub mod client;
pub mod config;
pub mod console;
pub mod container;
pub mod cri;
pub mod daemon;
pub mod doctor;
pub mod image;
pub mod journal;
pub mod metrics;
pub mod network;
pub mod observer;
pub mod pod;
pub mod runtime;
pub mod stats;
pub mod streaming;
pub mod telemetry;
