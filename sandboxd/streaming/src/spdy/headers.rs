//! Header blocks: names and values, compressed by one zlib stream per direction with SPDY/3's dictionary.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::FrameError;

/// Inflated bytes of one block: the headers of a stream are a few dozen bytes.
const MAX_BLOCK: usize = 64 << 10;
/// Header pairs of one block.
const MAX_HEADERS: usize = 128;
/// Adler-32 of the dictionary, as every peer computes it.
#[cfg(test)]
const DICTIONARY_CHECKSUM: u32 = 0xe3c6_a7c2;

/// Words of the dictionary that have their length in front.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding \
    content-language content-length content-location content-md5 content-range content-type date etag expect \
    expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified \
    location max-forwards pragma proxy-authenticate proxy-authorization range referer retry-after server te \
    trailer transfer-encoding upgrade user-agent vary via warning www-authenticate method get status";
const PHRASES: [&str; 8] =
    ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
const TAIL: &str = "10010120120220520630030230330430530630740240540640740840941041141241341441541641750250450520\
    3 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 \
    Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr \
    May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, \
    GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split_ascii_whitespace().chain(PHRASES) {
        put(&mut bytes, word);
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
});

/// The headers of a stream: lower-case names, in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(pub(crate) Vec<(String, String)>);

impl Headers {
    /// The first value of `name`, which is in lower case; peers write names in either.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let (_, value) = self.0.iter().find(|(known, _)| known == name)?;
        Some(value.split('\0').next().unwrap_or(value))
    }

    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&length(self.0.len()));
        for (name, value) in &self.0 {
            put(&mut bytes, name);
            put(&mut bytes, value);
        }
        bytes
    }

    fn decode(block: &[u8]) -> Result<Self, FrameError> {
        let mut rest = block;
        let count = take_length(&mut rest)?;
        if count > MAX_HEADERS {
            return Err(FrameError::TooManyHeaders { count });
        }
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let name = take_text(&mut rest)?.to_ascii_lowercase();
            headers.push((name, take_text(&mut rest)?));
        }
        Ok(Self(headers))
    }
}

fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

fn put(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend_from_slice(&length(text.len()));
    bytes.extend_from_slice(text.as_bytes());
}

fn take_length(rest: &mut &[u8]) -> Result<usize, FrameError> {
    let (bytes, after) = rest.split_first_chunk::<4>().ok_or(FrameError::TornBlock)?;
    *rest = after;
    usize::try_from(u32::from_be_bytes(*bytes)).map_err(|_| FrameError::TornBlock)
}

fn take_text(rest: &mut &[u8]) -> Result<String, FrameError> {
    let wanted = take_length(rest)?;
    let (text, after) = rest.split_at_checked(wanted).ok_or(FrameError::TornBlock)?;
    *rest = after;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Compresses the header blocks of one direction.
pub(crate) struct Deflater(Compress);

impl Deflater {
    pub(crate) fn new() -> Result<Self, FrameError> {
        let mut zlib = Compress::new(Compression::fast(), true);
        zlib.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Compression)?;
        Ok(Self(zlib))
    }

    pub(crate) fn deflate(&mut self, headers: &Headers) -> Result<Vec<u8>, FrameError> {
        let plain = headers.encode();
        let mut out = Vec::with_capacity(plain.len() + 64);
        let begin = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - begin).unwrap_or(usize::MAX);
            let rest = plain.get(done..).unwrap_or_default();
            self.0.compress_vec(rest, &mut out, FlushCompress::Sync).map_err(|_| FrameError::Compression)?;
            let all = self.0.total_in() - begin == plain.len() as u64;
            // A full buffer may hide output that is still to come.
            if all && out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(64);
        }
    }
}

/// Expands the header blocks of one direction.
pub(crate) struct Inflater(Decompress);

impl Inflater {
    pub(crate) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(crate) fn inflate(&mut self, block: &[u8]) -> Result<Headers, FrameError> {
        let mut out = Vec::with_capacity(1024);
        let begin = self.0.total_in();
        loop {
            let done = usize::try_from(self.0.total_in() - begin).unwrap_or(usize::MAX);
            let rest = block.get(done..).unwrap_or_default();
            let before = (self.0.total_in(), out.len());
            match self.0.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Ok(Status::StreamEnd) => return Err(FrameError::Compression),
                Ok(Status::Ok | Status::BufError) => {}
                Err(error) if error.needs_dictionary() == Some(checksum()) => {
                    self.0.set_dictionary(&DICTIONARY).map_err(|_| FrameError::Compression)?;
                    continue;
                }
                Err(_) => return Err(FrameError::Compression),
            }
            if out.len() > MAX_BLOCK {
                return Err(FrameError::LargeBlock { limit: MAX_BLOCK });
            }
            let all = self.0.total_in() - begin == block.len() as u64;
            if all && out.len() < out.capacity() {
                return Headers::decode(&out);
            }
            if before == (self.0.total_in(), out.len()) && out.len() < out.capacity() {
                return Err(FrameError::Compression);
            }
            out.reserve(1024);
        }
    }
}

fn checksum() -> u32 {
    let (mut low, mut high) = (1u32, 0u32);
    for &byte in DICTIONARY.iter() {
        low = (low + u32::from(byte)) % 65_521;
        high = (high + low) % 65_521;
    }
    high << 16 | low
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(value: &str) -> Headers {
        Headers(vec![("streamtype".into(), value.into()), ("port".into(), "80".into())])
    }

    #[test]
    fn the_dictionary_is_the_one_of_every_peer() {
        assert_eq!(DICTIONARY.len(), 1423);
        assert_eq!(checksum(), DICTIONARY_CHECKSUM);
    }

    #[test]
    fn blocks_of_a_direction_share_one_zlib_stream() {
        let (mut deflate, mut inflate) = (Deflater::new().unwrap(), Inflater::new());
        for value in ["error", "stdin", "stdout", "", &"x".repeat(5000), "resize"] {
            let block = deflate.deflate(&sample(value)).unwrap();
            assert_eq!(inflate.inflate(&block).unwrap(), sample(value));
        }
    }

    #[test]
    fn names_are_found_whatever_their_case() {
        let headers = Headers(vec![("StreamType".into(), "data\0more".into())]);
        let block = Deflater::new().unwrap().deflate(&headers).unwrap();
        let headers = Inflater::new().inflate(&block).unwrap();
        assert_eq!(headers.get("streamtype"), Some("data"));
        assert_eq!(headers.get("port"), None);
    }

    #[test]
    fn a_block_that_expands_without_end_is_refused() {
        let headers = Headers(vec![("a".into(), "b".repeat(1 << 20))]);
        let block = Deflater::new().unwrap().deflate(&headers).unwrap();
        assert!(block.len() < 16 << 10);
        assert!(matches!(Inflater::new().inflate(&block), Err(FrameError::LargeBlock { .. })));
    }

    #[test]
    fn torn_and_foreign_blocks_are_errors() {
        let block = Deflater::new().unwrap().deflate(&sample("error")).unwrap();
        assert!(Inflater::new().inflate(&block[..block.len() - 6]).is_err());
        assert!(Inflater::new().inflate(b"no zlib stream at all").is_err());
    }
}
