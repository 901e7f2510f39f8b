//! Clients that are attached, and execs.

use super::*;

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true };
const OUTPUT: Wanted = Wanted { stdin: false, ..ALL };

fn interactive(once: bool) -> Rig {
    Rig::new(Settings { stdin: true, stdin_once: once, ..Settings::default() })
}

#[test]
fn every_client_gets_all_output_and_then_the_end() {
    let (file, mut log) = memory_log();
    let mut rig = Rig::new(Settings { log: Some(file), ..Settings::default() });
    let one = rig.io.attach(OUTPUT).unwrap();
    rig.write(Output::Stdout, b"first\n");
    rig.settle();
    let two = rig.io.attach(ALL).unwrap();
    assert!(two.stdin.is_none(), "the container has no standard input");
    rig.write(Output::Stdout, b"second\n");
    rig.write(Output::Stderr, b"no newline");
    rig.settle();
    let out = |streams: &Streams| read_now(streams.stdout.as_ref().unwrap());
    let err = |streams: &Streams| read_now(streams.stderr.as_ref().unwrap());
    assert_eq!(out(&one), (b"first\nsecond\n".to_vec(), false));
    assert_eq!(out(&two), (b"second\n".to_vec(), false));
    rig.write(Output::Stdout, b"last");
    rig.io.drain(&mut rig.buffers);
    assert_eq!(out(&one), (b"last".to_vec(), true));
    assert_eq!(out(&two), (b"last".to_vec(), true));
    assert_eq!(err(&one), (b"no newline".to_vec(), true));
    assert_eq!(err(&two), (b"no newline".to_vec(), true));
    assert_eq!(joined(&records(&mut log), Output::Stdout), b"first\nsecond\nlast");
    assert_eq!(rig.io.missed_by_clients(), 0);
}

#[test]
fn a_client_of_a_stream_that_has_ended_is_at_its_end() {
    let mut rig = Rig::new(Settings::default());
    drop(rig.child.stderr.take());
    rig.settle();
    let client = rig.io.attach(OUTPUT).unwrap();
    assert_eq!(read_now(client.stderr.as_ref().unwrap()), (Vec::new(), true));
    assert_eq!(read_now(client.stdout.as_ref().unwrap()), (Vec::new(), false));
}

#[test]
fn a_slow_client_loses_output_alone() {
    let (file, mut log) = memory_log();
    let mut rig = Rig::new(Settings { log: Some(file), ..Settings::default() });
    let slow = rig.io.attach(OUTPUT).unwrap();
    let quick = rig.io.attach(OUTPUT).unwrap();
    let mut seen = Vec::new();
    let text: Vec<u8> = (0..400_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    for chunk in text.chunks(60_000) {
        rig.write(Output::Stdout, chunk);
        rig.settle();
        seen.extend(read_now(quick.stdout.as_ref().unwrap()).0);
    }
    assert!(seen == text, "the quick one got {} of {}", seen.len(), text.len());
    assert!(joined(&records(&mut log), Output::Stdout) == text);
    let mut kept = read_now(slow.stdout.as_ref().unwrap()).0;
    rig.settle();
    kept.extend(read_now(slow.stdout.as_ref().unwrap()).0);
    assert!(text.starts_with(&kept) && kept.len() >= 64 * 1024);
    assert_eq!(rig.io.missed_by_clients(), (text.len() - kept.len()) as u64);
    // And it may go on.
    rig.write(Output::Stdout, b"again\n");
    rig.settle();
    assert_eq!(read_now(slow.stdout.as_ref().unwrap()).0, b"again\n");
}

#[test]
fn a_client_that_is_a_little_slower_misses_nothing() {
    let mut rig = Rig::new(Settings::default());
    let stdout = rig.child.stdout.take().unwrap();
    let client = rig.io.attach(OUTPUT).unwrap();
    let text: Vec<u8> = (0..1_000_000u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    let expected = text.clone();
    let writer = std::thread::spawn(move || write_all(&stdout, &text));
    let reader = std::thread::spawn(move || {
        let (mut seen, mut room) = (Vec::new(), vec![0; 256 * 1024]);
        let end = client.stdout.unwrap();
        rustix::io::ioctl_fionbio(&end, false).unwrap();
        loop {
            match rustix::io::read(&end, &mut room[..]).unwrap() {
                0 => return seen,
                count => seen.extend_from_slice(&room[..count]),
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    });
    // The end comes while the client still lags.
    while !writer.is_finished() {
        rig.turn(Duration::from_millis(5));
    }
    rig.io.drain(&mut rig.buffers);
    while !reader.is_finished() {
        rig.turn(Duration::from_millis(5));
    }
    let seen = reader.join().unwrap();
    assert_eq!(rig.io.missed_by_clients(), 0);
    assert!(seen == expected, "{} of {}", seen.len(), expected.len());
}

#[test]
fn clients_hold_a_container_up_for_no_longer_than_their_credit() {
    let mut rig = Rig::new(Settings::default());
    let stdout = rig.child.stdout.take().unwrap();
    let client = rig.io.attach(OUTPUT).unwrap();
    let writer = std::thread::spawn(move || {
        let begun = std::time::Instant::now();
        for _ in 0..40 {
            write_all(&stdout, &[b'x'; 1024 * 1024]);
        }
        begun.elapsed()
    });
    // A client that takes a little now and then.
    let end = client.stdout.unwrap();
    let mut room = [0; 4096];
    let mut read = std::time::Instant::now();
    while !writer.is_finished() {
        rig.turn(Duration::from_millis(5));
        if read.elapsed() > Duration::from_millis(10) {
            let _ = rustix::io::read(&end, &mut room[..]);
            read = std::time::Instant::now();
        }
    }
    let took = writer.join().unwrap();
    // A quarter of the time that passes comes back.
    assert!(took < attach::CREDIT * 2, "{took:?}");
    assert!(rig.io.missed_by_clients() > 0);
}

#[test]
fn a_client_that_goes_is_forgotten() {
    let mut rig = interactive(false);
    let client = rig.io.attach(ALL).unwrap();
    let Streams { stdin, stdout, stderr } = client;
    drop(stdout);
    rig.settle();
    drop((stdin, stderr));
    rig.settle();
    let mut slots = Vec::new();
    rig.io.interests(&mut |interest| slots.push(interest.slot));
    assert_eq!(slots, [Slot::Output(Output::Stdout), Slot::Output(Output::Stderr)]);
    rig.write(Output::Stdout, b"on\n");
    rig.settle();
}

#[test]
fn input_stays_open_for_the_next_client_unless_it_is_for_one() {
    for once in [false, true] {
        let mut rig = interactive(once);
        let stdin = rig.child.stdin.take().unwrap();
        let one = rig.io.attach(ALL).unwrap();
        let two = rig.io.attach(ALL).unwrap();
        write_all(one.stdin.as_ref().unwrap(), b"one ");
        rig.settle();
        write_all(two.stdin.as_ref().unwrap(), b"two ");
        rig.settle();
        let Streams { stdin: end, stdout, .. } = one;
        write_all(end.as_ref().unwrap(), b"the end");
        drop(end);
        rig.settle();
        assert_eq!(read_now(&stdin), (b"one two the end".to_vec(), once));
        // A half-closed client still gets output.
        rig.write(Output::Stdout, b"answer");
        rig.settle();
        assert_eq!(read_now(stdout.as_ref().unwrap()), (b"answer".to_vec(), false));
        let three = rig.io.attach(ALL).unwrap();
        assert_eq!(three.stdin.is_some(), !once);
        if once {
            assert_eq!(rustix::io::write(two.stdin.as_ref().unwrap(), b"x"), Err(Errno::PIPE));
        }
    }
}

#[test]
fn a_container_that_does_not_read_holds_up_its_clients_input_and_nothing_spins() {
    let mut rig = interactive(true);
    let stdin = rig.child.stdin.take().unwrap();
    let client = rig.io.attach(ALL).unwrap();
    let end = client.stdin.unwrap();
    let mut sent = 0;
    let text: Vec<u8> = (0..100_000u32).flat_map(|n| format!("{n} ").into_bytes()).collect();
    loop {
        match rustix::io::write(&end, &text[sent..]) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => {
                rig.settle();
                if !rustix_has_room(&end) {
                    break;
                }
            }
            Err(errno) => panic!("{errno}"),
        }
    }
    assert!(sent < text.len());
    // The client goes; the container still gets all of it, and then the end.
    drop(end);
    let mut got = Vec::new();
    loop {
        rig.settle();
        let (bytes, ended) = read_now(&stdin);
        got.extend(bytes);
        if ended {
            break;
        }
    }
    assert!(got == text[..sent], "{} of {sent}", got.len());
}

fn rustix_has_room(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd, PollFlags::OUT)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
}

#[test]
fn a_container_that_closes_its_input_ends_its_clients() {
    let mut rig = interactive(false);
    let client = rig.io.attach(ALL).unwrap();
    drop(rig.child.stdin.take());
    let end = client.stdin.unwrap();
    write_all(&end, b"nobody reads this");
    rig.settle();
    assert_eq!(rustix::io::write(&end, b"x"), Err(Errno::PIPE));
}

#[test]
fn an_exec_is_the_daemons_until_it_is_an_orphan() {
    let (mut io, child, streams) = ExecIo::new(ALL, false).unwrap();
    let mut buffers = Buffers::new();
    let count = |io: &ExecIo| {
        let mut slots = Vec::new();
        io.interests(&mut |interest| slots.push(interest.slot));
        slots
    };
    assert_eq!(count(&io), []);
    let stdout = child.stdout.unwrap();
    write_all(&stdout, b"to the daemon");
    io.ready(Slot::Output(Output::Stdout), &mut buffers);
    assert_eq!(read_now(streams.stdout.as_ref().unwrap()), (b"to the daemon".to_vec(), false));
    drop(streams);
    assert_eq!(
        read_now(child.stdin.as_ref().unwrap()),
        (Vec::new(), true),
        "the daemon's end was the only one"
    );

    io.orphaned();
    let writer = std::thread::spawn(move || write_all(&stdout, &[0; 1_000_000]));
    drop(child.stderr);
    while !count(&io).is_empty() {
        for slot in count(&io) {
            io.ready(slot, &mut buffers);
        }
    }
    writer.join().unwrap();
}
