//! Terminals: one stream, a size, an end.

use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use super::*;

const ALL: Wanted = Wanted { stdin: true, stdout: true, stderr: true };

/// Master and slave; echo off.
fn terminal() -> (OwnedFd, OwnedFd) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let master = openpt(flags).unwrap();
    unlockpt(&master).unwrap();
    let slave = ioctl_tiocgptpeer(&master, flags).unwrap();
    let mut attributes = tcgetattr(&slave).unwrap();
    attributes.local_modes -= rustix::termios::LocalModes::ECHO;
    tcsetattr(&slave, OptionalActions::Now, &attributes).unwrap();
    (master, slave)
}

#[test]
fn a_terminal_is_one_stream_with_a_size() {
    let (file, mut log) = memory_log();
    let mut rig = Rig::new(Settings { stdin: true, tty: true, log: Some(file), ..Settings::default() });
    assert!(rig.child.stdin.is_none() && rig.child.stdout.is_none() && rig.child.stderr.is_none());
    assert_eq!(rig.io.resize(80, 24), Err(Errno::NOTTY), "not there yet");
    // Attached before the container is started.
    let client = rig.io.attach(ALL).unwrap();
    assert!(client.stderr.is_none());
    write_all(client.stdin.as_ref().unwrap(), b"typed early\n");
    rig.settle();

    let (master, slave) = terminal();
    rig.io.set_terminal(master).unwrap();
    rig.settle();
    let mut line = [0; 64];
    let count = rustix::io::read(&slave, &mut line[..]).unwrap();
    assert_eq!(&line[..count], b"typed early\n");
    rig.io.resize(132, 43).unwrap();
    let size = tcgetwinsize(&slave).unwrap();
    assert_eq!((size.ws_col, size.ws_row), (132, 43));

    write_all(&slave, b"hello\n");
    rig.settle();
    assert_eq!(read_now(client.stdout.as_ref().unwrap()), (b"hello\r\n".to_vec(), false));
    // Nobody has it open for a moment: not the end.
    drop(slave);
    rig.settle();
    assert_eq!(read_now(client.stdout.as_ref().unwrap()), (Vec::new(), false));
    rig.io.drain(&mut rig.buffers);
    assert_eq!(read_now(client.stdout.as_ref().unwrap()), (Vec::new(), true));
    assert_eq!(joined(&records(&mut log), Output::Stdout), b"hello\r\n");
}

#[test]
fn drain_takes_what_a_terminal_still_holds() {
    let (file, mut log) = memory_log();
    let mut rig = Rig::new(Settings { tty: true, log: Some(file), ..Settings::default() });
    let (master, slave) = terminal();
    rig.io.set_terminal(master).unwrap();
    let text: Vec<u8> = (0..500u32).flat_map(|n| format!("{n}\n").into_bytes()).collect();
    write_all(&slave, &text);
    drop(slave);
    rig.io.drain(&mut rig.buffers);
    let kept: Vec<u8> =
        joined(&records(&mut log), Output::Stdout).into_iter().filter(|b| *b != b'\r').collect();
    assert_eq!(kept, text);
}

#[test]
fn input_that_a_terminal_does_not_take_waits_and_nothing_spins() {
    let mut rig = Rig::new(Settings { stdin: true, tty: true, ..Settings::default() });
    let (master, slave) = terminal();
    rig.io.set_terminal(master).unwrap();
    let client = rig.io.attach(ALL).unwrap();
    let end = client.stdin.as_ref().unwrap();
    let line = [&[b'x'; 99][..], b"\n"].concat();
    let mut sent = 0;
    for _ in 0..100_000 {
        match rustix::io::write(end, &line) {
            Ok(count) => sent += count,
            Err(Errno::AGAIN) => break,
            Err(errno) => panic!("{errno}"),
        }
        if sent % 10_000 == 0 {
            rig.settle();
        }
    }
    rig.settle();
    let mut got = 0;
    let mut room = [0; 4096];
    rustix::io::ioctl_fionbio(&slave, true).unwrap();
    loop {
        match rustix::io::read(&slave, &mut room[..]) {
            Ok(count) => got += count,
            Err(Errno::AGAIN) if rig.turn(Duration::from_millis(20)) == 0 => break,
            Err(Errno::AGAIN) => {}
            Err(errno) => panic!("{errno}"),
        }
    }
    assert_eq!(got, sent / 100 * 100);
}

#[test]
fn an_execs_terminal_is_the_daemons_until_it_is_an_orphan() {
    let (mut io, child, streams) = ExecIo::new(ALL, true).unwrap();
    assert!(child.stdout.is_none() && streams.stdout.is_none());
    assert_eq!(io.resize(1, 1), Err(Errno::NOTTY));
    let (master, slave) = terminal();
    let streams = io.set_terminal(master).unwrap();
    io.resize(100, 30).unwrap();
    assert_eq!(tcgetwinsize(&slave).unwrap().ws_col, 100);
    write_all(streams.stdin.as_ref().unwrap(), b"in\n");
    let mut line = [0; 16];
    assert_eq!(rustix::io::read(&slave, &mut line[..]).unwrap(), 3);
    write_all(&slave, b"out");
    assert_eq!(read_now(streams.stdout.as_ref().unwrap()).0, b"out");

    drop(streams);
    io.orphaned();
    let writer = std::thread::spawn(move || {
        for _ in 0..100 {
            write_all(&slave, &[b'x'; 1000]);
        }
    });
    let mut buffers = Buffers::new();
    while io.stdout_is_open() {
        io.ready(Slot::Output(Output::Stdout), &mut buffers);
    }
    writer.join().unwrap();
}
