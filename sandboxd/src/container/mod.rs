//! A container: what was asked for ([`spec`]), what is known of it ([`model`]).

pub mod cdi;
pub mod copy;
pub mod model;
pub mod prepare;
pub mod rootfs;
pub mod signal;
pub mod spec;
pub mod user;
