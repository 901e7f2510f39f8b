//! SPDY/3.1 as Kubernetes speaks it: framing, header compression, and many streams over one connection.
//!
//! Its peers (moby/spdystream, in every Go client) neither send nor honour WINDOW_UPDATE: a stream whose reader is
//! slow holds up its connection, and so it does here. Priorities and settings mean nothing to them either.

mod connection;
mod frame;
mod headers;
mod reader;
mod stream;
mod table;
mod writer;

pub(crate) use connection::{Connection, Offer};
pub(crate) use frame::FrameError;
pub(crate) use headers::Headers;
use headers::{Deflater, Inflater};
pub(crate) use stream::Stream;

/// The name in the `Upgrade` header.
pub(crate) const NAME: &str = "SPDY/3.1";
