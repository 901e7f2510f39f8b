//! Reads a connection's frames and hands them to its streams.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use super::connection::Offer;
use super::frame::{Control, HEAD, Head, Reset};
use super::stream::Stream;
use super::table::Table;
use super::writer::Out;
use super::{Headers, Inflater};
use crate::CHUNK;
use crate::copy::deliver;

/// What a stream holds of the peer's data before its reader takes it.
pub(super) const INBOX: usize = 64 << 10;
/// The id of pings to a client: even ones are the server's.
const PROBE: u32 = 2;
/// Streams of a connection that are open at once.
const MAX_STREAMS: usize = 2048;

pub(super) struct Reader<R> {
    pub(super) io: R,
    pub(super) inflater: Inflater,
    pub(super) table: Arc<Table>,
    pub(super) out: mpsc::Sender<Out>,
    pub(super) offers: mpsc::Sender<Offer>,
    /// The remainder by 2 of the peer's ids.
    pub(super) parity: u32,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) async fn run(mut self) {
        match self.read().await {
            Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {
                tracing::debug!(%error, "a streaming client's connection broke");
            }
            Ok(()) | Err(_) => {}
        }
        self.table.end();
    }

    /// Ends with the peer.
    async fn read(&mut self) -> io::Result<()> {
        let mut buffer = Vec::new();
        loop {
            let mut head = [0; HEAD];
            self.io.read_exact(&mut head).await?;
            match Head::parse(head).map_err(io::Error::other)? {
                Head::Data { stream, fin, length } => self.data(&mut buffer, stream, fin, length).await?,
                Head::Control { kind, flags, length } => {
                    buffer.resize(length as usize, 0);
                    self.io.read_exact(&mut buffer).await?;
                    let parsed = Control::parse(kind, flags, &buffer, &mut self.inflater);
                    self.control(parsed.map_err(io::Error::other)?).await?;
                }
            }
        }
    }

    /// Data for a stream that nobody reads any more is discarded.
    async fn data(&mut self, buffer: &mut Vec<u8>, stream: u32, fin: bool, length: u32) -> io::Result<()> {
        let mut inbox = self.table.take_inbox(stream);
        let mut left = length as usize;
        while left > 0 {
            buffer.resize(left.min(CHUNK), 0);
            let read = self.io.read(buffer).await?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            left -= read;
            let out = &self.out;
            // A queue that is full sends by itself.
            let probe = || drop(out.try_send(Out::Ping { id: PROBE }));
            if let Some(open) = &mut inbox
                && !deliver(open, &buffer[..read], probe).await
            {
                inbox = None;
            }
        }
        if let (Some(inbox), false) = (inbox, fin) {
            self.table.put_inbox(stream, inbox);
        }
        Ok(())
    }

    async fn control(&mut self, frame: Control) -> io::Result<()> {
        match frame {
            Control::SynStream { stream, fin, headers } => self.offered(stream, fin, headers).await?,
            Control::SynReply { stream, fin } => {
                self.table.replied(stream);
                self.finished(stream, fin);
            }
            Control::Headers { stream, fin } => self.finished(stream, fin),
            Control::Reset { stream } => self.table.reset(stream),
            // One of the peer's own comes back; an answer to ours has the other parity.
            Control::Ping { id } if id % 2 == self.parity => self.send(Out::Ping { id }).await?,
            // A peer that says goodbye still reads what is on its way, and closes by itself.
            Control::Ping { .. } | Control::GoAway | Control::Ignored => {}
        }
        Ok(())
    }

    fn finished(&self, stream: u32, fin: bool) {
        if fin {
            drop(self.table.take_inbox(stream));
        }
    }

    async fn offered(&mut self, id: u32, fin: bool, headers: Headers) -> io::Result<()> {
        if id <= self.table.last.load(Ordering::Relaxed) || id % 2 != self.parity {
            return self.send(Out::Reset { id, why: Reset::Protocol }).await;
        }
        self.table.last.store(id, Ordering::Relaxed);
        if self.table.len() >= MAX_STREAMS {
            return self.send(Out::Reset { id, why: Reset::Refused }).await;
        }
        let (inbox, outside) = tokio::io::duplex(INBOX);
        let slot = self.table.add(id, inbox, None);
        self.finished(id, fin);
        let stream = Stream::new(&slot, headers, outside, PollSender::new(self.out.clone()));
        // Nobody takes streams any more: dropped, it is reset.
        let _ = self.offers.send(Offer::new(stream, self.out.clone())).await;
        Ok(())
    }

    async fn send(&mut self, frame: Out) -> io::Result<()> {
        self.out.send(frame).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}
