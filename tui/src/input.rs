//! Keys and mouse from a thread of their own, which sleeps while nothing is typed, and which leaves the terminal
//! alone while it is handed over.

use std::fs::File;
use std::io::{self, IsTerminal, PipeReader, PipeWriter, Write, stdin};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc as std_mpsc;
use std::time::Duration;

use crossterm::event::{self, Event};
use rustix::event::{PollFd, PollFlags, poll};
use tokio::sync::mpsc;

/// The terminal's own file: the standard input, else what controls this process.
pub fn terminal() -> io::Result<OwnedFd> {
    if stdin().is_terminal() {
        return stdin().as_fd().try_clone_to_owned();
    }
    File::open("/dev/tty").map(OwnedFd::from)
}

/// What there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// The terminal has something to read.
    Input,
    /// The other pipe has, or is closed.
    Woken,
    /// The terminal is gone.
    HungUp,
}

/// Waits for one of them.
pub fn wait(terminal: BorrowedFd<'_>, wake: BorrowedFd<'_>) -> io::Result<Ready> {
    let one = |fd| PollFd::from_borrowed_fd(fd, PollFlags::IN);
    let mut both = [one(terminal), one(wake)];
    loop {
        match poll(&mut both, None) {
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(_) if !both[1].revents().is_empty() => return Ok(Ready::Woken),
            Ok(_) if both[0].revents().contains(PollFlags::IN) => return Ok(Ready::Input),
            Ok(_) => return Ok(Ready::HungUp),
        }
    }
}

/// The thread's end at the console.
#[derive(Debug)]
pub struct Keys {
    pub events: mpsc::Receiver<Event>,
    wake: PipeWriter,
    paused: std_mpsc::Receiver<()>,
    resume: std_mpsc::Sender<()>,
}

impl Keys {
    pub fn start() -> io::Result<Self> {
        let terminal = terminal()?;
        let (woken, wake) = io::pipe()?;
        let (events_in, events) = mpsc::channel(64);
        let (pausing, paused) = std_mpsc::channel();
        let (resume, resumed) = std_mpsc::channel();
        std::thread::spawn(move || {
            // The console is gone, or the terminal is: both end it.
            let _ended = read(&terminal, woken, &events_in, &pausing, &resumed);
        });
        Ok(Self { events, wake, paused, resume })
    }

    /// Leaves the terminal alone until [`Keys::resume`]; true once nothing reads it any more.
    pub fn pause(&mut self) -> bool {
        self.wake.write_all(&[0]).is_ok() && self.paused.recv_timeout(Duration::from_secs(1)).is_ok()
    }

    pub fn resume(&mut self) {
        // The thread is gone with its terminal: the next look at the events says so.
        let _ = self.resume.send(());
    }
}

fn read(
    terminal: &OwnedFd,
    mut woken: PipeReader,
    events: &mpsc::Sender<Event>,
    pausing: &std_mpsc::Sender<()>,
    resumed: &std_mpsc::Receiver<()>,
) -> Result<(), Box<dyn std::error::Error>> {
    loop {
        match wait(terminal.as_fd(), woken.as_fd())? {
            Ready::HungUp => return Ok(()),
            Ready::Woken => {
                let mut byte = [0];
                io::Read::read_exact(&mut woken, &mut byte)?;
                pausing.send(())?;
                resumed.recv()?;
            }
            // Several events can come of one read, or none: half a sequence.
            Ready::Input => {
                while event::poll(Duration::ZERO)? {
                    events.blocking_send(event::read()?)?;
                }
            }
        }
    }
}
