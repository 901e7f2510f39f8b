//! The `:authority` of requests that come over a unix socket.
//!
//! A client of a unix socket has no host to name. Kubelet up to 1.30, whoever else gives grpc-go a bare path, and
//! gRPC's C core send the socket's path there, as it is or percent-encoded: no authority by RFC 3986, and the HTTP/2
//! library answers such a request with PROTOCOL_ERROR before any service sees it. Nothing here reads an authority,
//! so it is replaced on the way in.
//!
//! The header block is not decoded for that: where its fields begin and end is seen without the compression's
//! state, and the name is given by its index in the static table, or spelled out. The dynamic table on our side then holds
//! another value than the client's. Its entry is never larger (one byte is put for one or more), so that what the
//! client takes to be in the table is there, in the same order.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tonic::transport::server::{Connected, UdsConnectInfo};

/// What an HTTP/2 client says first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const FRAME_HEADER: usize = 9;
const HEADERS: u8 = 1;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
/// A client may not send a longer frame unless it was told so, and none is.
const LONGEST: usize = 16 * 1024;
/// `:authority` in HPACK's static table.
const AUTHORITY: usize = 1;
/// The same as a string, without Huffman coding: gRPC's C core, and so its Python, C++ and Ruby, names it so.
const AUTHORITY_SPELLED: &[u8] = b"\x0a:authority";
const REPLACEMENT: u8 = b'x';

/// A connection whose requests have an authority that every parser takes.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    rewriter: Rewriter,
    /// Rewritten, and not read yet.
    ready: VecDeque<u8>,
}

impl Connection {
    pub fn new(stream: UnixStream) -> Self {
        Self { stream, rewriter: Rewriter::default(), ready: VecDeque::new() }
    }

    pub fn socket(&self) -> &UnixStream {
        &self.stream
    }
}

impl Connected for Connection {
    type ConnectInfo = UdsConnectInfo;

    fn connect_info(&self) -> UdsConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, rewriter, ready } = self.get_mut();
        while ready.is_empty() {
            let before = buf.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
            let new = &buf.filled()[before..];
            if new.is_empty() {
                // The end, perhaps within a frame, which is for the reader to complain of.
                ready.extend(rewriter.held.drain(..));
                break;
            }
            rewriter.take(new, ready);
            buf.set_filled(before);
        }
        while buf.remaining() > 0 && !ready.is_empty() {
            let (slice, _) = ready.as_slices();
            let count = slice.len().min(buf.remaining());
            buf.put_slice(&slice[..count]);
            ready.drain(..count);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in the client's stream of frames the next byte lies.
#[derive(Debug, Default)]
struct Rewriter {
    stage: Stage,
    /// Of a frame's header, and of a HEADERS frame's payload: too little yet.
    held: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// A frame's header, or a HEADERS frame.
    Frame,
    /// So many bytes of a payload that is passed on as it is.
    Payload(usize),
    /// No HTTP/2: all of it is passed on.
    Foreign,
}

impl Default for Stage {
    fn default() -> Self {
        Self::Preface(0)
    }
}

impl Rewriter {
    fn take(&mut self, mut input: &[u8], out: &mut VecDeque<u8>) {
        while !input.is_empty() {
            let (count, next) = match self.stage {
                Stage::Preface(seen) => {
                    let count = input.len().min(PREFACE.len() - seen);
                    let same = input[..count] == PREFACE[seen..seen + count];
                    out.extend(&input[..count]);
                    let whole = seen + count == PREFACE.len();
                    (
                        count,
                        if !same {
                            Stage::Foreign
                        } else if whole {
                            Stage::Frame
                        } else {
                            Stage::Preface(seen + count)
                        },
                    )
                }
                Stage::Foreign => {
                    out.extend(input);
                    (input.len(), Stage::Foreign)
                }
                Stage::Payload(left) => {
                    let count = input.len().min(left);
                    out.extend(&input[..count]);
                    (count, if count == left { Stage::Frame } else { Stage::Payload(left - count) })
                }
                Stage::Frame => self.hold(input, out),
            };
            self.stage = next;
            input = &input[count..];
        }
    }

    fn hold(&mut self, input: &[u8], out: &mut VecDeque<u8>) -> (usize, Stage) {
        let wanted = match self.held.get(..FRAME_HEADER) {
            Some(header) => FRAME_HEADER + payload(header),
            None => FRAME_HEADER,
        };
        let count = input.len().min(wanted - self.held.len());
        self.held.extend_from_slice(&input[..count]);
        if self.held.len() < wanted {
            return (count, Stage::Frame);
        }
        let length = payload(&self.held);
        let all_there = wanted == FRAME_HEADER + length;
        let holds = self.held[3] == HEADERS && length <= LONGEST;
        if holds && !all_there {
            return (count, Stage::Frame);
        }
        if holds {
            replace_authority(&mut self.held);
        }
        out.extend(self.held.drain(..));
        (count, if all_there { Stage::Frame } else { Stage::Payload(length) })
    }
}

/// The length of a frame's payload.
fn payload(header: &[u8]) -> usize {
    usize::from(header[0]) << 16 | usize::from(header[1]) << 8 | usize::from(header[2])
}

/// Puts [`REPLACEMENT`] for the authority that a HEADERS frame spells out. A frame that does not, or that is not
/// understood, stays as it is.
fn replace_authority(frame: &mut Vec<u8>) {
    let flags = frame[4];
    let mut at = FRAME_HEADER;
    let mut end = frame.len();
    if flags & PADDED != 0 {
        let Some(padding) = frame.get(at) else { return };
        end = end.saturating_sub(usize::from(*padding));
        at += 1;
    }
    if flags & PRIORITY != 0 {
        at += 5;
    }
    let Some(block) = frame.get(at..end) else { return };
    let Some(value) = authority(block) else { return };
    frame.splice(at + value.start..at + value.end, [1, REPLACEMENT]);
    let length = frame.len() - FRAME_HEADER;
    // At most LONGEST, which fits two bytes.
    frame[1] = u8::try_from(length >> 8).unwrap_or(u8::MAX);
    frame[2] = u8::try_from(length & 0xff).unwrap_or(u8::MAX);
}

/// Where a header block spells out a value for `:authority`, its length included (RFC 7541, section 6). An empty
/// one has no room for the replacement.
fn authority(block: &[u8]) -> Option<std::ops::Range<usize>> {
    let mut at = 0;
    while let Some(first) = block.get(at) {
        // How many bits the index has; none where no value follows.
        let literal = match first {
            0x80.. => None,
            0x40..=0x7f => Some(6),
            0x20..=0x3f => {
                at = integer(block, at, 5)?.1;
                continue;
            }
            _ => Some(4),
        };
        let Some(bits) = literal else {
            at = integer(block, at, 7)?.1;
            continue;
        };
        let (name, after) = integer(block, at, bits)?;
        let (named, value) = match name {
            0 => {
                let end = string(block, after)?;
                (block.get(after..end)? == AUTHORITY_SPELLED, end)
            }
            _ => (name == AUTHORITY, after),
        };
        at = string(block, value)?;
        if named {
            return (at - value >= 2).then_some(value..at);
        }
    }
    None
}

/// The end of a string.
fn string(block: &[u8], at: usize) -> Option<usize> {
    let (length, start) = integer(block, at, 7)?;
    let end = start.checked_add(length)?;
    (end <= block.len()).then_some(end)
}

/// An integer whose first byte has so many bits of it, and where it ends.
fn integer(block: &[u8], at: usize, bits: u32) -> Option<(usize, usize)> {
    let most = (1usize << bits) - 1;
    let value = usize::from(*block.get(at)?) & most;
    if value < most {
        return Some((value, at + 1));
    }
    // Three more bytes are more than a frame can hold.
    let mut value = value;
    for (count, byte) in block.get(at + 1..)?.iter().take(3).enumerate() {
        value += usize::from(byte & 0x7f) << (7 * count);
        if byte & 0x80 == 0 {
            return Some((value, at + 2 + count));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &[u8] = b"/run/sandboxd/cri.sock";

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [&[0, length[0], length[1], kind, flags, 0, 0, 0, 1], payload].concat()
    }

    fn field(first: u8, value: &[u8]) -> Vec<u8> {
        [&[first, u8::try_from(value.len()).unwrap()], value].concat()
    }

    /// POST, http, a path, an authority, `te: trailers`.
    fn block(authority: &[u8]) -> Vec<u8> {
        let te = [&[0x40, 2][..], b"te", &[8], b"trailers"].concat();
        [&[0x3f, 0xe1, 0x1f, 0x83, 0x86][..], &field(0x44, b"/service/Method"), authority, &te].concat()
    }

    fn through(input: &[u8], pieces: usize) -> Vec<u8> {
        let (mut rewriter, mut out) = (Rewriter::default(), VecDeque::new());
        for piece in input.chunks(pieces) {
            rewriter.take(piece, &mut out);
        }
        out.extend(rewriter.held.drain(..));
        out.into()
    }

    #[test]
    fn a_path_is_replaced_wherever_the_stream_is_cut() {
        let settings = frame(4, 0, &[0, 3, 0, 0, 0, 100]);
        let data = frame(0, 1, &[0x41; 3000]);
        // With incremental indexing, without, and never; the last is Huffman-coded.
        for (first, value) in [(0x41, PATH), (0x01, b"%2Frun%2Fcri.sock"), (0x11, b"\x60\xb5\x2d")] {
            let mut sent = field(first, value);
            if first == 0x11 {
                sent[1] |= 0x80;
            }
            let stream = |authority: &[u8]| {
                let block = block(authority);
                let padded = [&[2, 0, 0, 0, 0, 9][..], &block, &[0, 0]].concat();
                let frames = [&settings, &frame(HEADERS, 4, &block), &data, &frame(HEADERS, 0x2c, &padded)];
                [PREFACE, &frames.map(Vec::as_slice).concat()].concat()
            };
            let expected = stream(&field(first, b"x"));
            for pieces in [1, 2, 7, 9, 64, 100_000] {
                assert_eq!(through(&stream(&sent), pieces), expected, "{first:#x} in pieces of {pieces}");
            }
        }
    }

    #[test]
    fn a_name_that_is_spelled_out_is_known() {
        let stream = |value: &[u8]| {
            let field = [&b"\x40\x0a:authority"[..], &[u8::try_from(value.len()).unwrap()], value].concat();
            [PREFACE, &frame(HEADERS, 4, &block(&field))].concat()
        };
        assert_eq!(through(&stream(b"run%2Fsandboxd%2Fcri.sock"), 7), stream(b"x"));
    }

    #[test]
    fn everything_else_stays_as_it_is() {
        let long = vec![0x41; LONGEST + 1];
        for stream in [
            b"GET / HTTP/1.1\r\nHost: x\r\n\r\n and so on".to_vec(),
            // An authority by its index, an empty one, a name that only looks like it.
            [PREFACE, &frame(HEADERS, 4, &[0x83, 0xbe, 0x41, 0])].concat(),
            [PREFACE, &frame(HEADERS, 4, &[0x40, 1, 0x41, 1, b'/'])].concat(),
            [PREFACE, &frame(HEADERS, 4, b"\x40\x0a:authoritY\x01/")].concat(),
            [PREFACE, &frame(HEADERS, 4, b"\x40\x0a:authority\x00")].concat(),
            // Cut off within a field, padding longer than the frame, an integer without an end.
            [PREFACE, &frame(HEADERS, 4, &field(0x41, PATH)[..9])].concat(),
            [PREFACE, &frame(HEADERS, 8, &[200, 0x41, 1, b'/'])].concat(),
            [PREFACE, &frame(HEADERS, 4, &[0x7f, 0xff, 0xff, 0xff, 0xff, 1])].concat(),
            [PREFACE, &frame(HEADERS, 8, &[])].concat(),
            [PREFACE, &frame(HEADERS, 4, &long), &frame(0, 1, b"data")].concat(),
            // Ends within a frame.
            [PREFACE, &frame(HEADERS, 4, &block(&field(0x41, PATH)))[..20]].concat(),
        ] {
            for pieces in [1, 5, 100_000] {
                assert_eq!(through(&stream, pieces), stream, "in pieces of {pieces}");
            }
        }
    }
}
