//! Images in and out as files: OCI layouts, as a directory or a tar, and the tars of `docker save`.

mod docker;
mod export;
mod files;
mod import;
mod oci;
#[cfg(test)]
mod tests;

pub use export::Format;
pub use import::Inbox;

/// The annotations that name an image in an index: containerd's has the whole name, OCI's may have only the
/// tag.
const NAME: &str = "io.containerd.image.name";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
