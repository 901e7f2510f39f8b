//! Entries, one after the other, from a stream.

use std::io::BufRead;

use super::TarError;
use super::header::{BLOCK, Header};
use super::pax::{self, Pax};
use super::sparse::{self, Sparse};

/// The largest extended header or long name; Go's bound.
const MAX_EXTENDED: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    /// With the entry's `size` bytes of data, spread over pieces.
    Sparse(Sparse),
    Directory,
    Symlink,
    HardLink,
    /// Major, minor.
    Character(u32, u32),
    Block(u32, u32),
    Fifo,
}

/// An entry's header, whatever form it had.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// As written.
    pub path: Vec<u8>,
    pub kind: Kind,
    /// What a link points at, as written.
    pub link: Vec<u8>,
    /// Permissions with setuid, setgid and sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: (i64, u32),
    /// Bytes of data that follow in the tar.
    pub size: u64,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Reads a tar from a stream, which must be buffered in large pieces: data is handed on from the buffer.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    /// Bytes read so far.
    at: u64,
    /// Bytes of data of the current entry that are still to come, and what fills up its last block.
    data: u64,
    padding: u64,
    finished: bool,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, at: 0, data: 0, padding: 0, finished: false }
    }

    /// Bytes read so far.
    pub(crate) fn position(&self) -> u64 {
        self.at
    }

    /// The stream, which may go on behind the end of the tar.
    pub(crate) fn into_inner(self) -> R {
        self.input
    }

    /// The next entry; what was not read of the last one's data is skipped.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>, TarError> {
        let mut pax = Pax::default();
        let mut long_path = None;
        let mut long_link = None;
        loop {
            let Some(header) = self.header()? else { return Ok(None) };
            match header.kind() {
                b'x' => {
                    let bytes = self.extended(&header)?;
                    pax = pax::parse(&bytes, self.at)?;
                }
                b'g' => self.begin_data(self.size_of(&header)?),
                b'L' => long_path = Some(self.long_name(&header)?),
                b'K' => long_link = Some(self.long_name(&header)?),
                _ => return self.entry(&header, pax, long_path, long_link).map(Some),
            }
        }
    }

    /// Some of the current entry's data, at most `limit` bytes; empty at its end. Goes on with [`consume`](Self::consume).
    pub(crate) fn peek(&mut self, limit: u64) -> Result<&[u8], TarError> {
        let wanted = usize::try_from(self.data.min(limit)).unwrap_or(usize::MAX);
        if wanted == 0 {
            return Ok(&[]);
        }
        let at = self.at;
        let ready = self.input.fill_buf().map_err(|source| TarError::Read { at, source })?;
        if ready.is_empty() {
            return Err(TarError::Truncated { at });
        }
        Ok(&ready[..ready.len().min(wanted)])
    }

    /// Goes on behind bytes that [`peek`](Self::peek) showed.
    pub(crate) fn consume(&mut self, length: usize) {
        self.input.consume(length);
        self.at += length as u64;
        self.data -= length as u64;
    }

    /// Reads all of the current entry's data, which must not be more than `limit` bytes.
    pub(crate) fn read_data(&mut self, limit: u64) -> Result<Vec<u8>, TarError> {
        if self.data > limit {
            return Err(TarError::Extended { at: self.at, why: "or document is too large" });
        }
        let mut bytes = Vec::new();
        while self.data > 0 {
            let piece = self.peek(u64::MAX)?;
            bytes.extend_from_slice(piece);
            let length = piece.len();
            self.consume(length);
        }
        Ok(bytes)
    }

    fn entry(
        &mut self,
        header: &Header,
        pax: Pax,
        long_path: Option<Vec<u8>>,
        long_link: Option<Vec<u8>>,
    ) -> Result<Entry, TarError> {
        let at = self.at;
        let number = |value: Option<i64>, field| value.ok_or(TarError::Number { at, field });
        let id = |from_pax: Option<u64>, value: Option<i64>, field| {
            let value = from_pax.or_else(|| value.and_then(|v| u64::try_from(v).ok()));
            // The highest is how chown says "leave it".
            let value = value.and_then(|v| u32::try_from(v).ok()).filter(|&v| v != u32::MAX);
            value.ok_or(TarError::Number { at, field })
        };
        let given = |name: &Vec<u8>| !name.is_empty();
        let path = long_path.filter(given).or(pax.path).unwrap_or_else(|| header.path());
        let link = long_link.filter(given).or(pax.link).unwrap_or_else(|| header.link());
        let device = |of: fn(u32, u32) -> Kind| {
            let (major, minor) = header.device().ok_or(TarError::Number { at, field: "device" })?;
            match (u32::try_from(major), u32::try_from(minor)) {
                (Ok(major), Ok(minor)) => Ok(of(major, minor)),
                _ => Err(TarError::Number { at, field: "device" }),
            }
        };
        let mut stored = match pax.size {
            Some(size) => size,
            None => self.size_of(header)?,
        };
        let mut kind = match header.kind() {
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => device(Kind::Character)?,
            b'4' => device(Kind::Block)?,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            kind => return Err(TarError::Type { path: lossy(&path), kind: kind.into() }),
        };
        if kind != Kind::File {
            stored = 0;
        }
        // A sparse map in the data is read from it.
        self.begin_data(stored);
        let mut path = path;
        if kind == Kind::File
            && let Some(found) = self.sparse(header, &pax.sparse)?
        {
            kind = Kind::Sparse(found);
            path = pax.sparse.name.unwrap_or(path);
        }
        Ok(Entry {
            path,
            kind,
            link,
            mode: u32::try_from(number(header.mode(), "mode")? & 0o7777).unwrap_or(0),
            uid: id(pax.uid, header.uid(), "uid")?,
            gid: id(pax.gid, header.gid(), "gid")?,
            mtime: match pax.mtime {
                Some(mtime) => mtime,
                None => (number(header.mtime(), "mtime")?, 0),
            },
            size: self.data,
            xattrs: pax.xattrs,
        })
    }

    fn sparse(&mut self, header: &Header, pax: &pax::PaxSparse) -> Result<Option<Sparse>, TarError> {
        let at = self.at;
        if header.kind() == b'S' {
            let real_size = header.sparse_real_size().and_then(|n| u64::try_from(n).ok());
            let real_size = real_size.ok_or(TarError::Number { at, field: "sparse size" })?;
            let mut pieces = Vec::new();
            sparse::gnu_pieces(header.sparse_pieces(), &mut pieces, at)?;
            let mut goes_on = header.sparse_goes_on();
            while goes_on {
                // These blocks stand before the data and are not counted in its size.
                let block = self.block()?.ok_or(TarError::Truncated { at: self.at })?;
                sparse::gnu_pieces(&block[..504], &mut pieces, self.at)?;
                goes_on = block[504] != 0;
            }
            return Sparse::new(pieces, real_size, self.data, self.at).map(Some);
        }
        let pieces = match (pax.major, pax.minor, pax.map.is_empty()) {
            (Some(1), Some(0), _) => self.map_in_data()?,
            (Some(0) | None, _, false) => sparse::pairs(&pax.map, at)?,
            (None | Some(0), _, true) => return Ok(None),
            _ => return Err(TarError::Sparse { at, why: "is of a version that nobody writes" }),
        };
        let real_size =
            pax.real_size.ok_or(TarError::Sparse { at, why: "does not say how long its file is" })?;
        Sparse::new(pieces, real_size, self.data, at).map(Some)
    }

    /// The map of PAX sparse 1.0: decimal lines before the data, filled up to a block.
    fn map_in_data(&mut self) -> Result<Vec<(u64, u64)>, TarError> {
        let (mut numbers, mut line, mut count) = (Vec::new(), Vec::new(), None);
        loop {
            let at = self.at;
            if self.data < BLOCK as u64 {
                return Err(TarError::Sparse { at, why: "does not end" });
            }
            let block = self.block()?.ok_or(TarError::Truncated { at })?;
            self.data -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    continue;
                }
                let value = pax::decimal(&line).ok_or(TarError::Number { at, field: "sparse map" })?;
                line.clear();
                match count {
                    None => count = Some(value.saturating_mul(2)),
                    Some(_) => numbers.push(value),
                }
                if count == Some(numbers.len() as u64) {
                    return sparse::pairs(&numbers, at);
                }
            }
            if line.len() > 20 {
                return Err(TarError::Number { at, field: "sparse map" });
            }
            if count.is_some_and(|n| n > 2 << 20) {
                return Err(TarError::Sparse { at, why: "has too many pieces" });
            }
        }
    }

    fn extended(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let size = self.size_of(header)?;
        if size > MAX_EXTENDED {
            return Err(TarError::Extended { at: self.at, why: "is larger than 1 MiB" });
        }
        self.begin_data(size);
        self.read_data(MAX_EXTENDED)
    }

    fn long_name(&mut self, header: &Header) -> Result<Vec<u8>, TarError> {
        let mut name = self.extended(header)?;
        if let Some(end) = name.iter().position(|&b| b == 0) {
            name.truncate(end);
        }
        Ok(name)
    }

    fn size_of(&self, header: &Header) -> Result<u64, TarError> {
        let size = header.size().and_then(|n| u64::try_from(n).ok());
        size.ok_or(TarError::Number { at: self.at, field: "size" })
    }

    fn begin_data(&mut self, size: u64) {
        self.data = size;
        // Not `next_multiple_of`: a size near the top has no next one.
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), TarError> {
        while self.data > 0 {
            let length = self.peek(u64::MAX)?.len();
            self.consume(length);
        }
        Ok(())
    }

    /// The next header, behind what is left of the last entry.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.finished {
            return Ok(None);
        }
        self.skip()?;
        self.data = std::mem::take(&mut self.padding);
        self.skip()?;
        let at = self.at;
        let Some(block) = self.block()? else {
            self.finished = true;
            return Ok(None);
        };
        let header = Header::new(block);
        if header.is_zero() {
            self.finished = true;
            // Two of them end a tar.
            return match self.block()? {
                Some(second) if !Header::new(second).is_zero() => Err(TarError::Header { at }),
                _ => Ok(None),
            };
        }
        if header.is_valid() { Ok(Some(header)) } else { Err(TarError::Header { at }) }
    }

    /// A whole block, or none at the end of the stream.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            let at = self.at;
            let ready = self.input.fill_buf().map_err(|source| TarError::Read { at, source })?;
            if ready.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(TarError::Truncated { at }) };
            }
            let length = ready.len().min(BLOCK - filled);
            block[filled..filled + length].copy_from_slice(&ready[..length]);
            self.input.consume(length);
            self.at += length as u64;
            filled += length;
        }
        Ok(Some(block))
    }
}

/// A name for people.
pub(crate) fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(256).collect()
}
