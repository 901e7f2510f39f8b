//! Commands of `sandboxd` that ask: `namespaces`, `explain`, `events`, `doctor`. Clients of the console's socket.

mod connection;
pub mod doctor;
pub mod events;
pub mod explain;
pub mod namespaces;
mod recording;
mod text;

pub use connection::{ClientError, ConsoleArgs};
