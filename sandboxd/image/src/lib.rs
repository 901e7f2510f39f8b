//! The images of a node: pulled from registries or imported from archives, their blobs kept under their digests,
//! each layer unpacked once, and everything kept for as long as an image or a container needs it.

mod model;

pub use model::{Image, ImageConfig, ImageId, Layer, LayerId, User};
