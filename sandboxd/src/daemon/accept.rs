//! Connections of a listener as a stream that survives a full file table.

use std::io;
use std::time::Duration;

use futures_util::stream::{self, Stream};
use tokio::net::UnixListener;

use super::authority::Connection;

/// accept(2) fails at once, and again, while no descriptor is free: wait instead of spinning.
const PAUSE: Duration = Duration::from_millis(100);

/// Never ends; an error is logged and waited out.
pub fn connections(listener: UnixListener) -> impl Stream<Item = io::Result<Connection>> {
    stream::unfold(listener, |listener| async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => return Some((Ok(Connection::new(stream)), listener)),
                Err(error) => {
                    tracing::warn!(%error, "accepting a connection failed");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    })
}
