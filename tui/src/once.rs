//! Output without a terminal: one frame as text, one JSON document, or a stream of JSON lines.

use std::io::{self, Write};
use std::time::Duration;

use ratatui::buffer::Buffer;
use tokio::time::Instant;

use crate::app::{App, Event};
use crate::feed::{Feed, FeedEvent, wall_clock};
use crate::record::{Entry, What};

/// How long `--once` waits for a snapshot.
pub const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
pub enum OnceError {
    #[error("{0}: is `sandboxd serve` running? Name another socket with --endpoint")]
    NoDaemon(String),
    #[error("the daemon sent no snapshot within {} s", PATIENCE.as_secs())]
    NoSnapshot,
    #[error("cannot write to the output")]
    Output(#[source] io::Error),
}

/// Feeds `app` until it has a snapshot.
pub async fn fill(app: &mut App, feed: &mut Feed) -> Result<(), OnceError> {
    let until = Instant::now() + PATIENCE;
    let mut reason = None;
    while !app.model.filled {
        match tokio::time::timeout_at(until, feed.events.recv()).await {
            Ok(Some(event)) => {
                if let FeedEvent::Waiting { reason: why, .. } = &event {
                    reason = Some(why.clone());
                }
                app.handle(Event::Feed(event), wall_clock());
            }
            Ok(None) | Err(_) => {
                return Err(reason.map_or(OnceError::NoSnapshot, OnceError::NoDaemon));
            }
        }
    }
    Ok(())
}

/// The frame's characters, lines without trailing blanks.
pub fn text(buf: &Buffer) -> String {
    let mut out = String::new();
    for y in buf.area.top()..buf.area.bottom() {
        let mut line = String::new();
        let mut skip = 0;
        for x in buf.area.left()..buf.area.right() {
            // The cell after a wide character holds its second half.
            if skip > 0 {
                skip -= 1;
                continue;
            }
            let symbol = buf[(x, y)].symbol();
            skip = crate::text::width(symbol).saturating_sub(1);
            line.push_str(symbol);
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    let used = out.trim_end().len();
    out.truncate(used);
    out.push('\n');
    out
}

/// Prints every message as a line until the reader goes. A daemon that goes is waited for, and said so.
pub async fn stream(mut feed: Feed, out: &mut impl Write) -> Result<(), OnceError> {
    let mut gone =
        |entry: &Entry| match out.write_all(crate::record::line(entry).as_bytes()).and_then(|()| out.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
            Err(error) => Err(OnceError::Output(error)),
            Ok(()) => Ok(false),
        };
    while let Some(event) = feed.events.recv().await {
        match event {
            FeedEvent::Message(message) => {
                let Some(what) = What::from_message(message) else { continue };
                if gone(&Entry { at_ns: wall_clock(), what })? {
                    return Ok(());
                }
            }
            FeedEvent::Ended => return Ok(()),
            FeedEvent::Waiting { reason, retry_in } => {
                eprintln!("sandboxd-tui: {reason}; trying again in {} ms", retry_in.as_millis());
            }
            FeedEvent::Notice(words) => eprintln!("sandboxd-tui: {words}"),
            FeedEvent::Connecting
            | FeedEvent::Live
            | FeedEvent::Explained { .. }
            | FeedEvent::Timeline { .. }
            | FeedEvent::Answered { .. } => {}
        }
    }
    Ok(())
}
