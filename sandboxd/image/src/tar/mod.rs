//! Tar as images have it.

/// Why a tar could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("no tar header at byte {0}")]
    Header(u64),
}
