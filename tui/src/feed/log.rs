//! The log that is followed: one at a time, as there is one screen.

use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console::ReadLogRequest;
use sandboxd_api::console::console_client::ConsoleClient;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::{FeedEvent, wall_clock};
use crate::record::{LogPart, Recording, What};

/// What to read of which log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Follow {
    pub container_id: String,
    /// 0: from the beginning of what is asked for.
    pub tail_lines: u32,
    pub since_ns: i64,
}

/// Reads in a task of its own: a log that comes fast must not hold the stream of the pods up.
#[derive(Debug, Default)]
pub(super) struct Logs {
    reading: JoinSet<()>,
}

impl Logs {
    pub fn end(&mut self) {
        self.reading.abort_all();
        while self.reading.try_join_next().is_some() {}
    }

    pub fn follow(
        &mut self,
        follow: Follow,
        channel: Channel,
        events: mpsc::Sender<FeedEvent>,
        recording: Option<Recording>,
    ) {
        self.end();
        self.reading.spawn(async move {
            let part = LogPart {
                container_id: follow.container_id.clone(),
                anew: follow.since_ns == 0,
                lines: Vec::new(),
                ended: None,
            };
            let mut recorded = Recorded { part, recording, events: events.clone() };
            let ended = read(&follow, channel, &events, &mut recorded).await;
            recorded.part.ended = Some(ended.clone().err().unwrap_or_default());
            recorded.write().await;
            // The console is gone: nobody is left to tell.
            let _ = events.send(FeedEvent::LogEnded { container_id: follow.container_id, ended }).await;
        });
    }
}

/// What goes into the recording of it, where there is one.
struct Recorded {
    part: LogPart,
    recording: Option<Recording>,
    events: mpsc::Sender<FeedEvent>,
}

impl Recorded {
    async fn write(&mut self) {
        let Some(recording) = &self.recording else { return };
        let next = LogPart { anew: false, lines: Vec::new(), ..self.part.clone() };
        let part = std::mem::replace(&mut self.part, next);
        if let Err(error) = recording.write(wall_clock(), What::Log(part)) {
            self.recording = None;
            let _ = self.events.send(FeedEvent::Notice(format!("recording stopped: {error}"))).await;
        }
    }
}

async fn read(
    follow: &Follow,
    channel: Channel,
    events: &mpsc::Sender<FeedEvent>,
    recorded: &mut Recorded,
) -> Result<(), String> {
    let words = |status: tonic::Status| match status.message() {
        "" => status.code().to_string(),
        words => crate::text::clean(words),
    };
    let Follow { container_id, tail_lines, since_ns } = follow.clone();
    let request = ReadLogRequest { container_id: container_id.clone(), follow: true, tail_lines, since_ns };
    let mut client = ConsoleClient::new(channel).max_decoding_message_size(MAX_MESSAGE_SIZE);
    let mut stream = client.read_log(request).await.map_err(words)?.into_inner();
    // It was read, though it may have no line yet.
    recorded.write().await;
    while let Some(answer) = stream.message().await.map_err(words)? {
        if recorded.recording.is_some() {
            recorded.part.lines = answer.lines.iter().map(Into::into).collect();
            recorded.write().await;
        }
        let event = FeedEvent::Log { container_id: container_id.clone(), lines: answer.lines };
        if events.send(event).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
