//! The feed from a daemon: gRPC over its Unix socket or over TLS, reconnecting for ever.

use std::time::Duration;

use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::backoff::{self, Backoff};
use sandboxd_api::console::console_client::ConsoleClient;
use sandboxd_api::console::{ExplainCheckRequest, GetTimelineRequest, WatchRequest};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tonic::transport::Channel;

use super::connect::{LinkError, connect, root_cause};
use super::log::Logs;
use super::query::Query;
use super::target::Target;
use super::{CHANNEL, Feed, FeedEvent, Request, act, wall_clock};
use crate::record::{Recording, What};

/// How long the daemon may take to answer a call.
const ANSWER: Duration = Duration::from_secs(5);

/// UNIMPLEMENTED comes from a socket that serves something else: the CRI's, most likely.
fn refused(path: &str, status: &tonic::Status) -> LinkError {
    // No answer of the daemon's: what broke is inside.
    if let Some(inner) = std::error::Error::source(status) {
        return LinkError::Connect { path: path.to_owned(), why: root_cause(inner) };
    }
    let words = match status.code() {
        tonic::Code::Unimplemented => {
            format!("{path} is no console socket; the default is /run/sandboxd/console.sock")
        }
        _ if status.message().is_empty() => status.code().to_string(),
        _ => status.message().to_owned(),
    };
    LinkError::Refused(words)
}

/// Starts the feed. It ends when the console drops its side.
pub fn start(target: Target, recording: Option<Recording>) -> Feed {
    let (events_in, events) = mpsc::channel(CHANNEL);
    let (requests, requests_out) = mpsc::channel(16);
    let (connected, channel) = watch::channel(None);
    let task = Task { target, events: events_in, requests: requests_out, recording, connected };
    tokio::spawn(task.run());
    Feed { events, requests, channel }
}

struct Task {
    target: Target,
    events: mpsc::Sender<FeedEvent>,
    requests: mpsc::Receiver<Request>,
    recording: Option<Recording>,
    connected: watch::Sender<Option<Channel>>,
}

/// The console went: the feed has nobody left to talk to.
struct Gone;

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Ok(reason) = self.connection(&mut backoff).await {
            self.connected.send_replace(None);
            let retry_in = backoff.next(backoff::random());
            let waiting = FeedEvent::Waiting { reason: crate::text::clean(&reason.to_string()), retry_in };
            if self.tell(waiting).await.is_err() || self.wait(retry_in).await.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, event: FeedEvent) -> Result<(), Gone> {
        self.events.send(event).await.map_err(|_| Gone)
    }

    /// One connection from its start to its end: why it ended.
    async fn connection(&mut self, backoff: &mut Backoff) -> Result<LinkError, Gone> {
        self.tell(FeedEvent::Connecting).await?;
        let path = self.target.address.to_string();
        let opened = tokio::time::timeout(ANSWER, async {
            let channel = connect(&self.target).await?;
            let stream = client(&channel).watch(WatchRequest::default()).await;
            let stream = stream.map_err(|status| refused(&path, &status))?;
            Ok::<_, LinkError>((channel, stream.into_inner()))
        });
        let (channel, mut stream) = match opened.await {
            Err(_) => return Ok(LinkError::Silent { path }),
            Ok(Err(error)) => return Ok(error),
            Ok(Ok(opened)) => opened,
        };
        self.connected.send_replace(Some(channel.clone()));
        self.tell(FeedEvent::Live).await?;
        let mut logs = Logs::default();
        // Answers come from tasks of their own: a slow one must not hold the stream up.
        let mut answers = JoinSet::new();
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        // Only a message proves that the daemon works: one that closes at once stays backed off.
                        backoff.reset();
                        if let Some(what) = self.recording.is_some().then(|| What::from_message(message.clone())) {
                            self.record(what).await?;
                        }
                        self.tell(FeedEvent::Message(message)).await?;
                    }
                    Ok(None) => return Ok(LinkError::Closed),
                    Err(status) => {
                        let inner = std::error::Error::source(&status);
                        let why = inner.map_or_else(|| status.message().to_owned(), root_cause);
                        return Ok(LinkError::Broken(why));
                    }
                },
                request = self.requests.recv() => match request.ok_or(Gone)? {
                    Request::Follow(follow) => {
                        let recording = self.recording.clone();
                        logs.follow(follow, channel.clone(), self.events.clone(), recording);
                    }
                    Request::Unfollow => logs.end(),
                    request => drop(answers.spawn(answer(channel.clone(), request))),
                },
                Some(Ok(answer)) = answers.join_next(), if !answers.is_empty() => {
                    self.record_answer(&answer).await?;
                    self.tell(answer).await?;
                }
            }
        }
    }

    /// Waits until the next attempt; what is asked meanwhile cannot be answered.
    async fn wait(&mut self, retry_in: Duration) -> Result<(), Gone> {
        let until = tokio::time::Instant::now() + retry_in;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(()),
                request = self.requests.recv() => {
                    if let Some(answer) = request.ok_or(Gone)?.refused("not connected to the daemon") {
                        self.tell(answer).await?;
                    }
                }
            }
        }
    }

    async fn record_answer(&mut self, answer: &FeedEvent) -> Result<(), Gone> {
        let what = match answer {
            _ if self.recording.is_none() => None,
            FeedEvent::Explained { answer: Ok(explained), .. } => Some(What::Explained(explained.clone())),
            FeedEvent::Answered { answer: Ok(answer), .. } => Some(What::Answered(answer.clone())),
            _ => None,
        };
        self.record(what).await
    }

    async fn record(&mut self, what: Option<What>) -> Result<(), Gone> {
        let (Some(recording), Some(what)) = (&self.recording, what) else {
            return Ok(());
        };
        let Err(error) = recording.write(wall_clock(), what) else {
            return Ok(());
        };
        // A full disk must not take the console with it; the operator learns that the recording ended.
        self.recording = None;
        self.tell(FeedEvent::Notice(format!("recording stopped: {error}"))).await
    }
}

fn client(channel: &Channel) -> ConsoleClient<Channel> {
    ConsoleClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

async fn answer(channel: Channel, request: Request) -> FeedEvent {
    let mut client = client(&channel);
    let late = || format!("the daemon did not answer within {} s", ANSWER.as_secs());
    let words = |status: tonic::Status| crate::text::clean(status.message());
    match request {
        Request::Explain { seq } => {
            let answer =
                tokio::time::timeout(ANSWER, client.explain_check(ExplainCheckRequest { seq })).await;
            let answer = answer.map_err(|_| late()).and_then(|answer| answer.map_err(words));
            FeedEvent::Explained { seq, answer: answer.map(tonic::Response::into_inner) }
        }
        Request::Timeline { pod_id } => {
            let call = client.get_timeline(GetTimelineRequest { pod_id: pod_id.clone() });
            let answer = tokio::time::timeout(ANSWER, call).await;
            let answer = answer.map_err(|_| late()).and_then(|answer| answer.map_err(words));
            let answer = answer.map(|answer| answer.into_inner().timeline.unwrap_or_default());
            FeedEvent::Timeline { pod_id, answer }
        }
        Request::Read(query) => {
            let answer = tokio::time::timeout(ANSWER, query.ask(channel)).await;
            let answer = answer.map_err(|_| late());
            let answer = answer.and_then(|answer| answer.map_err(|status| Query::refusal(&status)));
            FeedEvent::Answered { query, answer }
        }
        Request::Act(action) => {
            let answer = act::act(channel, &action).await;
            FeedEvent::Acted { action, answer }
        }
        // Taken care of where the stream is read.
        Request::Follow(_) | Request::Unfollow => FeedEvent::Notice(String::new()),
    }
}
