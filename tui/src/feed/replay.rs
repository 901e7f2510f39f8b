//! The feed from a recording. Explanations that were asked for while recording are answered from it.

use std::collections::HashMap;
use std::time::Duration;

use sandboxd_api::console::{Delta, ExplainCheckResponse, WatchResponse, watch_response};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{CHANNEL, Feed, FeedEvent, Request};
use crate::record::{Change, Entry, What};

/// What a recording says to what is not in it.
const MISSING: &str = "not part of this recording";

/// The message of an entry; an explanation is none.
pub fn message(what: What) -> Option<WatchResponse> {
    let message = match what {
        What::Snapshot(snapshot) => watch_response::Message::Snapshot(snapshot),
        What::Delta(Change { time_ns, change }) => {
            watch_response::Message::Delta(Delta { time_ns, change: Some(change) })
        }
        What::Explained(_) => return None,
    };
    Some(WatchResponse { message: Some(message) })
}

/// Starts playing at the recording's own pace.
pub fn start(entries: Vec<Entry>) -> Feed {
    let base_ns = entries.first().map_or(0, |entry| entry.at_ns);
    start_at(entries, base_ns)
}

/// Starts playing with what came later than `base_ns` by as much later: nodes recorded together stay together.
pub fn start_at(entries: Vec<Entry>, base_ns: i64) -> Feed {
    let (events_in, events) = mpsc::channel(CHANNEL);
    let (requests, requests_out) = mpsc::channel(16);
    tokio::spawn(async move {
        // The console going is the only way out, and needs no word.
        let _gone = play(entries, base_ns, &events_in, requests_out).await;
    });
    Feed { events, requests, channel: watch::channel(None).1 }
}

async fn play(
    entries: Vec<Entry>,
    base_ns: i64,
    events: &mpsc::Sender<FeedEvent>,
    mut requests: mpsc::Receiver<Request>,
) -> Result<(), mpsc::error::SendError<FeedEvent>> {
    let explained: HashMap<u64, ExplainCheckResponse> = entries
        .iter()
        .filter_map(|entry| match &entry.what {
            What::Explained(answer) => answer.check.as_ref().map(|check| (check.seq, answer.clone())),
            What::Snapshot(_) | What::Delta(_) => None,
        })
        .collect();
    events.send(FeedEvent::Live).await?;
    let mut due = Instant::now();
    let mut last_ns = base_ns;
    for entry in entries {
        let gap = Duration::from_nanos(entry.at_ns.saturating_sub(last_ns).try_into().unwrap_or(0));
        last_ns = entry.at_ns;
        due += gap;
        loop {
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(request) => {
                        if let Some(answer) = answer(&explained, request) {
                            events.send(answer).await?;
                        }
                    }
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(due) => break,
            }
        }
        if let Some(message) = message(entry.what) {
            events.send(FeedEvent::Message(message)).await?;
        }
    }
    events.send(FeedEvent::Ended).await?;
    while let Some(request) = requests.recv().await {
        if let Some(answer) = answer(&explained, request) {
            events.send(answer).await?;
        }
    }
    Ok(())
}

fn answer(explained: &HashMap<u64, ExplainCheckResponse>, request: Request) -> Option<FeedEvent> {
    match &request {
        Request::Explain { seq } if explained.contains_key(seq) => {
            explained.get(seq).map(|answer| FeedEvent::Explained { seq: *seq, answer: Ok(answer.clone()) })
        }
        _ => request.refused(MISSING),
    }
}
