//! Streams with real pipes, files and terminals.

mod clients;
mod logs;
mod terminal;

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, Timespec, poll};
use rustix::fs::{MemfdFlags, OFlags};

use super::format::HEADER;
use super::*;

/// A container without a process: the test has the child's ends.
pub struct Rig {
    pub io: ContainerIo,
    pub child: ChildFds,
    pub buffers: Buffers,
}

impl Rig {
    pub fn new(settings: Settings) -> Self {
        let (io, child) = ContainerIo::new(settings).unwrap();
        Self { io, child, buffers: Buffers::new() }
    }

    /// One turn of the shim's loop: how many slots were ready.
    pub fn turn(&mut self, wait: Duration) -> usize {
        let mut slots = Vec::new();
        let mut fds = Vec::new();
        let wait = self.io.timeout().map_or(wait, |most| most.min(wait));
        self.io.interests(&mut |interest| {
            slots.push(interest.slot);
            fds.push(PollFd::from_borrowed_fd(interest.fd, interest.events));
        });
        let wait = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        poll(&mut fds, Some(&wait)).unwrap();
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        for (slot, _) in slots.iter().zip(&ready).filter(|(_, ready)| **ready) {
            self.io.ready(*slot, &mut self.buffers);
        }
        ready.iter().filter(|ready| **ready).count()
    }

    /// Until nothing is ready any more.
    pub fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.turn(Duration::from_millis(2)) == 0 && self.io.timeout().is_none() {
                return;
            }
        }
        panic!("it spins");
    }

    pub fn write(&self, output: Output, bytes: &[u8]) {
        let fd = match output {
            Output::Stdout => &self.child.stdout,
            Output::Stderr => &self.child.stderr,
        };
        write_all(fd.as_ref().unwrap(), bytes);
    }
}

pub fn write_all(fd: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let written = rustix::io::write(fd, bytes).unwrap();
        bytes = &bytes[written..];
    }
}

/// What is there now; ends at the end or when there is nothing. The second: whether it was the end.
pub fn read_now(fd: &OwnedFd) -> (Vec<u8>, bool) {
    rustix::io::ioctl_fionbio(fd, true).unwrap();
    let (mut all, mut room) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        match rustix::io::read(fd, &mut room[..]) {
            Ok(0) => return (all, true),
            Ok(count) => all.extend_from_slice(&room[..count]),
            Err(Errno::AGAIN) => return (all, false),
            Err(errno) => panic!("{errno}"),
        }
    }
}

/// A log in memory, and a second descriptor to read it.
pub fn memory_log() -> (OwnedFd, std::fs::File) {
    let file = rustix::fs::memfd_create("log", MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::fcntl_setfl(&file, OFlags::APPEND).unwrap();
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    let reader = std::fs::File::open(path).unwrap();
    (file, reader)
}

/// A record as a reader of logs takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub output: Output,
    pub full: bool,
    pub text: Vec<u8>,
}

/// Every record of a log; panics where it is not one.
pub fn records(log: &mut std::fs::File) -> Vec<Record> {
    let mut bytes = Vec::new();
    log.seek(SeekFrom::Start(0)).unwrap();
    log.read_to_end(&mut bytes).unwrap();
    assert!(bytes.is_empty() || bytes.ends_with(b"\n"), "a torn end");
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.map(|line| record(&line[..line.len() - 1])).collect()
}

fn record(line: &[u8]) -> Record {
    let words: Vec<&[u8]> = line.splitn(4, |byte| *byte == b' ').collect();
    let [time, stream, tag, text] = words[..] else { panic!("{:?}", String::from_utf8_lossy(line)) };
    assert_eq!(time.len() + 1 + stream.len() + 3, HEADER);
    assert!(time.starts_with(b"20") && time.ends_with(b"Z"), "{time:?}");
    let output = match stream {
        b"stdout" => Output::Stdout,
        b"stderr" => Output::Stderr,
        other => panic!("{other:?}"),
    };
    assert!(matches!(tag, b"F" | b"P"), "{tag:?}");
    assert!(text.len() <= format::MAX_LINE);
    Record { output, full: tag == b"F", text: text.to_vec() }
}

/// What a stream's records say, put together as kubelet does.
pub fn joined(records: &[Record], output: Output) -> Vec<u8> {
    let mut all = Vec::new();
    for record in records.iter().filter(|record| record.output == output) {
        all.extend_from_slice(&record.text);
        if record.full {
            all.push(b'\n');
        }
    }
    all
}
