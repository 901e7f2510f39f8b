//! Clients that are attached to a container.
//!
//! Each has pipes of its own, and their capacity is all the buffer it gets: output that does not fit is lost to
//! this client alone. Its input is read only when the container's has taken what came before, so that a client
//! which writes too fast waits in its own pipe.

use std::os::fd::{AsFd, OwnedFd};

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
    ends: Streams,
}

/// All clients of a container.
#[derive(Debug, Default)]
pub struct Attachers {
    clients: Vec<Client>,
    next: u32,
    missed: u64,
}

impl Client {
    fn output(&mut self, output: Output) -> &mut Option<OwnedFd> {
        match output {
            Output::Stdout => &mut self.ends.stdout,
            Output::Stderr => &mut self.ends.stderr,
        }
    }
}

impl Attachers {
    /// Ends for a new client. One of a stream that is not `open` is at its end.
    pub fn attach(&mut self, wanted: Wanted, stdout: bool, stderr: bool) -> Result<Streams, Errno> {
        let mut ours = Streams::default();
        let mut theirs = Streams::default();
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
                let (read, write) = pipe_with(flags)?;
                if open {
                    let _ = fcntl_setpipe_size(&write, CLIENT_BYTES);
                    *our = Some(write);
                }
                *their = Some(read);
            }
        }
        self.clients.push(Client { number: self.next, ends: ours });
        self.next = self.next.wrapping_add(1);
        self.sweep();
        Ok(theirs)
    }

    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Input is polled only if the container takes it; of output only the client's end is waited for.
    pub fn interests<'a>(&'a self, input: bool, add: &mut impl FnMut(Interest<'a>)) {
        for client in &self.clients {
            if let Some(fd) = client.ends.stdin.as_ref().filter(|_| input) {
                let slot = Slot::ClientStdin(client.number);
                add(Interest { slot, fd: fd.as_fd(), events: PollFlags::IN });
            }
            for (output, fd) in [(Output::Stdout, &client.ends.stdout), (Output::Stderr, &client.ends.stderr)]
            {
                if let Some(fd) = fd {
                    let slot = Slot::ClientOutput(client.number, output);
                    add(Interest { slot, fd: fd.as_fd(), events: PollFlags::empty() });
                }
            }
        }
    }

    /// Gives output to every client that wants it.
    pub fn tee(&mut self, output: Output, bytes: &[u8]) {
        let mut gone = false;
        for client in &mut self.clients {
            let Some(fd) = client.output(output) else { continue };
            match give(fd, bytes) {
                Ok(taken) => self.missed += (bytes.len() - taken) as u64,
                Err(_) => {
                    *client.output(output) = None;
                    gone = true;
                }
            }
        }
        if gone {
            self.sweep();
        }
    }

    /// Takes a client's input to the container's.
    pub fn pump_stdin(&mut self, number: u32, stdin: &mut Stdin, buffers: &mut Buffers) {
        if !stdin.takes_more() {
            return;
        }
        let Some(client) = self.clients.iter_mut().find(|client| client.number == number) else { return };
        let Some(fd) = &client.ends.stdin else { return };
        let room = buffers.input().get_mut(..INPUT).unwrap_or_default();
        match rustix::io::read(fd, room) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(0) | Err(_) => {
                client.ends.stdin = None;
                stdin.client_ended();
                self.sweep();
            }
            Ok(count) => stdin.push(buffers.fresh(count)),
        }
    }

    /// The client has closed its end.
    pub fn gone(&mut self, number: u32, output: Output) {
        if let Some(client) = self.clients.iter_mut().find(|client| client.number == number) {
            *client.output(output) = None;
            self.sweep();
        }
    }

    pub fn end_output(&mut self, output: Output) {
        for client in &mut self.clients {
            *client.output(output) = None;
        }
        self.sweep();
    }

    pub fn end_stdin(&mut self) {
        for client in &mut self.clients {
            client.ends.stdin = None;
        }
        self.sweep();
    }

    pub fn end_all(&mut self) {
        self.clients = Vec::new();
    }

    /// Forgets clients that have nothing left.
    fn sweep(&mut self) {
        let any = |ends: &Streams| ends.stdin.is_some() || ends.stdout.is_some() || ends.stderr.is_some();
        self.clients.retain(|client| any(&client.ends));
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
