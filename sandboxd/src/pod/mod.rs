//! A pod: what was asked for ([`spec`]), what it is made of ([`model`]), how it is made and unmade (the
//! flow), who makes the changes (a driver per pod, behind [`Pods`]), and who comes back after a restart.

mod driver;
pub mod error;
mod flow;
pub mod model;
pub mod pods;
mod recover;
pub mod spec;
pub mod store;

pub use driver::Limits;
pub use error::PodError;
pub(crate) use flow::now_ns;
pub use flow::{PodDefaults, Rooms};

pub use pods::{PodHandler, Pods};
pub use store::PodChange;
