//! The feed from a recording. What was asked for while recording is answered from it: an explanation or a log
//! whenever it is asked for, a reading as it was at that time of the recording, or the first one after it.

use std::collections::HashMap;
use std::time::Duration;

use sandboxd_api::console::{Delta, ExplainCheckResponse, LogLine, WatchResponse, watch_response};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::log::Follow;
use super::query::Answer;
use super::{CHANNEL, Feed, FeedEvent, Request};
use crate::record::{Change, Entry, LogPart, What};

/// What a recording says to what is not in it.
const MISSING: &str = "not part of this recording";

/// The message of an entry; an answer is none.
pub fn message(what: What) -> Option<WatchResponse> {
    let message = match what {
        What::Snapshot(snapshot) => watch_response::Message::Snapshot(snapshot),
        What::Delta(Change { time_ns, change }) => {
            watch_response::Message::Delta(Delta { time_ns, change: Some(change) })
        }
        What::Explained(_) | What::Answered(_) | What::Log(_) => return None,
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
    let answers = Answers::of(&entries);
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
                        for answer in answers.to(request, last_ns) {
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
        for answer in answers.to(request, i64::MAX) {
            events.send(answer).await?;
        }
    }
    Ok(())
}

/// What was answered while recording.
#[derive(Debug, Default)]
pub struct Answers {
    explained: HashMap<u64, ExplainCheckResponse>,
    /// With their times, oldest first.
    readings: Vec<(i64, Answer)>,
    /// By container.
    logs: HashMap<String, RecordedLog>,
}

/// A log as far as it was read.
#[derive(Debug, Default)]
struct RecordedLog {
    lines: Vec<LogLine>,
    ended: Option<String>,
}

impl RecordedLog {
    fn take(&mut self, part: &LogPart) {
        if part.anew {
            self.lines.clear();
        }
        self.lines.extend(part.lines.iter().cloned().map(Into::into));
        self.ended.clone_from(&part.ended);
    }

    fn answer(&self, follow: &Follow) -> Vec<FeedEvent> {
        let lines = self.lines.iter().filter(|line| line.time_ns >= follow.since_ns).cloned().collect();
        let container_id = || follow.container_id.clone();
        // Cut off by the recording's end it is open still, with nothing more to come.
        let ended = self.ended.iter().map(|why| FeedEvent::LogEnded {
            container_id: container_id(),
            ended: if why.is_empty() { Ok(()) } else { Err(why.clone()) },
        });
        [FeedEvent::Log { container_id: container_id(), lines }].into_iter().chain(ended).collect()
    }
}

impl Answers {
    pub fn of(entries: &[Entry]) -> Self {
        let mut answers = Self::default();
        for entry in entries {
            match &entry.what {
                What::Explained(answer) => {
                    answers.explained.extend(answer.check.as_ref().map(|check| (check.seq, answer.clone())));
                }
                What::Answered(answer) => answers.readings.push((entry.at_ns, answer.clone())),
                What::Log(part) => answers.logs.entry(part.container_id.clone()).or_default().take(part),
                What::Snapshot(_) | What::Delta(_) => {}
            }
        }
        answers
    }

    /// The answers at that time of the recording; none where none is waited for. Of readings that were repeated, the
    /// one before it comes first: what grows has a rate only between two.
    pub fn to(&self, request: Request, at_ns: i64) -> Vec<FeedEvent> {
        match &request {
            Request::Explain { seq } => {
                if let Some(answer) = self.explained.get(seq) {
                    return vec![FeedEvent::Explained { seq: *seq, answer: Ok(answer.clone()) }];
                }
            }
            Request::Read(query) => {
                let fitting: Vec<_> =
                    self.readings.iter().filter(|(_, answer)| answer.answers(query)).collect();
                let newest = fitting.partition_point(|(when, _)| *when <= at_ns).max(1).min(fitting.len());
                let last_two = &fitting[newest.saturating_sub(2)..newest];
                let answered = |answer: &Answer| FeedEvent::Answered {
                    query: query.clone(),
                    answer: Ok(answer.clone()),
                };
                if !last_two.is_empty() {
                    return last_two.iter().map(|(_, answer)| answered(answer)).collect();
                }
            }
            Request::Follow(follow) => {
                if let Some(log) = self.logs.get(&follow.container_id) {
                    return log.answer(follow);
                }
            }
            _ => {}
        }
        request.refused(MISSING).into_iter().collect()
    }
}
