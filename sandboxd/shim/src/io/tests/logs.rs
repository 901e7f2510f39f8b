//! The log: nothing lost, nothing torn, whatever the chunks, the rotation or the disk.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use proptest::prelude::*;
use rustix::fs::Mode;
use sandboxd_shim::plan::Attrs;

use super::*;
use crate::io::format::MAX_LINE;
use crate::kernel::{Kernel, Linux};

fn logging(log: OwnedFd) -> Rig {
    Rig::new(Settings { log: Some(log), ..Settings::default() })
}

#[test]
fn both_streams_are_in_the_log_and_an_unended_line_is_a_part() {
    let (file, mut log) = memory_log();
    let mut rig = logging(file);
    rig.write(Output::Stdout, b"one\ntw");
    rig.write(Output::Stderr, b"oops\r\n\n");
    rig.settle();
    rig.write(Output::Stdout, b"o\nthree");
    rig.settle();
    rig.write(Output::Stdout, b" and more");
    rig.io.drain(&mut rig.buffers);
    let records = records(&mut log);
    let of = |output| records.iter().filter(move |record| record.output == output).collect::<Vec<_>>();
    let texts = |output| of(output).iter().map(|r| (r.full, r.text.clone())).collect::<Vec<_>>();
    assert_eq!(
        texts(Output::Stdout),
        [(true, b"one".to_vec()), (true, b"two".to_vec()), (false, b"three and more".to_vec())]
    );
    assert_eq!(texts(Output::Stderr), [(true, b"oops\r".to_vec()), (true, Vec::new())]);
    assert_eq!(rig.io.log_state(), LogState::default());
}

#[test]
fn drain_takes_what_is_in_the_pipe_and_waits_for_nobody() {
    let (file, mut log) = memory_log();
    let mut rig = logging(file);
    let text = vec![b'a'; 200 * 1024];
    rig.write(Output::Stdout, &text);
    // The child's ends stay open, as with a process that outlives the container.
    rig.io.drain(&mut rig.buffers);
    assert_eq!(joined(&records(&mut log), Output::Stdout), text);
    assert_eq!(rustix::io::write(rig.child.stdout.as_ref().unwrap(), b"x"), Err(Errno::PIPE));
    let mut slots = 0;
    rig.io.interests(&mut |_| slots += 1);
    assert_eq!(slots, 0);
}

#[test]
fn a_writer_that_never_stops_does_not_hold_up_the_turn() {
    let (file, mut log) = memory_log();
    let mut rig = logging(file);
    let stdout = rig.child.stdout.take().unwrap();
    let writer = std::thread::spawn(move || while rustix::io::write(&stdout, &[b'x'; 4096]).is_ok() {});
    rig.turn(Duration::from_millis(500));
    assert!(records(&mut log).len() <= READS_A_TURN * buffers::READ / MAX_LINE + 1);
    rig.io.drain(&mut rig.buffers);
    writer.join().unwrap();
}

/// A line of some length, with or without its newline.
fn piece() -> impl Strategy<Value = Vec<u8>> {
    let length = prop_oneof![
        8 => 0usize..40,
        1 => MAX_LINE - 3..MAX_LINE + 3,
        1 => 2 * MAX_LINE - 3..2 * MAX_LINE + 3,
        1 => 60_000usize..200_000,
    ];
    (length, any::<u8>(), any::<bool>()).prop_map(|(length, fill, newline)| {
        let mut bytes = vec![fill; length];
        if newline {
            bytes.push(b'\n');
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn any_stream_in_any_chunks_comes_back(pieces in prop::collection::vec((piece(), any::<bool>()), 0..24)) {
        let (file, mut log) = memory_log();
        let mut rig = logging(file);
        let mut stream = Vec::new();
        for (bytes, turn) in &pieces {
            for chunk in bytes.chunks(100_000) {
                rig.write(Output::Stdout, chunk);
                stream.extend_from_slice(chunk);
                // At most two chunks before a turn: the pipe has room for them.
                if *turn || chunk.len() > 10_000 {
                    rig.settle();
                }
            }
        }
        rig.io.drain(&mut rig.buffers);
        let records = records(&mut log);
        prop_assert_eq!(joined(&records, Output::Stdout), stream);
        // A part is a cut line's, and full to the limit, but for the last of all.
        let parts = records.iter().take(records.len().saturating_sub(1)).filter(|record| !record.full);
        for part in parts {
            prop_assert_eq!(part.text.len(), MAX_LINE);
        }
    }
}

#[test]
fn rotation_under_load_loses_and_tears_nothing() {
    const LINES: u64 = 200_000;
    let (file, log) = memory_log();
    let mut logs = vec![log];
    let mut rig = logging(file);
    let stdout = rig.child.stdout.take().unwrap();
    drop(rig.child.stderr.take());
    let writer = std::thread::spawn(move || {
        let mut text = Vec::new();
        for number in 0..LINES {
            text.extend_from_slice(
                format!("line {number} {}\n", "x".repeat((number % 97) as usize)).as_bytes(),
            );
            // Writes end anywhere in a line.
            if text.len() > 5000 {
                write_all(&stdout, &text[..4999]);
                text.drain(..4999);
            }
        }
        write_all(&stdout, &text);
    });
    let mut turns = 0;
    while rig.io.source(Output::Stdout).fd().is_some() {
        rig.turn(Duration::from_millis(500));
        turns += 1;
        if turns % 7 == 0 {
            let (file, log) = memory_log();
            rig.io.reopen(file);
            logs.push(log);
        }
    }
    writer.join().unwrap();
    let mut expected = 0;
    for log in &mut logs {
        for record in records(log) {
            let text = String::from_utf8(record.text).unwrap();
            assert!(record.full, "{text}");
            assert_eq!(text, format!("line {expected} {}", "x".repeat((expected % 97) as usize)));
            expected += 1;
        }
    }
    assert_eq!(expected, LINES);
    assert!(logs.len() > 3, "{} files", logs.len());
}

/// A tmpfs of 1 MiB that is attached nowhere, and a log in it.
struct SmallDisk {
    mount: OwnedFd,
}

impl SmallDisk {
    fn new() -> Option<Self> {
        let options = [("size".to_owned(), Some("1m".to_owned()))];
        match Linux.new_mount("tmpfs", &options, Attrs::default()) {
            Ok(mount) => Some(Self { mount }),
            Err(errno) => {
                eprintln!("SKIPPED: a tmpfs cannot be made: {errno}");
                None
            }
        }
    }

    fn open(&self, name: &str) -> (OwnedFd, std::fs::File) {
        let flags = OFlags::CREATE | OFlags::APPEND | OFlags::WRONLY | OFlags::CLOEXEC;
        let write = rustix::fs::openat(&self.mount, name, flags, Mode::RUSR | Mode::WUSR).unwrap();
        let read =
            rustix::fs::openat(&self.mount, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (write, read.into())
    }

    /// Takes all the space but about `left` bytes.
    fn fill(&self, left: u64) {
        self.free();
        let (file, _) = self.open("filler");
        let free = rustix::fs::fstatvfs(&self.mount).unwrap();
        let length = (free.f_bavail * free.f_frsize).saturating_sub(left);
        fill(file.as_fd(), length);
    }

    fn free(&self) {
        let _ = rustix::fs::unlinkat(&self.mount, "filler", rustix::fs::AtFlags::empty());
    }
}

fn fill(file: BorrowedFd<'_>, length: u64) {
    if length > 0 {
        rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
    }
}

fn numbered(range: std::ops::Range<u32>) -> Vec<u8> {
    range.flat_map(|number| format!("line {number:06} of a container that goes on\n").into_bytes()).collect()
}

#[test]
fn a_full_disk_loses_whole_lines_counts_them_and_the_log_goes_on_by_itself() {
    let Some(disk) = SmallDisk::new() else { return };
    let (file, mut log) = disk.open("log");
    let mut rig = logging(file);
    disk.fill(64 * 1024);
    let mut written = 0;
    for hundred in 0..60 {
        let text = numbered(hundred * 100..(hundred + 1) * 100);
        written += text.len() as u64;
        rig.write(Output::Stdout, &text);
        rig.settle();
    }
    let state = rig.io.log_state();
    assert_eq!(state.error, Some(libc::ENOSPC));
    let before = records(&mut log);
    assert!(!before.is_empty() && before.iter().all(|record| record.full));
    assert_eq!(joined(&before, Output::Stdout).len() as u64 + state.lost_bytes, written);

    disk.free();
    let more = numbered(6000..6100);
    rig.write(Output::Stdout, &more);
    rig.settle();
    assert_eq!(rig.io.log_state(), state, "nothing is lost any more, and the error is remembered");
    let after = joined(&records(&mut log), Output::Stdout);
    assert!(after.ends_with(&more));
    assert_eq!(after.len() as u64 + state.lost_bytes, written + more.len() as u64);
}

#[test]
fn a_long_line_of_which_something_is_lost_is_ended_and_the_next_one_is_whole() {
    let Some(disk) = SmallDisk::new() else { return };
    let (file, mut log) = disk.open("log");
    let mut rig = logging(file);
    disk.fill(40 * 1024);
    // Two parts fit; the disk is full within the third.
    let begun = vec![b'a'; 5 * MAX_LINE];
    rig.write(Output::Stdout, &begun);
    rig.settle();
    rig.write(Output::Stderr, b"as well\n");
    rig.settle();
    disk.free();
    rig.write(Output::Stdout, b"end of the long line\nnext line\nlast");
    rig.write(Output::Stderr, b"heard\n");
    rig.settle();
    rig.write(Output::Stdout, b" line\n");
    rig.settle();
    let records = records(&mut log);
    let kept = vec![b'a'; 2 * MAX_LINE];
    let stdout = joined(&records, Output::Stdout);
    assert_eq!(stdout, [&kept[..], b"\nnext line\nlast line\n"].concat());
    let stderr = joined(&records, Output::Stderr);
    let written = begun.len() + b"end of the long line\nnext line\nlast line\nas well\nheard\n".len();
    // The newline that ends the torn line is the log's own.
    let lost = written - (stdout.len() - 1) - stderr.len();
    assert_eq!(rig.io.log_state(), LogState { lost_bytes: lost as u64, error: Some(libc::ENOSPC) });
}

/// What happens to a container and its disk.
#[derive(Debug, Clone)]
enum Happening {
    /// A line of a stream of about this length, or the beginning or the end of one.
    Write {
        output: Output,
        length: usize,
        newline: bool,
    },
    /// All space is taken but so many bytes.
    Fill(u64),
    Free,
}

fn happening() -> impl Strategy<Value = Happening> {
    let length = prop_oneof![4 => 0usize..200, 2 => 1000usize..9000, 2 => 15_000usize..60_000];
    let output = prop_oneof![Just(Output::Stdout), Just(Output::Stderr)];
    let write = (output, length, any::<bool>());
    prop_oneof![
        8 => write.prop_map(|(output, length, newline)| Happening::Write { output, length, newline }),
        2 => (0u64..40_000).prop_map(Happening::Fill),
        1 => Just(Happening::Free),
    ]
}

/// Every line of the log is one that was written, or the beginning of one, cut where a record ends, or the whole
/// beginning of the last one.
fn check_lines(written: &[u8], records: &[Record], output: Output) -> usize {
    let lines: Vec<&[u8]> = written.split(|byte| *byte == b'\n').collect();
    let mut at = 0;
    let mut cut = 0;
    let mut line = Vec::new();
    for record in records.iter().filter(|record| record.output == output) {
        line.extend_from_slice(&record.text);
        if !record.full {
            continue;
        }
        // Whole, or ended by the log itself: then the record that ends it is empty.
        let found = lines[at..].iter().position(|whole| **whole == *line).map(|found| (found, 0));
        let beginning =
            || lines[at..].iter().position(|whole| whole.starts_with(&line)).map(|found| (found, 1));
        let (found, ended) = found
            .or_else(|| beginning().filter(|_| record.text.is_empty()))
            .unwrap_or_else(|| panic!("a line of {} bytes that nobody wrote", line.len()));
        (at, cut) = (at + found + 1, cut + ended);
        line.clear();
    }
    assert!(line.is_empty() || lines[at..].iter().any(|whole| whole.starts_with(&line)));
    cut
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn whatever_the_disk_does_lines_are_whole_and_losses_counted(
        happenings in prop::collection::vec(happening(), 1..60),
    ) {
        let Some(disk) = SmallDisk::new() else { return Ok(()) };
        let (file, mut log) = disk.open("log");
        let mut rig = logging(file);
        let mut written = [Vec::new(), Vec::new()];
        let mut number = 0;
        for happening in happenings {
            match happening {
                Happening::Fill(left) => disk.fill(left),
                Happening::Free => disk.free(),
                Happening::Write { output, length, newline } => {
                    // No two lines begin alike.
                    number += 1;
                    let mut bytes = format!("<{number}>").into_bytes();
                    bytes.resize(bytes.len() + length, b'a' + u8::try_from(number % 26).unwrap());
                    if newline {
                        bytes.push(b'\n');
                    }
                    rig.write(output, &bytes);
                    rig.settle();
                    written[usize::from(output == Output::Stderr)].extend_from_slice(&bytes);
                }
            }
        }
        rig.io.drain(&mut rig.buffers);
        let records = records(&mut log);
        let lost = rig.io.log_state().lost_bytes;
        let kept = joined(&records, Output::Stdout).len() + joined(&records, Output::Stderr).len();
        let cut = check_lines(&written[0], &records, Output::Stdout)
            + check_lines(&written[1], &records, Output::Stderr);
        // A line that the log ended itself has a newline that was not written.
        prop_assert_eq!((kept - cut) as u64 + lost, (written[0].len() + written[1].len()) as u64);
    }
}

#[test]
fn without_a_log_nothing_is_kept_and_the_container_runs() {
    let mut rig = Rig::new(Settings::default());
    for _ in 0..50 {
        rig.write(Output::Stdout, &[b'x'; 100_000]);
        rig.settle();
    }
    rig.io.drain(&mut rig.buffers);
    assert_eq!(rig.io.log_state(), LogState::default());
}

#[test]
#[ignore = "measures: run with --release --ignored --nocapture"]
fn throughput() {
    for (name, length) in
        [("lines of 20 bytes", 20), ("lines of 100 bytes", 100), ("lines of 16 KiB", 16_383)]
    {
        const TOTAL: usize = 1 << 30;
        let (file, mut log) = memory_log();
        let mut rig = logging(file);
        let stdout = rig.child.stdout.take().unwrap();
        drop(rig.child.stderr.take());
        let text = [vec![b'x'; length - 1], b"\n".to_vec()].concat().repeat((1 << 20) / length);
        let writer = std::thread::spawn(move || {
            for _ in 0..TOTAL / text.len() {
                write_all(&stdout, &text);
            }
        });
        let (begun, cpu) = (Instant::now(), thread_cpu());
        while rig.io.source(Output::Stdout).fd().is_some() {
            rig.turn(Duration::from_millis(500));
            // Memory of the test's machine is not what is measured.
            if log.metadata().unwrap().len() > 256 << 20 {
                let (file, next) = memory_log();
                rig.io.reopen(file);
                log = next;
            }
        }
        writer.join().unwrap();
        let megabytes = TOTAL as f64 / 1e6;
        println!(
            "{name}: {:.0} MB/s of what the container wrote, {:.0} MB a second of the shim's CPU",
            megabytes / begun.elapsed().as_secs_f64(),
            megabytes / (thread_cpu() - cpu)
        );
    }
}

fn thread_cpu() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}
