//! A container: what was asked for ([`spec`]), how it is put together ([`prepare`]) and made (`create`), what is
//! known of it ([`model`]), who makes the changes (a driver per container, behind [`Containers`]), and who goes on
//! with it after a restart.

pub mod cdi;
mod containers;
pub mod copy;
mod create;
mod driver;
pub mod env;
pub mod error;
pub mod exec;
#[cfg(test)]
pub(crate) mod fake;
mod ground;
mod log_file;
pub mod model;
pub mod prepare;
mod record;
mod recover;
pub mod relabel;
pub mod rootfs;
pub mod signal;
pub mod spec;
pub mod store;
pub mod user;
pub mod volumes;

pub use containers::{Containers, Foundations};
pub use log_file::LogPlace;
pub use store::ContainerChange;

/// A path in a container without ".", ".." and doubled '/'; a relative one is taken as under "/".
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            other => parts.push(other),
        }
    }
    format!("/{}", parts.join("/"))
}
