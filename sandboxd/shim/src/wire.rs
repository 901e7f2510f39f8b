//! One message is one seqpacket datagram; file descriptors travel beside it (SCM_RIGHTS, unix(7)).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

use crate::proto::{MAX_FAR, MAX_FDS, MAX_MESSAGE};

/// A received message: its bytes and its file descriptors, all close-on-exec.
#[derive(Debug)]
pub struct Received {
    pub bytes: Vec<u8>,
    pub fds: Vec<OwnedFd>,
}

/// Sends one message. A peer that is gone is EPIPE, never a signal.
///
/// # Errors
/// Those of sendmsg(2); E2BIG for more than [`MAX_FDS`] descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if fds.len() > MAX_FDS || (!fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds))) {
        return Err(Errno::TOOBIG);
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL) {
            Err(Errno::INTR) => {}
            other => return other.map(drop),
        }
    }
}

/// A sealed memory file with these bytes, which neither side can change any more.
///
/// # Errors
/// Those of memfd_create(2), write(2) and fcntl(2).
pub fn seal(bytes: &[u8]) -> Result<OwnedFd, Errno> {
    let file = memfd_create("request", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut rest = bytes;
    while !rest.is_empty() {
        let written = rustix::io::write(&file, rest)?;
        rest = rest.get(written..).unwrap_or_default();
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

/// The bytes of a file that [`seal`] made.
///
/// # Errors
/// EPERM for a file that can still change, EMSGSIZE for one that is longer than [`MAX_FAR`] or has another
/// length.
pub fn unseal(file: BorrowedFd<'_>, length: usize) -> Result<Vec<u8>, Errno> {
    if !fcntl_get_seals(file)?.contains(SEALS) {
        return Err(Errno::PERM);
    }
    if length > MAX_FAR || u64::try_from(rustix::fs::fstat(file)?.st_size) != Ok(length as u64) {
        return Err(Errno::MSGSIZE);
    }
    let mut bytes = vec![0; length];
    let mut read = 0;
    while let Some(rest) = bytes.get_mut(read..).filter(|rest| !rest.is_empty()) {
        match rustix::io::pread(file, rest, read as u64)? {
            0 => return Err(Errno::MSGSIZE),
            count => read += count,
        }
    }
    Ok(bytes)
}

const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW);

/// Receives one message; `None`: the other side has closed.
///
/// # Errors
/// Those of recvmsg(2); EMSGSIZE for a message longer than [`MAX_MESSAGE`] or with more than [`MAX_FDS`]
/// descriptors, which is taken off the queue and dropped.
pub fn receive(socket: BorrowedFd<'_>) -> Result<Option<Received>, Errno> {
    // The length first, so that a small message needs a small buffer.
    let mut none = [0u8; 1];
    let peeked = receive_into(socket, &mut none, RecvFlags::PEEK | RecvFlags::TRUNC)?;
    if peeked.length > MAX_MESSAGE {
        let _ = receive_into(socket, &mut none, RecvFlags::TRUNC)?;
        return Err(Errno::MSGSIZE);
    }
    if peeked.length == 0 {
        return Ok(None);
    }
    let mut bytes = vec![0u8; peeked.length];
    drop(peeked);
    let got = receive_into(socket, &mut bytes, RecvFlags::empty())?;
    if got.truncated || got.length != bytes.len() || got.fds.len() > MAX_FDS {
        return Err(Errno::MSGSIZE);
    }
    Ok(Some(Received { bytes, fds: got.fds }))
}

struct Got {
    length: usize,
    truncated: bool,
    fds: Vec<OwnedFd>,
}

fn receive_into(socket: BorrowedFd<'_>, bytes: &mut [u8], flags: RecvFlags) -> Result<Got, Errno> {
    let peek = flags.contains(RecvFlags::PEEK);
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    // A peek with room for descriptors would make them twice.
    let mut control =
        if peek { RecvAncillaryBuffer::default() } else { RecvAncillaryBuffer::new(&mut space) };
    let message = loop {
        match recvmsg(
            socket.as_fd(),
            &mut [IoSliceMut::new(bytes)],
            &mut control,
            flags | RecvFlags::CMSG_CLOEXEC,
        ) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for item in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = item {
            fds.extend(received);
        }
    }
    let truncated = !peek && message.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC);
    Ok(Got { length: message.bytes, truncated, fds })
}

#[cfg(test)]
mod tests {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    use super::*;

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap()
    }

    #[test]
    fn bytes_and_descriptors_arrive() {
        let (a, b) = pair();
        let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        send(a.as_fd(), b"hello", &[file.as_fd(), file.as_fd()]).unwrap();
        let got = receive(b.as_fd()).unwrap().unwrap();
        assert_eq!(got.bytes, b"hello");
        assert_eq!(got.fds.len(), 2);
        let flags = rustix::io::fcntl_getfd(&got.fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn too_long_a_message_is_dropped_and_the_next_one_arrives() {
        let (a, b) = pair();
        send(a.as_fd(), &vec![0; MAX_MESSAGE + 1], &[]).unwrap();
        send(a.as_fd(), &vec![1; MAX_MESSAGE], &[]).unwrap();
        assert_eq!(receive(b.as_fd()).unwrap_err(), Errno::MSGSIZE);
        assert_eq!(receive(b.as_fd()).unwrap().unwrap().bytes.len(), MAX_MESSAGE);
    }

    #[test]
    fn too_many_descriptors_are_refused_on_both_sides() {
        let (a, b) = pair();
        let file = memfd_create("x", MemfdFlags::CLOEXEC).unwrap();
        let many = vec![file.as_fd(); MAX_FDS + 1];
        assert_eq!(send(a.as_fd(), b"x", &many).unwrap_err(), Errno::TOOBIG);
        // A peer that does not keep the bound.
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let many = vec![file.as_fd(); MAX_FDS + 2];
        assert!(control.push(SendAncillaryMessage::ScmRights(&many)));
        sendmsg(&a, &[IoSlice::new(b"x")], &mut control, SendFlags::empty()).unwrap();
        assert_eq!(receive(b.as_fd()).unwrap_err(), Errno::MSGSIZE);
    }

    #[test]
    fn a_sealed_file_is_read_and_one_that_can_change_is_not() {
        let sealed = seal(&[7; 100_000]).unwrap();
        assert_eq!(unseal(sealed.as_fd(), 100_000).unwrap(), [7; 100_000]);
        assert_eq!(unseal(sealed.as_fd(), 99_999), Err(Errno::MSGSIZE));
        let open = memfd_create("x", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        assert_eq!(unseal(open.as_fd(), 0), Err(Errno::PERM));
    }

    #[test]
    fn a_closed_peer_is_none_and_then_a_broken_pipe() {
        let (a, b) = pair();
        drop(a);
        assert!(receive(b.as_fd()).unwrap().is_none());
        assert_eq!(send(b.as_fd(), b"x", &[]).unwrap_err(), Errno::PIPE);
    }
}
