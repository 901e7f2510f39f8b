//! Clients that are attached to a container.
//!
//! Output goes to each by a pipe of its own. When that is full, what was read for it last is kept, and the
//! stream is not read again for a moment, so that a client which is only a little slower misses nothing. The
//! moment is short: a client that takes nothing for [`STUCK`] is not waited for, and all together may hold the
//! container up for [`CREDIT`], which comes back at a quarter of the time that passes. Beyond that output is
//! lost, to this client alone.
//!
//! ```text
//! keeps up ── full ──▶ waited for ── nothing taken for STUCK, or no credit left ──▶ loses output
//!    ▲                     │                                                            │
//!    └─────────────────────┴──────────────── has taken what was kept ───────────────────┘
//! ```
//!
//! Input is read only when the container has taken what came before: a client that writes too fast waits in its
//! own pipe.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use super::buffers::Buffers;
use super::stdin::Stdin;
use super::{Interest, Output, Slot};

/// What a client may lag behind, where the kernel allows it (`fs.pipe-max-size`). Not the shim's memory.
const CLIENT_BYTES: usize = 1024 * 1024;
/// Most bytes of input in a turn.
const INPUT: usize = 16 * 1024;
/// Clients of a container at a time.
const MAX_CLIENTS: usize = 64;
/// How long a client that takes nothing is waited for.
pub const STUCK: Duration = Duration::from_millis(50);
/// How long clients may hold a container up, altogether.
pub const CREDIT: Duration = Duration::from_secs(1);

/// Which streams are wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A client's ends of streams.
#[derive(Debug, Default)]
pub struct Streams {
    /// To write to.
    pub stdin: Option<OwnedFd>,
    /// To read from.
    pub stdout: Option<OwnedFd>,
    pub stderr: Option<OwnedFd>,
}

/// The shim's ends.
#[derive(Debug)]
struct Client {
    number: u32,
    stdin: Option<OwnedFd>,
    stdout: Option<Tap>,
    stderr: Option<Tap>,
}

/// An output of a client.
#[derive(Debug)]
struct Tap {
    pipe: OwnedFd,
    /// What did not fit.
    kept: Vec<u8>,
    /// When it last took something, while something is kept.
    took: Instant,
    /// Something after what is kept was lost.
    lossy: bool,
    /// It ends when it has taken what is kept.
    ending: bool,
}

/// All clients of a container.
#[derive(Debug)]
pub struct Attachers {
    clients: Vec<Client>,
    next: u32,
    missed: u64,
    credit: Duration,
    /// When the credit was reckoned, and whether somebody was waited for since.
    reckoned: Option<(Instant, bool)>,
    /// Whether stdout and stderr are held up now.
    held: [bool; 2],
}

impl Default for Attachers {
    fn default() -> Self {
        Self { clients: Vec::new(), next: 0, missed: 0, credit: CREDIT, reckoned: None, held: [false; 2] }
    }
}

impl Client {
    fn tap(&mut self, output: Output) -> &mut Option<Tap> {
        match output {
            Output::Stdout => &mut self.stdout,
            Output::Stderr => &mut self.stderr,
        }
    }
}

impl Tap {
    /// Writes what is kept, as far as there is room. `false`: the client is gone, or has taken its last.
    fn flush(&mut self, now: Instant) -> bool {
        match give(&self.pipe, &self.kept) {
            Err(_) => return false,
            Ok(0) => {}
            Ok(given) => {
                self.kept.drain(..given);
                self.took = now;
            }
        }
        if self.kept.is_empty() {
            self.kept = Vec::new();
            self.lossy = false;
        }
        !(self.ending && self.kept.is_empty())
    }

    /// How long it is still waited for.
    fn waited_for(&self, now: Instant) -> Option<Duration> {
        if self.kept.is_empty() || self.ending {
            return None;
        }
        STUCK.checked_sub(now.saturating_duration_since(self.took)).filter(|left| !left.is_zero())
    }
}

impl Attachers {
    /// Ends for a new client. One of a stream that is not open is at its end.
    ///
    /// # Errors
    /// Those of pipe2(2); EUSERS for one client too many.
    pub fn attach(&mut self, wanted: Wanted, stdout: bool, stderr: bool) -> Result<Streams, Errno> {
        if self.clients.len() == MAX_CLIENTS {
            return Err(Errno::USERS);
        }
        let mut theirs = Streams::default();
        let mut ours = Client { number: self.next, stdin: None, stdout: None, stderr: None };
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        if wanted.stdin {
            let (read, write) = pipe_with(flags)?;
            (ours.stdin, theirs.stdin) = (Some(read), Some(write));
        }
        for (wanted, open, our, their) in [
            (wanted.stdout, stdout, &mut ours.stdout, &mut theirs.stdout),
            (wanted.stderr, stderr, &mut ours.stderr, &mut theirs.stderr),
        ] {
            if wanted {
                let (read, pipe) = pipe_with(flags)?;
                if open {
                    let _ = fcntl_setpipe_size(&pipe, CLIENT_BYTES);
                    let (kept, took) = (Vec::new(), Instant::now());
                    *our = Some(Tap { pipe, kept, took, lossy: false, ending: false });
                }
                *their = Some(read);
            }
        }
        self.clients.push(ours);
        self.next = self.next.wrapping_add(1);
        self.sweep();
        Ok(theirs)
    }

    /// Bytes that were lost to clients.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Reckons who is waited for from now on. When to reckon again, if anybody is.
    pub fn reckon(&mut self) -> Option<Duration> {
        self.held = [false; 2];
        if self.clients.is_empty() && self.reckoned.is_none() {
            return None;
        }
        let now = Instant::now();
        if let Some((then, waited)) = self.reckoned {
            let passed = now.saturating_duration_since(then);
            self.credit = if waited {
                self.credit.saturating_sub(passed)
            } else {
                CREDIT.min(self.credit + passed / 4)
            };
        }
        let mut soonest: Option<Duration> = None;
        for client in self.clients.iter().filter(|_| !self.credit.is_zero()) {
            for (held, tap) in self.held.iter_mut().zip([&client.stdout, &client.stderr]) {
                if let Some(left) = tap.as_ref().and_then(|tap| tap.waited_for(now)) {
                    *held = true;
                    soonest = Some(soonest.map_or(left, |soonest| soonest.min(left)));
                }
            }
        }
        let idle = self.clients.is_empty() && self.credit == CREDIT;
        self.reckoned = Some((now, soonest.is_some())).filter(|_| !idle);
        soonest.map(|soonest| soonest.min(self.credit))
    }

    /// Whether a stream is not to be read now.
    pub fn holds(&self, output: Output) -> bool {
        match output {
            Output::Stdout => self.held[0],
            Output::Stderr => self.held[1],
        }
    }

    /// Input is polled only if the container takes it; of output the client's end is waited for, and room where
    /// something is kept.
    pub fn interests<'a>(&'a self, input: bool, add: &mut impl FnMut(Interest<'a>)) {
        for client in &self.clients {
            if let Some(fd) = client.stdin.as_ref().filter(|_| input) {
                let slot = Slot::ClientStdin(client.number);
                add(Interest { slot, fd: fd.as_fd(), events: PollFlags::IN });
            }
            for (output, tap) in [(Output::Stdout, &client.stdout), (Output::Stderr, &client.stderr)] {
                if let Some(Tap { pipe, kept, .. }) = tap {
                    let events = if kept.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
                    let slot = Slot::ClientOutput(client.number, output);
                    add(Interest { slot, fd: pipe.as_fd(), events });
                }
            }
        }
    }

    /// Gives output to every client that wants it; with `last`, more than one read may be kept for those that
    /// have missed nothing. `true`: something had to be kept.
    pub fn tee(&mut self, output: Output, bytes: &[u8], last: bool) -> bool {
        let (mut full, mut gone) = (false, false);
        for client in &mut self.clients {
            let place = client.tap(output);
            let Some(tap) = place else { continue };
            if !tap.kept.is_empty() {
                if last && !tap.lossy {
                    tap.kept.extend_from_slice(bytes);
                } else {
                    tap.lossy = true;
                    self.missed += bytes.len() as u64;
                }
                continue;
            }
            match give(&tap.pipe, bytes) {
                Ok(given) => {
                    let rest = bytes.get(given..).unwrap_or_default();
                    if !rest.is_empty() {
                        tap.kept = rest.to_vec();
                        tap.took = Instant::now();
                        full = true;
                    }
                }
                Err(_) => {
                    *place = None;
                    gone = true;
                }
            }
        }
        if gone {
            self.sweep();
        }
        full
    }

    /// Takes a client's input to the container's.
    pub fn pump_stdin(&mut self, number: u32, stdin: &mut Stdin, buffers: &mut Buffers) {
        if !stdin.takes_more() {
            return;
        }
        let Some(client) = self.clients.iter_mut().find(|client| client.number == number) else { return };
        let Some(fd) = &client.stdin else { return };
        let room = buffers.input().get_mut(..INPUT).unwrap_or_default();
        match rustix::io::read(fd, room) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => {
                client.stdin = None;
                stdin.client_ended();
                self.sweep();
            }
            Ok(count) => stdin.push(buffers.fresh(count)),
        }
    }

    /// The client has room again, or has closed its end, which is all that is waited for with nothing kept.
    pub fn pump_output(&mut self, number: u32, output: Output) {
        let Some(client) = self.clients.iter_mut().find(|client| client.number == number) else { return };
        let place = client.tap(output);
        let stays = place.as_mut().is_some_and(|tap| !tap.kept.is_empty() && tap.flush(Instant::now()));
        if !stays {
            *place = None;
            self.sweep();
        }
    }

    /// The stream has ended: for each client when it has taken all.
    pub fn end_output(&mut self, output: Output) {
        for client in &mut self.clients {
            let place = client.tap(output);
            if let Some(tap) = place {
                tap.ending = true;
                if tap.kept.is_empty() {
                    *place = None;
                }
            }
        }
        self.sweep();
    }

    pub fn end_stdin(&mut self) {
        for client in &mut self.clients {
            client.stdin = None;
        }
        self.sweep();
    }

    /// Forgets clients that have nothing left.
    fn sweep(&mut self) {
        self.clients
            .retain(|client| client.stdin.is_some() || client.stdout.is_some() || client.stderr.is_some());
    }
}

/// Writes what there is room for: how much that was.
fn give(fd: &OwnedFd, bytes: &[u8]) -> Result<usize, Errno> {
    let mut given = 0;
    while let Some(rest) = bytes.get(given..).filter(|rest| !rest.is_empty()) {
        match rustix::io::write(fd, rest) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Ok(count) => given += count,
            Err(errno) => return Err(errno),
        }
    }
    Ok(given)
}
