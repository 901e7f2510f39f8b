//! Tars made by hand, as hostile as a test wants them.

use std::io::Write;

/// A tar under construction. Nothing is checked.
#[derive(Debug, Default)]
pub(crate) struct Tar(pub Vec<u8>);

/// An entry's header, each member as it is written.
#[derive(Debug, Clone)]
pub(crate) struct Raw<'a> {
    pub path: &'a [u8],
    pub kind: u8,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    pub mtime: u64,
    pub link: &'a [u8],
    pub device: (u32, u32),
}

impl Default for Raw<'_> {
    fn default() -> Self {
        Self {
            path: b"",
            kind: b'0',
            mode: 0o644,
            uid: 0,
            gid: 0,
            size: 0,
            mtime: 1_000_000_000,
            link: b"",
            device: (0, 0),
        }
    }
}

impl Raw<'_> {
    pub(crate) fn block(&self) -> [u8; 512] {
        let mut block = [0; 512];
        block[..self.path.len()].copy_from_slice(self.path);
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(100, format!("{:07o}\0", self.mode).as_bytes());
        for (at, id) in [(108, self.uid), (116, self.gid)] {
            match id {
                0..0o10_000_000 => put(at, format!("{id:07o}\0").as_bytes()),
                _ => put(at, &[&[0x80, 0, 0, 0][..], &id.to_be_bytes()].concat()),
            }
        }
        match self.size {
            0..0o100_000_000_000 => put(124, format!("{:011o}\0", self.size).as_bytes()),
            _ => put(124, &[&[0x80, 0, 0, 0][..], &self.size.to_be_bytes()].concat()),
        }
        put(136, format!("{:011o}\0", self.mtime).as_bytes());
        put(148, b"        ");
        put(156, &[self.kind]);
        put(157, self.link);
        put(257, b"ustar\x0000");
        put(329, format!("{:07o}\0", self.device.0).as_bytes());
        put(337, format!("{:07o}\0", self.device.1).as_bytes());
        let sum: u32 = block.iter().map(|&b| u32::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

impl Tar {
    pub(crate) fn raw(mut self, raw: &Raw<'_>, data: &[u8]) -> Self {
        self.0.extend_from_slice(&raw.block());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    pub(crate) fn file(self, path: &str, data: &[u8]) -> Self {
        self.raw(&Raw { path: path.as_bytes(), size: data.len() as u64, ..Raw::default() }, data)
    }

    pub(crate) fn dir(self, path: &str) -> Self {
        self.raw(&Raw { path: path.as_bytes(), kind: b'5', mode: 0o755, ..Raw::default() }, b"")
    }

    pub(crate) fn symlink(self, path: &str, target: &str) -> Self {
        let raw = Raw { path: path.as_bytes(), kind: b'2', link: target.as_bytes(), ..Raw::default() };
        self.raw(&raw, b"")
    }

    pub(crate) fn hard_link(self, path: &str, target: &str) -> Self {
        let raw = Raw { path: path.as_bytes(), kind: b'1', link: target.as_bytes(), ..Raw::default() };
        self.raw(&raw, b"")
    }

    /// An extended header for the entry that comes next.
    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut data = Vec::new();
        for (key, value) in records {
            let fixed = key.len() + value.len() + 3;
            let mut length = fixed + 1;
            while length != fixed + length.to_string().len() {
                length = fixed + length.to_string().len();
            }
            write!(data, "{length} {key}=").unwrap();
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        self.raw(&Raw { path: b"PaxHeaders/x", kind: b'x', size: data.len() as u64, ..Raw::default() }, &data)
    }

    /// With the two blocks that end it.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}
