//! Memory that all containers of a pod share.

use super::format::MAX_LINE;

/// Most bytes of one read: what a pipe of the usual size holds.
pub const READ: usize = 64 * 1024;
/// Most bytes of one write to a log.
pub const WRITE: usize = 128 * 1024;

/// One read and one write. The kernel gives pages only for what is used of it: one big allocation is mapped
/// untouched.
///
/// ```text
/// │ line that was begun │ bytes just read │ formatted lines │
///   MAX_LINE, to the      READ              WRITE
///   right
/// ```
pub struct Buffers {
    memory: Box<[u8]>,
}

impl Buffers {
    pub fn new() -> Self {
        Self { memory: vec![0; MAX_LINE + READ + WRITE].into_boxed_slice() }
    }

    /// Where a read goes.
    pub fn input(&mut self) -> &mut [u8] {
        self.memory.get_mut(MAX_LINE..MAX_LINE + READ).unwrap_or_default()
    }

    /// The bytes of the last read.
    pub fn fresh(&self, count: usize) -> &[u8] {
        self.memory.get(MAX_LINE..MAX_LINE + count.min(READ)).unwrap_or_default()
    }

    /// Puts the line that was begun before the `count` bytes just read: both together, and where formatted
    /// lines go.
    pub fn joined(&mut self, begun: &[u8], count: usize) -> (&[u8], &mut [u8]) {
        let begun = begun.get(..MAX_LINE).unwrap_or(begun);
        let start = MAX_LINE - begun.len();
        if let Some(place) = self.memory.get_mut(start..MAX_LINE) {
            place.copy_from_slice(begun);
        }
        let (input, output) = self.memory.split_at_mut(MAX_LINE + READ);
        (input.get(start..MAX_LINE + count.min(READ)).unwrap_or_default(), output)
    }
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buffers").finish_non_exhaustive()
    }
}
