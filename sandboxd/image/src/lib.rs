//! The images of a node: pulled from registries or imported from archives, their blobs kept under their digests,
//! each layer unpacked once, and everything kept for as long as an image or a container needs it.

mod archive;
mod chores;
mod config;
mod content;
mod error;
mod find;
mod hold;
mod ingest;
mod layer;
pub mod manifest;
mod model;
mod names;
pub mod pull;
mod record;
mod reference;
pub mod registry;
mod repair;
mod settings;
mod state;
mod store;
mod tar;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use archive::{Format, Inbox};
pub use content::{Algorithm, BadDigest, BlobWriter, Digest, Hasher};
pub use error::ImageError;
pub use hold::Hold;
pub use ingest::{Ingest, Names, Slot};
pub use layer::{UnpackError, remove_tree};
pub use model::{Image, ImageConfig, ImageId, Layer, LayerId, User};
pub use pull::{PullError, PullRequest, PullSettings, Puller};
pub use reference::{BadReference, Reference, Version};
pub use settings::{Limits, Settings, Usage};
pub use store::Images;
pub use tar::TarError;
