//! A container: what was asked for ([`spec`]), what is known of it ([`model`]).

pub mod model;
pub mod prepare;
pub mod signal;
pub mod spec;
