//! Files with holes: which bytes of them are in the tar.

use super::TarError;

/// More pieces than this in one file are refused.
const MAX_PIECES: usize = 1 << 20;

/// A sparse file's data: pieces in ascending order, and how long the file is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sparse {
    /// Offset, length.
    pub pieces: Vec<(u64, u64)>,
    pub real_size: u64,
}

impl Sparse {
    /// Checks a map against the bytes the tar has.
    pub(super) fn new(
        pieces: Vec<(u64, u64)>,
        real_size: u64,
        stored: u64,
        at: u64,
    ) -> Result<Self, TarError> {
        let sparse = |why| TarError::Sparse { at, why };
        let mut end = 0;
        let mut total = 0u64;
        for &(offset, length) in &pieces {
            if offset < end {
                return Err(sparse("has pieces that overlap or go back"));
            }
            end = offset.checked_add(length).ok_or(sparse("has a piece beyond any file"))?;
            total += length;
        }
        if end > real_size {
            return Err(sparse("has pieces beyond the end of its file"));
        }
        if total != stored {
            return Err(sparse("speaks of more or fewer bytes than there are"));
        }
        Ok(Self { pieces, real_size })
    }
}

/// Pairs of numbers as pieces.
pub(super) fn pairs(numbers: &[u64], at: u64) -> Result<Vec<(u64, u64)>, TarError> {
    if !numbers.len().is_multiple_of(2) {
        return Err(TarError::Sparse { at, why: "has an offset without a length" });
    }
    if numbers.len() / 2 > MAX_PIECES {
        return Err(TarError::Sparse { at, why: "has too many pieces" });
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Appends the pieces of a GNU header or its continuation: 24 bytes each, the rest empty.
pub(super) fn gnu_pieces(bytes: &[u8], pieces: &mut Vec<(u64, u64)>, at: u64) -> Result<(), TarError> {
    let number = |field: &[u8]| {
        let value = super::header::number(field).and_then(|n| u64::try_from(n).ok());
        value.ok_or(TarError::Number { at, field: "sparse map" })
    };
    for piece in bytes.chunks_exact(24) {
        if piece[0] == 0 {
            break;
        }
        if pieces.len() == MAX_PIECES {
            return Err(TarError::Sparse { at, why: "has too many pieces" });
        }
        pieces.push((number(&piece[..12])?, number(&piece[12..])?));
    }
    Ok(())
}
