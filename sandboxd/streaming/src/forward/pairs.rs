//! Streams that wait for their other half.

use std::collections::HashMap;

use tokio::time::Instant;

use crate::spdy::Stream;

/// The two streams of a connection.
#[derive(Debug)]
pub(super) struct Pair {
    pub(super) port: u16,
    pub(super) data: Stream,
    pub(super) error: Stream,
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Error,
}

/// A half of a pair.
#[derive(Debug)]
pub(super) struct Half {
    kind: Kind,
    port: u16,
    stream: Stream,
    since: Instant,
}

/// Halves by the id of their request.
#[derive(Debug, Default)]
pub(super) struct Pairs(HashMap<String, Half>);

impl Pairs {
    /// The pair, when it is complete. An error is a second half of the same kind: it is given back.
    pub(super) fn add(
        &mut self,
        request: String,
        kind: Kind,
        port: u16,
        stream: Stream,
    ) -> Result<Option<Pair>, Stream> {
        match self.0.remove(&request) {
            None => {
                self.0.insert(request, Half { kind, port, stream, since: Instant::now() });
                Ok(None)
            }
            Some(first) if first.kind == kind => {
                self.0.insert(request, first);
                Err(stream)
            }
            Some(first) => Ok(Some(match kind {
                Kind::Data => Pair { port, data: stream, error: first.stream },
                Kind::Error => Pair { port: first.port, data: first.stream, error: stream },
            })),
        }
    }

    /// When the first half began to wait.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.0.values().map(|half| half.since).min()
    }

    /// Takes the error streams of halves that began to wait before `limit`, with their requests; the data streams
    /// of others are dropped.
    pub(super) fn expire(&mut self, limit: Instant) -> Vec<(String, Stream)> {
        let old = self.0.extract_if(|_, half| half.since <= limit);
        old.filter(|(_, half)| half.kind == Kind::Error)
            .map(|(request, half)| (request, half.stream))
            .collect()
    }
}
