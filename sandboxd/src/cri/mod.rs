//! The Container Runtime Interface, `runtime.v1`: only translates.
//!
//! ```text
//! request ─▶ server ─▶ validate ─▶ PodSpec ─▶ PodService (the pod room)
//!                                                 │
//! response ◀─ server ◀─ translate ◀─ Pod ◀────────┤
//! gRPC status ◀─ status ◀─ PodError, Invalid ◀────┘
//! ```
//!
//! CRI sees a pod from the moment RunPodSandbox returned it: one that is still being made, or that failed
//! and was undone, is shown by the console alone. Otherwise kubelet's garbage collector would take a pod
//! under construction for a dead one.

mod container_code;
mod container_service;
mod container_translate;
mod containers;
pub mod error;
mod events;
mod filter;
mod image_code;
mod image_service;
mod images;
mod info;
mod known;
mod node;
mod pods;
mod server;
mod services;
mod stats;
mod status;
mod streams;
#[cfg(test)]
mod tests;
mod translate;
pub mod validate;

pub use container_service::ContainerService;
pub use error::CriError;
pub use events::{ContainerSource, Events};
pub use known::Known;
pub use node::{HandlerReport, NodeReport};
pub use pods::PodService;
pub use server::Cri;
