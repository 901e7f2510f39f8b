//! A pod: what was asked for ([`spec`]), what it is made of ([`model`]), how it is made and unmade (the flow).

pub mod error;
pub mod model;
pub mod pods;
pub mod spec;

pub use error::PodError;
pub use pods::{PodChange, Pods};
