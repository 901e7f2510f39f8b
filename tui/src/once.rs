//! Output without a terminal: one frame as text, one JSON document, or a stream of JSON lines.

use std::io::{self, Write};
use std::time::Duration;

use ratatui::buffer::Buffer;
use tokio::time::Instant;

use crate::app::{App, Event};
use crate::feed::feeds::Feeds;
use crate::feed::{FeedEvent, wall_clock};
use crate::fleet::NodeId;
use crate::link::Link;
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

/// Feeds `app` until it has a snapshot of each node, or of some when the time is over.
pub async fn fill(app: &mut App, feeds: &mut Feeds) -> Result<(), OnceError> {
    let until = Instant::now() + PATIENCE;
    let mut reason = None;
    while app.nodes().iter().any(|node| !node.model.filled) {
        match tokio::time::timeout_at(until, feeds.recv()).await {
            Ok(Some((node, event))) => {
                if let FeedEvent::Waiting { reason: why, .. } = &event {
                    reason = Some(why.clone());
                }
                app.handle(Event::Feed(node, event), wall_clock());
            }
            Ok(None) | Err(_) if app.is_filled() => return Ok(()),
            Ok(None) | Err(_) => {
                return Err(reason.map_or(OnceError::NoSnapshot, OnceError::NoDaemon));
            }
        }
    }
    Ok(())
}

/// One document: the node's snapshot, or with several nodes the snapshot of each beside its name.
pub fn json(app: &mut App) -> Result<String, OnceError> {
    let ids: Vec<_> = (0..app.nodes().len()).map(NodeId).collect();
    let json = match ids.as_slice() {
        [only] => serde_json::to_string(&app.shown(*only)),
        _ => {
            let nodes: Vec<_> = ids
                .into_iter()
                .map(|id| {
                    let (name, link) = (app.nodes()[id.0].name().to_owned(), app.nodes()[id.0].link.clone());
                    match link {
                        Link::Waiting { reason, .. } => serde_json::json!({ "node": name, "error": reason }),
                        _ => serde_json::json!({ "node": name, "snapshot": app.shown(id) }),
                    }
                })
                .collect();
            serde_json::to_string(&serde_json::json!({ "nodes": nodes }))
        }
    };
    Ok(json.map_err(|error| OnceError::Output(error.into()))? + "\n")
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

/// Prints every message as a line until the reader goes, with the name of its node where there are several. A
/// daemon that goes is waited for, and said so.
pub async fn stream(
    mut feeds: Feeds,
    names: &[Option<String>],
    out: &mut impl Write,
) -> Result<(), OnceError> {
    let mut gone =
        |entry: &Entry| match out.write_all(crate::record::line(entry).as_bytes()).and_then(|()| out.flush())
        {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(true),
            Err(error) => Err(OnceError::Output(error)),
            Ok(()) => Ok(false),
        };
    while let Some((node, event)) = feeds.recv().await {
        let node = names.get(node.0).cloned().flatten();
        match event {
            FeedEvent::Message(message) => {
                let Some(what) = What::from_message(message) else { continue };
                if gone(&Entry { at_ns: wall_clock(), node, what })? {
                    return Ok(());
                }
            }
            // The end of one recording; the last one ends the feeds.
            FeedEvent::Ended if names.len() == 1 => return Ok(()),
            FeedEvent::Waiting { reason, retry_in } => {
                let node = node.map(|node| format!("{node}: ")).unwrap_or_default();
                eprintln!("sandboxd-tui: {node}{reason}; trying again in {} ms", retry_in.as_millis());
            }
            FeedEvent::Notice(words) => eprintln!("sandboxd-tui: {words}"),
            FeedEvent::Connecting
            | FeedEvent::Live
            | FeedEvent::Ended
            | FeedEvent::Log { .. }
            | FeedEvent::LogEnded { .. }
            | FeedEvent::Acted { .. }
            | FeedEvent::Explained { .. }
            | FeedEvent::Timeline { .. }
            | FeedEvent::Answered { .. } => {}
        }
    }
    Ok(())
}
