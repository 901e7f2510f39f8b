//! Writes a connection's frames, in the order in which they were queued.

use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::frame::{self, Encoder, Reset};
use super::table::Table;
use super::{FrameError, Headers};
use crate::CHUNK;

/// Frames that wait for a slow peer: 512 KiB of data at most.
pub(super) const QUEUE: usize = 16;
/// Frames are gathered up to this, then written at once.
const BATCH: usize = 2 * CHUNK;

/// A frame to write.
#[derive(Debug)]
pub(super) enum Out {
    #[cfg_attr(not(any(test, feature = "client")), expect(dead_code, reason = "only clients open streams"))]
    Open {
        id: u32,
        headers: Headers,
    },
    Reply {
        id: u32,
    },
    Reset {
        id: u32,
        why: Reset,
    },
    Ping {
        id: u32,
    },
    Data {
        id: u32,
        fin: bool,
        bytes: Bytes,
    },
    /// The last frame: nothing is written after it.
    GoAway {
        last: u32,
    },
}

pub(super) struct Writer<W> {
    pub(super) io: W,
    pub(super) encoder: Encoder,
    pub(super) queue: mpsc::Receiver<Out>,
    pub(super) dropped: mpsc::UnboundedReceiver<u32>,
    pub(super) table: Arc<Table>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    pub(super) async fn run(mut self) {
        if let Err(error) = self.write().await {
            tracing::debug!(%error, "writing to a streaming client failed");
            self.table.end();
        }
    }

    async fn write(&mut self) -> std::io::Result<()> {
        let mut buffer = Vec::with_capacity(BATCH);
        loop {
            let mut last = false;
            tokio::select! {
                Some(frame) = self.queue.recv() => last |= self.encode(&mut buffer, &frame)?,
                Some(id) = self.dropped.recv() => frame::reset(&mut buffer, id, Reset::Cancel),
                else => return Ok(()),
            }
            while !last && buffer.len() < BATCH {
                let Ok(frame) = self.queue.try_recv() else { break };
                last |= self.encode(&mut buffer, &frame)?;
            }
            self.io.write_all(&buffer).await?;
            buffer.clear();
            if last || self.queue.is_empty() {
                self.io.flush().await?;
            }
            if last {
                return self.io.shutdown().await;
            }
        }
    }

    /// Says whether it was the last.
    fn encode(&mut self, buffer: &mut Vec<u8>, out: &Out) -> std::io::Result<bool> {
        let failed = |error: FrameError| std::io::Error::other(error);
        match out {
            Out::Open { id, headers } => self.encoder.syn_stream(buffer, *id, headers).map_err(failed)?,
            Out::Reply { id } => self.encoder.syn_reply(buffer, *id).map_err(failed)?,
            Out::Reset { id, why } => frame::reset(buffer, *id, *why),
            Out::Ping { id } => frame::ping(buffer, *id),
            Out::Data { id, fin, bytes } => frame::data(buffer, *id, *fin, bytes),
            Out::GoAway { last } => frame::go_away(buffer, *last),
        }
        Ok(matches!(out, Out::GoAway { .. }))
    }
}
