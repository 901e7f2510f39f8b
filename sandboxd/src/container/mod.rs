//! A container: what was asked for ([`spec`]), what is known of it ([`model`]).

pub mod cdi;
pub mod copy;
pub mod error;
pub mod model;
pub mod prepare;
pub mod rootfs;
pub mod signal;
pub mod spec;
pub mod user;
pub mod volumes;

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
