//! A container's log file: appended to in batches of whole records, in order, whatever the disk says.
//!
//! What cannot be written is lost and counted; the container never waits. The file stays readable: a record of
//! which only a part fits is cut off again, and when there is room again the log goes on at the start of a line.
//!
//! ```text
//! Whole ── a write fails ──▶ the lost part ends within a line: what is left of that line is dropped too
//!   ▲                        the kept part ends within a line: an empty full record ends it, once one fits
//!   └────── a write fits ◀───┘
//! ```

use std::os::fd::OwnedFd;

use rustix::fs::{SeekFrom, fstat, ftruncate, seek};
use rustix::io::Errno;

use super::Output;
use super::format::{HEADER, is_full};

/// What the container wrote that its log could not take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogState {
    pub lost_bytes: u64,
    /// The last errno of a write.
    pub error: Option<i32>,
}

/// Where a stream stands in the file.
#[derive(Debug, Clone, Copy, Default)]
pub struct Track {
    /// Its last record in the file is a part.
    open: bool,
    /// And what follows was lost.
    cut: bool,
    /// The rest of a line of which something was lost is still to come.
    skips: bool,
}

/// The log of a container.
#[derive(Debug)]
pub struct Log {
    /// Until the container has ended.
    file: Option<OwnedFd>,
    state: LogState,
    stdout: Track,
    stderr: Track,
    /// A piece of a record at the end of the file could not be cut off.
    torn: bool,
}

impl Log {
    pub fn new(file: OwnedFd) -> Self {
        let (stdout, stderr) = (Track::default(), Track::default());
        Self { file: Some(file), state: LogState::default(), stdout, stderr, torn: false }
    }

    pub fn state(&self) -> LogState {
        self.state
    }

    /// Everything from now on goes there.
    pub fn reopen(&mut self, file: OwnedFd) {
        self.file = Some(file);
        self.torn = false;
        for track in [&mut self.stdout, &mut self.stderr] {
            (track.open, track.cut) = (false, false);
        }
    }

    /// Nothing more comes: the file may go.
    pub fn close(&mut self) {
        self.file = None;
    }

    /// Appends records of one stream.
    pub fn write(&mut self, output: Output, batch: &[u8]) {
        let mut track = *self.track(output);
        let batch = if track.skips {
            let (lost, rest) = split_after_full(batch);
            track.skips = rest.is_empty() && !ends_full(lost);
            self.state.lost_bytes += text_bytes(lost);
            rest
        } else {
            batch
        };
        if !batch.is_empty() {
            let kept = match self.mend(&track, batch) {
                Ok(()) => {
                    track.open &= !track.cut;
                    track.cut = false;
                    self.append(batch)
                }
                Err(errno) => {
                    self.state.error = Some(errno.raw_os_error());
                    0
                }
            };
            let (kept, lost) = batch.split_at_checked(kept).unwrap_or((batch, &[]));
            if !kept.is_empty() {
                track.open = !ends_full(kept);
            }
            if !lost.is_empty() {
                self.state.lost_bytes += text_bytes(lost);
                track.cut = track.open;
                track.skips = !ends_full(lost);
            }
        }
        *self.track(output) = track;
    }

    fn track(&mut self, output: Output) -> &mut Track {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }

    /// Ends what an earlier loss left open, before `next` is written.
    fn mend(&mut self, track: &Track, next: &[u8]) -> Result<(), Errno> {
        if self.torn {
            self.put(b"\n").map_err(|(_, errno)| errno)?;
            self.torn = false;
        }
        if track.cut {
            let mut record = [b'\n'; HEADER + 1];
            if let (Some(place), Some(header)) = (record.get_mut(..HEADER), next.get(..HEADER)) {
                place.copy_from_slice(header);
                place[HEADER - 2] = b'F';
            }
            self.put(&record).map_err(|(put, errno)| {
                self.cut_off(put);
                errno
            })?;
        }
        Ok(())
    }

    /// How much of the batch is in the file: a number of whole records.
    fn append(&mut self, batch: &[u8]) -> usize {
        match self.put(batch) {
            Ok(()) => batch.len(),
            Err((put, errno)) => {
                self.state.error = Some(errno.raw_os_error());
                let whole =
                    batch.get(..put).and_then(|put| memchr::memrchr(b'\n', put)).map_or(0, |at| at + 1);
                self.cut_off(put - whole);
                whole
            }
        }
    }

    /// Writes all, or tells how much of it is written.
    fn put(&self, bytes: &[u8]) -> Result<(), (usize, Errno)> {
        let file = self.file.as_ref().ok_or((0, Errno::BADF))?;
        let mut put = 0;
        while let Some(rest) = bytes.get(put..).filter(|rest| !rest.is_empty()) {
            match rustix::io::write(file, rest) {
                Err(Errno::INTR) => {}
                Err(errno) => return Err((put, errno)),
                Ok(0) => return Err((put, Errno::IO)),
                Ok(count) => put += count,
            }
        }
        Ok(())
    }

    /// Takes the last bytes of the file away again, unless somebody else has appended to it.
    fn cut_off(&mut self, count: usize) {
        let Some(file) = self.file.as_ref().filter(|_| count > 0) else { return };
        let cut = seek(file, SeekFrom::Current(0)).and_then(|end| {
            let size = u64::try_from(fstat(file)?.st_size).map_err(|_| Errno::OVERFLOW)?;
            let length = end.checked_sub(count as u64).filter(|_| size == end).ok_or(Errno::BUSY)?;
            ftruncate(file, length)
        });
        self.torn |= cut.is_err();
    }
}

/// Up to and with the first full record, and what follows.
fn split_after_full(batch: &[u8]) -> (&[u8], &[u8]) {
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', batch) {
        if batch.get(start..).is_some_and(is_full) {
            return batch.split_at_checked(newline + 1).unwrap_or((batch, &[]));
        }
        start = newline + 1;
    }
    (batch, &[])
}

/// Whether the last record is a full line.
fn ends_full(batch: &[u8]) -> bool {
    let body = batch.strip_suffix(b"\n").unwrap_or(batch);
    let start = memchr::memrchr(b'\n', body).map_or(0, |at| at + 1);
    batch.get(start..).is_some_and(is_full)
}

/// What the container wrote to get these records.
fn text_bytes(batch: &[u8]) -> u64 {
    let (mut total, mut start) = (0, 0);
    for newline in memchr::memchr_iter(b'\n', batch) {
        let record = batch.get(start..newline).unwrap_or_default();
        total += (record.len() - HEADER.min(record.len())) as u64 + u64::from(is_full(record));
        start = newline + 1;
    }
    total
}
