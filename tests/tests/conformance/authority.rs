//! Clients that name the socket's path as the authority of their requests, as kubelet up to 1.30 does
//! and gRPC's C core. No HTTP/2 library in Rust sends such a request, so its frames are written by hand.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use sandboxd_tests::e2e::E2e;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Result<Vec<u8>> {
    let length = u16::try_from(payload.len())?.to_be_bytes();
    Ok([&[0, length[0], length[1], kind, flags, 0, 0, 0, stream], payload].concat())
}

/// A literal that both sides add to their tables.
fn literal(name: u8, value: &str) -> Result<Vec<u8>> {
    Ok([&[0x40 | name, u8::try_from(value.len())?], value.as_bytes()].concat())
}

/// Asks for the version with these headers; what the answer's frames hold.
fn ask(socket: &mut UnixStream, stream: u8, headers: &[u8]) -> Result<String> {
    let request = [
        frame(HEADERS, END_HEADERS, stream, headers)?,
        // A gRPC message of no bytes.
        frame(DATA, END_STREAM, stream, &[0; 5])?,
    ];
    socket.write_all(&request.concat())?;
    let mut data = Vec::new();
    loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).context("reading an answer's frame")?;
        let mut payload = vec![0; usize::from(header[1]) << 8 | usize::from(header[2])];
        socket.read_exact(&mut payload)?;
        match (header[3], header[8]) {
            (RST_STREAM, _) => bail!("the stream is reset: error {payload:?}"),
            (GOAWAY, _) => bail!("the connection is ended: error {:?}", &payload[4..8]),
            (DATA, of) if of == stream => data.extend(payload),
            (HEADERS, of) if of == stream && header[4] & END_STREAM != 0 => break,
            _ => {}
        }
    }
    Ok(String::from_utf8_lossy(&data).into_owned())
}

#[test]
fn a_client_may_name_the_sockets_path_as_the_authority() {
    E2e::default().run(async |node| {
        let path = node.cri_socket();
        let path = path.to_str().context("a path that is no UTF-8")?;
        let encoded = path.replace('/', "%2F");
        // The last as gRPC's C core, with a name that is spelled out.
        let spelled =
            [&b"\x40\x0a:authority"[..], &[u8::try_from(encoded.len())?], encoded.as_bytes()].concat();
        for authority in [literal(1, path)?, literal(1, &encoded)?, spelled] {
            let mut socket = UnixStream::connect(path)?;
            socket.set_read_timeout(Some(Duration::from_secs(30)))?;
            socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])?].concat())?;
            let first = [
                &[0x83, 0x86][..],
                &literal(4, "/runtime.v1.RuntimeService/Version")?,
                &authority,
                &literal(31, "application/grpc")?,
                &[&[0x40, 2][..], b"te", &[8], b"trailers"].concat(),
            ];
            let version = ask(&mut socket, 1, &first.concat())?;
            ensure!(version.contains("sandboxd"), "{authority:?}: {version:?}");
            // Out of the table, where each has the place the client counts on.
            let version = ask(&mut socket, 3, &[0x83, 0x86, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62])?;
            ensure!(version.contains("sandboxd"), "{authority:?}, again: {version:?}");
        }
        Ok(())
    });
}
