//! Connections made as somebody else: the ids of one thread are changed, as a socket's peer is asked for them when it
//! connects.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use anyhow::{Context, Result};
use nix::libc;
use tokio::sync::Mutex;
use tonic::transport::{Channel, Endpoint, Uri};

/// Who connects.
#[derive(Debug, Clone)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// A gRPC channel over a unix socket, from a process with these ids.
///
/// # Errors
/// When the socket does not open to them.
pub async fn channel_as(identity: Identity, socket: &Path) -> Result<Channel> {
    let path = socket.to_path_buf();
    let stream = std::thread::spawn(move || {
        become_it(&identity)?;
        UnixStream::connect(path)
    });
    let stream = stream.join().map_err(|_| anyhow::anyhow!("the connecting thread panicked"))?;
    let stream = stream.with_context(|| format!("connecting to {}", socket.display()))?;
    stream.set_nonblocking(true)?;
    // One connection: there is none to make anew.
    let stream = std::sync::Arc::new(Mutex::new(Some(stream)));
    let connector = tower::service_fn(move |_: Uri| {
        let stream = std::sync::Arc::clone(&stream);
        async move {
            let stream = stream.lock().await.take().ok_or_else(|| io::Error::other("it was closed"))?;
            tokio::net::UnixStream::from_std(stream).map(hyper_util::rt::TokioIo::new)
        }
    });
    Ok(Endpoint::from_static("http://sandboxd.invalid").connect_with_connector(connector).await?)
}

/// Changes the ids of this thread alone: the library's functions would change those of all.
fn become_it(identity: &Identity) -> io::Result<()> {
    let Identity { uid, gid, groups } = identity;
    // SAFETY: the pointer and the count are those of a slice that outlives the call.
    let done = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers.
    if unsafe { libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: plain integers.
    if unsafe { libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
