//! Many streams over one connection.
//!
//! ```text
//!  peer ──▶ reader ──▶ inbox of each stream (64 KiB) ──▶ StreamReader
//!             │ offers
//!             ▼
//!        Connection::next
//!
//!  StreamWriter ──▶ queue of the connection (16 frames) ──▶ writer ──▶ peer
//! ```
//!
//! Everything is bounded: a peer that does not read stops the writers, a stream that is not read stops the reader.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::frame::Encoder;
use super::reader::Reader;
use super::table::Table;
use super::writer::{Out, QUEUE, Writer};
use super::{FrameError, Inflater, Stream};

/// Streams that the peer has offered and nobody has taken yet.
const OFFERS: usize = 16;
/// How long a peer is read from after the last frame to it, its data discarded: closed at once, the kernel could
/// take back what the peer has not read yet.
const LINGER: Duration = Duration::from_secs(5);

/// A connection. Dropped, it breaks off at once.
#[derive(Debug)]
pub(crate) struct Connection {
    offers: mpsc::Receiver<Offer>,
    out: mpsc::Sender<Out>,
    table: Arc<Table>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    #[cfg(any(test, feature = "client"))]
    next: u32,
}

/// A stream that the peer wants to open.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) stream: Stream,
    out: mpsc::Sender<Out>,
}

impl Offer {
    pub(super) fn new(stream: Stream, out: mpsc::Sender<Out>) -> Self {
        Self { stream, out }
    }

    /// Agrees; dropping the offer refuses. `None`: the peer is gone.
    pub(crate) async fn accept(self) -> Option<Stream> {
        let id = self.stream.id();
        self.out.send(Out::Reply { id }).await.ok()?;
        Some(self.stream)
    }
}

impl Connection {
    /// The side that is connected to: its peer's streams are odd.
    pub(crate) fn server<T>(io: T) -> Result<Self, FrameError>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        Self::new(io, 1)
    }

    fn new<T>(io: T, parity: u32) -> Result<Self, FrameError>
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (read, write) = tokio::io::split(io);
        let (out, queue) = mpsc::channel(QUEUE);
        let (offer, offers) = mpsc::channel(OFFERS);
        let (dropped, dropped_ids) = mpsc::unbounded_channel();
        let table = Table::new(dropped);
        let reader = Reader {
            io: tokio::io::BufReader::with_capacity(crate::CHUNK, read),
            inflater: Inflater::new(),
            table: Arc::clone(&table),
            out: out.clone(),
            offers: offer,
            parity,
        };
        let encoder = Encoder::new()?;
        let writer = Writer { io: write, encoder, queue, dropped: dropped_ids, table: Arc::clone(&table) };
        Ok(Self {
            offers,
            out,
            table,
            reader: tokio::spawn(reader.run()),
            writer: tokio::spawn(writer.run()),
            #[cfg(any(test, feature = "client"))]
            next: 1,
        })
    }

    /// Cancelled when the peer is gone.
    pub(crate) fn gone(&self) -> CancellationToken {
        self.table.gone.clone()
    }

    /// The next stream that the peer wants to open; `None`: it is gone.
    pub(crate) async fn next(&mut self) -> Option<Offer> {
        self.offers.recv().await
    }

    /// Says goodbye after all that was queued, and gives the peer the time to read it. Streams that are still held
    /// end with it.
    pub(crate) async fn close(mut self) {
        self.offers.close();
        let last = self.table.last.load(Ordering::Relaxed);
        let farewell = async {
            if self.out.send(Out::GoAway { last }).await.is_ok() {
                // An abort comes only with the drop of the connection.
                let _ = (&mut self.writer).await;
            }
        };
        tokio::select! {
            () = farewell => {}
            () = self.table.gone.cancelled() => return,
        }
        // An error is the time-out: the peer does not hang up by itself.
        let _ = tokio::time::timeout(LINGER, self.table.gone.cancelled()).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        self.table.end();
    }
}

#[cfg(any(test, feature = "client"))]
mod client {
    use tokio::sync::oneshot;
    use tokio_util::sync::PollSender;

    use super::*;
    use crate::spdy::Headers;
    use crate::spdy::reader::INBOX;

    impl Connection {
        /// The side that connects: its streams are odd, its peer's even.
        pub(crate) fn client<T>(io: T) -> Result<Self, FrameError>
        where
            T: AsyncRead + AsyncWrite + Send + 'static,
        {
            Self::new(io, 0)
        }

        /// Opens a stream and waits for the peer's agreement; `None`: it was refused, or the peer is gone.
        pub(crate) async fn open(&mut self, headers: Headers) -> Option<Stream> {
            let id = self.next;
            self.next += 2;
            let (inbox, outside) = tokio::io::duplex(INBOX);
            let (replied, reply) = oneshot::channel();
            let slot = self.table.add(id, inbox, Some(replied));
            let stream = Stream::new(&slot, headers.clone(), outside, PollSender::new(self.out.clone()));
            self.out.send(Out::Open { id, headers }).await.ok()?;
            reply.await.ok()?;
            Some(stream)
        }

        pub(crate) async fn ping(&self, id: u32) {
            // A connection that has ended shows elsewhere.
            let _ = self.out.send(Out::Ping { id }).await;
        }
    }
}
