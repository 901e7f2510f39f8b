//! A layer's blob as the bytes of its tar: decompressed on a thread of its own, hashed and bounded here.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::Scope;

use super::UnpackError;
use crate::content::{Algorithm, Digest, Hasher};

/// Bytes handed over at once, and how many such pieces may wait.
const PIECE: usize = 256 * 1024;
const WAITING: usize = 4;

/// The largest window of a zstd frame, as a power of two: what the format's own `--ultra` levels use. The
/// decoder allocates as much.
const ZSTD_WINDOW_LOG: u32 = 27;

/// The reading end.
#[derive(Debug)]
pub(super) struct Pipe<'a> {
    pieces: Receiver<io::Result<Vec<u8>>>,
    used: Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    hasher: Hasher,
    total: u64,
    limit: u64,
    stop: &'a AtomicBool,
    /// What an `io::Error` of this reader stands for.
    failure: Option<UnpackError>,
    ended: bool,
}

impl<'a> Pipe<'a> {
    /// Begins to decompress a blob, however it is compressed.
    pub(super) fn start<'scope>(
        scope: &'scope Scope<'scope, '_>,
        file: File,
        algorithm: Algorithm,
        limit: u64,
        stop: &'a AtomicBool,
    ) -> Result<Self, UnpackError> {
        let input = decompressed(file)?;
        let (sender, pieces) = sync_channel(WAITING);
        let (used, back) = channel();
        let spawned = std::thread::Builder::new().name("image-inflate".into());
        spawned.spawn_scoped(scope, move || feed(input, &sender, &back)).map_err(UnpackError::Read)?;
        Ok(Self {
            pieces,
            used,
            piece: Vec::new(),
            at: 0,
            hasher: Hasher::new(algorithm),
            total: 0,
            limit,
            stop,
            failure: None,
            ended: false,
        })
    }

    /// Why reading failed.
    pub(super) fn failure(&mut self) -> Option<UnpackError> {
        self.failure.take()
    }

    /// Reads to the end, behind the tar's. Returns the digest and the number of bytes.
    pub(super) fn finish(mut self) -> Result<(Digest, u64), UnpackError> {
        loop {
            match self.fill_buf().map(<[u8]>::len) {
                Ok(0) => return Ok((self.hasher.finish(), self.total)),
                Ok(length) => self.consume(length),
                Err(error) => return Err(self.failure.take().unwrap_or(UnpackError::Read(error))),
            }
        }
    }

    fn fail(&mut self, failure: UnpackError) -> io::Error {
        self.failure = Some(failure);
        io::Error::other("the layer is given up")
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let ready = self.fill_buf()?;
        let length = ready.len().min(buffer.len());
        buffer[..length].copy_from_slice(&ready[..length]);
        self.consume(length);
        Ok(length)
    }
}

impl BufRead for Pipe<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            if self.stop.load(Ordering::Relaxed) {
                return Err(self.fail(UnpackError::Stopped));
            }
            let next = match self.pieces.recv() {
                Ok(Ok(piece)) => piece,
                Ok(Err(error)) => return Err(self.fail(UnpackError::Read(error))),
                Err(_) => {
                    self.ended = true;
                    Vec::new()
                }
            };
            let _ = self.used.send(std::mem::replace(&mut self.piece, next));
            self.at = 0;
            self.total += self.piece.len() as u64;
            if self.total > self.limit {
                let limit = self.limit;
                return Err(self.fail(UnpackError::TooMuch { what: "its uncompressed tar", limit }));
            }
            self.hasher.update(&self.piece);
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, length: usize) {
        self.at += length;
    }
}

/// Decompresses until the end, an error, or until nobody reads any more.
fn feed(mut input: Box<dyn Read + Send>, sender: &SyncSender<io::Result<Vec<u8>>>, back: &Receiver<Vec<u8>>) {
    loop {
        let mut piece = back.try_recv().unwrap_or_default();
        piece.resize(PIECE, 0);
        let read = fill(&mut input, &mut piece);
        let sent = match read {
            Ok(0) => return,
            Ok(length) => {
                piece.truncate(length);
                sender.send(Ok(piece))
            }
            Err(error) => {
                let _ = sender.send(Err(error));
                return;
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

/// Fills a buffer as far as the input goes.
fn fill(input: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match input.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(length) => filled += length,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// A blob's bytes without their compression, which its first bytes tell.
pub(crate) fn decompressed(file: File) -> Result<Box<dyn Read + Send>, UnpackError> {
    let mut input = BufReader::with_capacity(PIECE, file);
    let magic = input.fill_buf().map_err(UnpackError::Read)?;
    match compression(magic) {
        Compression::None => Ok(Box::new(input)),
        Compression::Gzip => Ok(Box::new(flate2::bufread::MultiGzDecoder::new(input))),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input).map_err(UnpackError::Read)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(UnpackError::Read)?;
            Ok(Box::new(decoder))
        }
        Compression::Other(name) => Err(UnpackError::Compression { name }),
    }
}

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    None,
    Gzip,
    Zstd,
    /// Something no image specification has.
    Other(&'static str),
}

/// Tells by the first bytes.
pub(crate) fn compression(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or one of the sixteen kinds that are skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Other("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Other("xz"),
        _ => Compression::None,
    }
}
