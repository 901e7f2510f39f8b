//! Frames: eight bytes of head, then a payload.
//!
//! ```text
//!  control  1|version:15 type:16   flags:8 length:24   payload
//!  data     0|stream:31            flags:8 length:24   data
//! ```

use super::{Deflater, Headers, Inflater};

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 8;
/// A control frame's payload; data frames are read in pieces, whatever their length.
pub(crate) const MAX_CONTROL: u32 = 64 << 10;
const VERSION: u16 = 3;
const FIN: u8 = 1;
const STREAM_MASK: u32 = 0x7fff_ffff;

/// What makes a connection unreadable.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("SPDY version {version} in a frame: only 3 is spoken here")]
    Version { version: u16 },
    #[error("a control frame of type {kind} has {length} bytes: the limit is {limit}")]
    LargeFrame { kind: u16, length: u32, limit: u32 },
    #[error("a control frame of type {kind} has only {length} bytes")]
    ShortFrame { kind: u16, length: usize },
    #[error("a header block ends within a name or value")]
    TornBlock,
    #[error("a header block expands to more than {limit} bytes")]
    LargeBlock { limit: usize },
    #[error("a header block has {count} headers")]
    TooManyHeaders { count: usize },
    #[error("a header block's zlib stream is damaged")]
    Compression,
    #[error("stream 0 in a frame")]
    NoStream,
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    Protocol = 1,
    Refused = 3,
    Cancel = 5,
}

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Head {
    Control { kind: u16, flags: u8, length: u32 },
    Data { stream: u32, fin: bool, length: u32 },
}

impl Head {
    pub(crate) fn parse(bytes: [u8; HEAD]) -> Result<Self, FrameError> {
        let [a, b, c, d, flags, e, f, g] = bytes;
        let length = u32::from_be_bytes([0, e, f, g]);
        let first = u32::from_be_bytes([a, b, c, d]);
        if first & !STREAM_MASK == 0 {
            if first == 0 {
                return Err(FrameError::NoStream);
            }
            return Ok(Self::Data { stream: first, fin: flags & FIN != 0, length });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(FrameError::Version { version });
        }
        let kind = u16::from_be_bytes([c, d]);
        if length > MAX_CONTROL {
            return Err(FrameError::LargeFrame { kind, length, limit: MAX_CONTROL });
        }
        Ok(Self::Control { kind, flags, length })
    }
}

/// A control frame. What peers do not use is [`Control::Ignored`]: settings, window updates, unknown types.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Control {
    SynStream { stream: u32, fin: bool, headers: Headers },
    SynReply { stream: u32, fin: bool },
    Reset { stream: u32 },
    Ping { id: u32 },
    GoAway,
    Headers { stream: u32, fin: bool },
    Ignored,
}

impl Control {
    /// Header blocks are expanded even where nobody wants them: the next one builds on them.
    pub(crate) fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflater: &mut Inflater,
    ) -> Result<Self, FrameError> {
        let short = || FrameError::ShortFrame { kind, length: payload.len() };
        let word = || payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)).ok_or_else(short);
        let stream = || match word()? & STREAM_MASK {
            0 => Err(FrameError::NoStream),
            stream => Ok(stream),
        };
        let fin = flags & FIN != 0;
        let block = |from: usize| payload.get(from..).ok_or_else(short);
        Ok(match kind {
            1 => Self::SynStream { stream: stream()?, fin, headers: inflater.inflate(block(10)?)? },
            2 => {
                inflater.inflate(block(4)?)?;
                Self::SynReply { stream: stream()?, fin }
            }
            3 => Self::Reset { stream: stream()? },
            6 => Self::Ping { id: word()? },
            7 => Self::GoAway,
            8 => {
                inflater.inflate(block(4)?)?;
                Self::Headers { stream: stream()?, fin }
            }
            _ => Self::Ignored,
        })
    }
}

/// Appends frames to a buffer.
pub(crate) struct Encoder {
    deflater: Deflater,
}

impl Encoder {
    pub(crate) fn new() -> Result<Self, FrameError> {
        Ok(Self { deflater: Deflater::new()? })
    }

    pub(crate) fn syn_stream(
        &mut self,
        out: &mut Vec<u8>,
        stream: u32,
        headers: &Headers,
    ) -> Result<(), FrameError> {
        let block = self.deflater.deflate(headers)?;
        control(out, 1, 10 + block.len());
        out.extend_from_slice(&stream.to_be_bytes());
        // No associated stream, no priority, no slot.
        out.extend_from_slice(&[0; 6]);
        out.extend_from_slice(&block);
        Ok(())
    }

    pub(crate) fn syn_reply(&mut self, out: &mut Vec<u8>, stream: u32) -> Result<(), FrameError> {
        let block = self.deflater.deflate(&Headers::default())?;
        control(out, 2, 4 + block.len());
        out.extend_from_slice(&stream.to_be_bytes());
        out.extend_from_slice(&block);
        Ok(())
    }
}

pub(crate) fn reset(out: &mut Vec<u8>, stream: u32, why: Reset) {
    control(out, 3, 8);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(&(why as u32).to_be_bytes());
}

pub(crate) fn ping(out: &mut Vec<u8>, id: u32) {
    control(out, 6, 4);
    out.extend_from_slice(&id.to_be_bytes());
}

pub(crate) fn go_away(out: &mut Vec<u8>, last: u32) {
    control(out, 7, 8);
    out.extend_from_slice(&last.to_be_bytes());
    out.extend_from_slice(&0u32.to_be_bytes());
}

pub(crate) fn data(out: &mut Vec<u8>, stream: u32, fin: bool, bytes: &[u8]) {
    out.extend_from_slice(&stream.to_be_bytes());
    length_and_flags(out, if fin { FIN } else { 0 }, bytes.len());
    out.extend_from_slice(bytes);
}

fn control(out: &mut Vec<u8>, kind: u16, length: usize) {
    out.extend_from_slice(&(0x8000 | VERSION).to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    length_and_flags(out, 0, length);
}

/// Lengths here are of blocks and chunks of this crate's own making: far below 2^24.
fn length_and_flags(out: &mut Vec<u8>, flags: u8, length: usize) {
    let [_, a, b, c] = u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes();
    out.extend_from_slice(&[flags, a, b, c]);
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
