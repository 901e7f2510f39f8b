//! Tar as images have it: ustar, GNU and PAX headers, long names, sparse files.
//!
//! Where implementations differ this one reads what Go's `archive/tar` reads, because what scanned and signed
//! an image most likely used that: a GNU long name counts more than a PAX record, global PAX headers are
//! skipped, there is no data behind links, directories and devices.

mod header;
mod pax;
mod reader;
mod sparse;
#[cfg(test)]
pub(crate) mod testing;
mod writer;

use std::io;

pub(crate) use reader::{Entry, Kind, Reader, lossy};
pub(crate) use sparse::Sparse;
pub(crate) use writer::Writer;

/// Why a tar could not be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("read at byte {at}")]
    Read {
        at: u64,
        #[source]
        source: io::Error,
    },
    #[error("the tar ends in the middle, at byte {at}")]
    Truncated { at: u64 },
    #[error("no tar header at byte {at}")]
    Header { at: u64 },
    #[error("the tar header before byte {at} has a {field} that is out of range or no number")]
    Number { at: u64, field: &'static str },
    #[error("the extended header before byte {at} {why}")]
    Extended { at: u64, why: &'static str },
    #[error("the sparse map before byte {at} {why}")]
    Sparse { at: u64, why: &'static str },
    #[error("entry {path:?} has type {kind:?}, which no image has")]
    Type { path: String, kind: char },
}
