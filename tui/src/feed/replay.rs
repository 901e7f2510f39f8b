//! The feed from a recording. Explanations that were asked for while recording are answered from it.

use std::collections::HashMap;
use std::time::Duration;

use sandboxd_api::console::{Delta, ExplainCheckResponse, WatchResponse, watch_response};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{CHANNEL, Feed, FeedEvent, Request};
use crate::record::{Change, Entry, What};

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
    let (events_in, events) = mpsc::channel(CHANNEL);
    let (requests, requests_out) = mpsc::channel(16);
    tokio::spawn(async move {
        // The console going is the only way out, and needs no word.
        let _gone = play(entries, &events_in, requests_out).await;
    });
    Feed { events, requests }
}

async fn play(
    entries: Vec<Entry>,
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
    let mut last_ns = entries.first().map_or(0, |entry| entry.at_ns);
    for entry in entries {
        let gap = Duration::from_nanos(entry.at_ns.saturating_sub(last_ns).try_into().unwrap_or(0));
        last_ns = entry.at_ns;
        due += gap;
        loop {
            tokio::select! {
                biased;
                request = requests.recv() => match request {
                    Some(request) => events.send(answer(&explained, request)).await?,
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
        events.send(answer(&explained, request)).await?;
    }
    Ok(())
}

fn answer(explained: &HashMap<u64, ExplainCheckResponse>, request: Request) -> FeedEvent {
    match request {
        Request::Explain { seq } => {
            let answer = explained.get(&seq).cloned();
            FeedEvent::Explained {
                seq,
                answer: answer.ok_or_else(|| "not part of this recording".to_owned()),
            }
        }
        Request::Timeline { pod_id } => {
            FeedEvent::Timeline { pod_id, answer: Err("not part of this recording".to_owned()) }
        }
    }
}
