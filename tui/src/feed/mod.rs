//! Where the console's messages come from: a daemon ([`live`]) or a recording ([`replay`]).
//!
//! ```text
//!              ┌────────────── retry_in elapsed ──────────────┐
//!              ▼                                              │
//!  Connecting ───── Watch answered ────▶ Live ── stream ends ──▶ Waiting
//!       └───────────── refused, no answer within 5 s ───────────▲
//! ```
//!
//! A feed runs as a task of its own and speaks over two bounded channels. The console is read slowly? Then the
//! channel fills, HTTP/2's window closes, and the daemon answers with `Lagged` and a fresh snapshot.

mod act;
mod connect;
pub mod feeds;
pub mod live;
pub mod log;
pub mod query;
pub mod replay;
pub mod target;

use std::time::Duration;

use sandboxd_api::console::{ExplainCheckResponse, LogLine, Timeline, WatchResponse};
use tokio::sync::{mpsc, watch};
use tonic::transport::Channel;

use crate::actions::Action;
use log::Follow;

use query::{Answer, Query};

/// Messages between the feed and the console before the feed waits.
pub const CHANNEL: usize = 1024;

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "moved once, from the feed to the model")]
pub enum FeedEvent {
    Connecting,
    Live,
    Waiting {
        reason: String,
        retry_in: Duration,
    },
    Message(WatchResponse),
    Explained {
        seq: u64,
        answer: Result<ExplainCheckResponse, String>,
    },
    Timeline {
        pod_id: String,
        answer: Result<Timeline, String>,
    },
    /// More of the log that is followed.
    Log {
        container_id: String,
        lines: Vec<LogLine>,
    },
    LogEnded {
        container_id: String,
        ended: Result<(), String>,
    },
    Acted {
        action: Action,
        answer: Result<(), String>,
    },
    Answered {
        query: Query,
        answer: Result<Answer, String>,
    },
    /// The recording is at its end.
    Ended,
    /// Something to tell the operator that stops nothing, e.g. a recording that cannot be written.
    Notice(String),
}

/// What the console asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    Explain {
        seq: u64,
    },
    Timeline {
        pod_id: String,
    },
    Read(Query),
    /// Follows a log, instead of the one before.
    Follow(Follow),
    /// Follows none any more.
    Unfollow,
    Act(Action),
}

impl Request {
    /// The answer where nobody can answer; `None` where none is waited for.
    fn refused(self, why: &str) -> Option<FeedEvent> {
        let why = || why.to_owned();
        Some(match self {
            Self::Explain { seq } => FeedEvent::Explained { seq, answer: Err(why()) },
            Self::Timeline { pod_id } => FeedEvent::Timeline { pod_id, answer: Err(why()) },
            Self::Read(query) => FeedEvent::Answered { query, answer: Err(why()) },
            Self::Follow(Follow { container_id, .. }) => {
                FeedEvent::LogEnded { container_id, ended: Err(why()) }
            }
            Self::Unfollow => return None,
            Self::Act(action) => FeedEvent::Acted { action, answer: Err(why()) },
        })
    }
}

/// The console's end of a feed.
#[derive(Debug)]
pub struct Feed {
    pub events: mpsc::Receiver<FeedEvent>,
    pub requests: mpsc::Sender<Request>,
    /// The connection, while there is one.
    pub channel: watch::Receiver<Option<Channel>>,
}

/// Nanoseconds since the Unix epoch.
pub fn wall_clock() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
