//! Sets `lo` up in a network namespace: one rtnetlink message instead of the loopback plugin's 4 ms.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::thread;

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::error::NetworkError;

/// The loopback device is the first of every network namespace (`loopback_net_init`).
const LO_IFINDEX: i32 = 1;

/// Sets `lo` up. The kernel adds 127.0.0.1 and ::1 itself.
///
/// # Errors
/// When the namespace cannot be entered (CAP_SYS_ADMIN in its owner is needed) or the kernel refuses.
pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<(), NetworkError> {
    // setns(2) changes the calling thread alone: a thread of its own, which ends with the call.
    thread::scope(|scope| {
        let worker = thread::Builder::new().name("lo-up".into()).spawn_scoped(scope, || {
            move_into_link_name_space(netns, Some(LinkNameSpaceType::Network))
                .map_err(|e| failed("entering to set lo up")(e.into()))?;
            set_up().map_err(failed("setting lo up"))
        });
        worker
            .map_err(failed("starting a thread to set lo up"))?
            .join()
            .map_err(|_| NetworkError::TaskLost { what: "loopback set-up" })?
    })
}

fn failed(action: &'static str) -> impl Fn(io::Error) -> NetworkError {
    move |source| NetworkError::Loopback { action, source }
}

fn set_up() -> io::Result<()> {
    let route = SockProtocol::NetlinkRoute;
    let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, route)?;
    sendto(fd.as_raw_fd(), &new_link_up(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    // rtnetlink answers within the send: the acknowledgement is there already.
    let mut answer = [0u8; 256];
    let length = recv(fd.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT)?;
    match acknowledged(answer.get(..length).unwrap_or_default()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(-errno)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "no acknowledgement from rtnetlink")),
    }
}

/// `RTM_NEWLINK` with IFF_UP for `lo` (rtnetlink(7)): `nlmsghdr`, then `ifinfomsg`.
fn new_link_up() -> Vec<u8> {
    const LENGTH: u32 = 32;
    /// NLM_F_REQUEST and NLM_F_ACK (linux/netlink.h); the header's field is a u16, libc's are C ints.
    const REQUEST_AND_ACK: u16 = 0x1 | 0x4;
    let up = libc::IFF_UP.cast_unsigned();
    let mut message = Vec::with_capacity(32);
    message.extend(LENGTH.to_ne_bytes());
    message.extend(libc::RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    message.extend(1u32.to_ne_bytes()); // sequence
    message.extend(0u32.to_ne_bytes()); // port: the kernel fills it in
    message.extend([0u8, 0]); // ifi_family AF_UNSPEC, padding
    message.extend(0u16.to_ne_bytes()); // ifi_type
    message.extend(LO_IFINDEX.to_ne_bytes());
    message.extend(up.to_ne_bytes()); // ifi_flags
    message.extend(up.to_ne_bytes()); // ifi_change: this flag only
    message
}

/// The negative errno (or 0) of an `NLMSG_ERROR`.
fn acknowledged(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let error = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(error)
}
