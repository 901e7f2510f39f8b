//! Tars written: for archives of images, whose entries are few and plain.

use std::io::{self, Read, Write};

use super::header::BLOCK;

/// Writes plain files into a tar, owned by root, with no time: the same content is the same archive.
#[derive(Debug)]
pub(crate) struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(output: W) -> Self {
        Self { output }
    }

    /// A file of exactly `size` bytes.
    pub(crate) fn file(&mut self, path: &str, size: u64, content: &mut dyn Read) -> io::Result<()> {
        self.output.write_all(&header(path, size)?)?;
        let copied = io::copy(&mut content.take(size), &mut self.output)?;
        if copied != size {
            let text = format!("{path} has {copied} bytes instead of {size}");
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, text));
        }
        let padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
        io::copy(&mut io::repeat(0).take(padding), &mut self.output)?;
        Ok(())
    }

    /// Ends the tar.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }
}

fn header(path: &str, size: u64) -> io::Result<[u8; BLOCK]> {
    let mut block = [0; BLOCK];
    if path.len() > 100 {
        return Err(io::Error::new(io::ErrorKind::InvalidFilename, path.to_owned()));
    }
    block[..path.len()].copy_from_slice(path.as_bytes());
    let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(100, "0000644\0");
    put(108, "0000000\0");
    put(116, "0000000\0");
    put(136, "00000000000\0");
    put(148, "        ");
    put(257, "ustar\x0000");
    if size < 1 << 33 {
        put(124, &format!("{size:011o}\0"));
    } else {
        block[124..128].copy_from_slice(&[0x80, 0, 0, 0]);
        block[128..136].copy_from_slice(&size.to_be_bytes());
    }
    block[156] = b'0';
    let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}
