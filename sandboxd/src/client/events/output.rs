//! Where the lines go.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::super::ClientError;

/// Lines are gathered up to this, and never for longer than the stream is busy.
const BUFFER: usize = 64 << 10;

/// Standard output, or a file that is appended to.
#[derive(Debug)]
pub(super) struct Output {
    to: To,
    buffer: Vec<u8>,
}

#[derive(Debug)]
enum To {
    Stdout,
    File { file: File, path: PathBuf },
}

/// How a write went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(super) enum Written {
    Done,
    /// The pipe is closed (`| head`): no error, and the end.
    ReaderGone,
}

impl Output {
    pub fn open(path: Option<&Path>) -> Result<Self, ClientError> {
        let to = match path {
            None => To::Stdout,
            Some(path) => To::File { file: append(path)?, path: path.to_owned() },
        };
        Ok(Self { to, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Takes one whole line, with its newline.
    pub fn write(&mut self, line: &str) -> Result<Written, ClientError> {
        self.buffer.extend_from_slice(line.as_bytes());
        if self.buffer.len() < BUFFER { Ok(Written::Done) } else { self.flush() }
    }

    pub fn flush(&mut self) -> Result<Written, ClientError> {
        if self.buffer.is_empty() {
            return Ok(Written::Done);
        }
        let written = match &mut self.to {
            To::Stdout => {
                let mut out = io::stdout().lock();
                out.write_all(&self.buffer).and_then(|()| out.flush())
            }
            To::File { file, .. } => file.write_all(&self.buffer),
        };
        self.buffer.clear();
        match written {
            Ok(()) => Ok(Written::Done),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Written::ReaderGone),
            Err(source) => Err(ClientError::Write { to: self.name(), source }),
        }
    }

    /// Opens the file anew, after it was renamed by whoever rotates it. Whole lines are in either.
    pub fn reopen(&mut self) -> Result<(), ClientError> {
        // A pipe that is gone shows with the next line.
        let _ = self.flush()?;
        if let To::File { file, path } = &mut self.to {
            *file = append(path)?;
        }
        Ok(())
    }

    fn name(&self) -> String {
        match &self.to {
            To::Stdout => "standard output".to_owned(),
            To::File { path, .. } => path.display().to_string(),
        }
    }
}

/// For its owner only: it says who does what on the node.
fn append(path: &Path) -> Result<File, ClientError> {
    let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    opened.map_err(|source| ClientError::Open { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rotated_file_ends_with_a_whole_line_and_goes_on_in_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("events"), dir.path().join("events.1"));
        std::fs::write(&path, "before\n").unwrap();
        let mut output = Output::open(Some(&path)).unwrap();
        assert_eq!(output.write("one\n").unwrap(), Written::Done);
        std::fs::rename(&path, &old).unwrap();
        output.reopen().unwrap();
        let _ = output.write("two\n").unwrap();
        let _ = output.flush().unwrap();
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "before\none\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
    }

    #[test]
    fn a_full_disk_is_an_error_that_names_the_file() {
        let mut output = Output::open(Some(Path::new("/dev/full"))).unwrap();
        let error = output.write("line\n").and_then(|_| output.flush()).unwrap_err();
        assert!(error.to_string().contains("/dev/full"), "{error}");
        let error = Output::open(Some(Path::new("/nonexistent/events"))).unwrap_err();
        assert!(error.to_string().contains("/nonexistent/events"), "{error}");
    }
}
