//! The feed from a daemon: gRPC over its unix socket, reconnecting for ever.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use sandboxd_api::MAX_MESSAGE_SIZE;
use sandboxd_api::console::console_client::ConsoleClient;
use sandboxd_api::console::{ExplainCheckRequest, GetTimelineRequest, WatchRequest};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tower::service_fn;

use super::backoff::{self, Backoff};
use super::query::Query;
use super::{CHANNEL, Feed, FeedEvent, Request, wall_clock};
use crate::record::{Entry, Recorder, What};

/// How long the daemon may take to answer a call.
const ANSWER: Duration = Duration::from_secs(5);

/// Why there is no stream.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("cannot reach {path}: {why}")]
    Connect { path: String, why: String },
    #[error("{path} does not answer")]
    Silent { path: String },
    #[error("the daemon refused: {0}")]
    Refused(String),
    #[error("the daemon closed the stream")]
    Closed,
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// UNIMPLEMENTED comes from a socket that serves something else: the CRI's, most likely.
fn refused(path: &str, status: &tonic::Status) -> LinkError {
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
pub fn start(endpoint: PathBuf, recorder: Option<Recorder>) -> Feed {
    let (events_in, events) = mpsc::channel(CHANNEL);
    let (requests, requests_out) = mpsc::channel(16);
    let task = Task { endpoint, events: events_in, requests: requests_out, recorder };
    tokio::spawn(task.run());
    Feed { events, requests }
}

struct Task {
    endpoint: PathBuf,
    events: mpsc::Sender<FeedEvent>,
    requests: mpsc::Receiver<Request>,
    recorder: Option<Recorder>,
}

/// The console went: the feed has nobody left to talk to.
struct Gone;

impl Task {
    async fn run(mut self) {
        let mut backoff = Backoff::default();
        while let Ok(reason) = self.connection(&mut backoff).await {
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
        let path = self.endpoint.display().to_string();
        let opened = tokio::time::timeout(ANSWER, async {
            let channel = connect(&self.endpoint).await?;
            let stream = client(&channel).watch(WatchRequest::default()).await;
            let stream = stream.map_err(|status| refused(&path, &status))?;
            Ok::<_, LinkError>((channel, stream.into_inner()))
        });
        let (channel, mut stream) = match opened.await {
            Err(_) => return Ok(LinkError::Silent { path }),
            Ok(Err(error)) => return Ok(error),
            Ok(Ok(opened)) => opened,
        };
        self.tell(FeedEvent::Live).await?;
        // Answers come from tasks of their own: a slow one must not hold the stream up.
        let mut answers = JoinSet::new();
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        // Only a message proves that the daemon works: one that closes at once stays backed off.
                        backoff.reset();
                        if let Some(what) = self.recorder.is_some().then(|| What::from_message(message.clone())) {
                            self.record(what).await?;
                        }
                        self.tell(FeedEvent::Message(message)).await?;
                    }
                    Ok(None) => return Ok(LinkError::Closed),
                    Err(status) => return Ok(LinkError::Broken(status.message().to_owned())),
                },
                request = self.requests.recv() => {
                    answers.spawn(answer(channel.clone(), request.ok_or(Gone)?));
                }
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
                    let refused = || "not connected to the daemon".to_owned();
                    let answer = match request.ok_or(Gone)? {
                        Request::Explain { seq } => FeedEvent::Explained { seq, answer: Err(refused()) },
                        Request::Timeline { pod_id } => FeedEvent::Timeline { pod_id, answer: Err(refused()) },
                        Request::Read(query) => FeedEvent::Answered { query, answer: Err(refused()) },
                    };
                    self.tell(answer).await?;
                }
            }
        }
    }

    async fn record_answer(&mut self, answer: &FeedEvent) -> Result<(), Gone> {
        let what = match answer {
            _ if self.recorder.is_none() => None,
            FeedEvent::Explained { answer: Ok(explained), .. } => Some(What::Explained(explained.clone())),
            FeedEvent::Answered { answer: Ok(answer), .. } => Some(What::Answered(answer.clone())),
            _ => None,
        };
        self.record(what).await
    }

    async fn record(&mut self, what: Option<What>) -> Result<(), Gone> {
        let (Some(recorder), Some(what)) = (&mut self.recorder, what) else {
            return Ok(());
        };
        let Err(error) = recorder.write(&Entry { at_ns: wall_clock(), what }) else {
            return Ok(());
        };
        // A full disk must not take the console with it; the operator learns that the recording ended.
        self.recorder = None;
        self.tell(FeedEvent::Notice(format!("recording stopped: {error}"))).await
    }
}

async fn connect(path: &Path) -> Result<Channel, LinkError> {
    let socket = path.to_owned();
    // The address is never used: the connector goes to the socket.
    Endpoint::from_static("http://console.invalid")
        .connect_with_connector(service_fn(move |_| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await
        .map_err(|error| LinkError::Connect { path: path.display().to_string(), why: root_cause(&error) })
}

fn client(channel: &Channel) -> ConsoleClient<Channel> {
    ConsoleClient::new(channel.clone()).max_decoding_message_size(MAX_MESSAGE_SIZE)
}

/// The innermost error: "No such file or directory" says more than "transport error".
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    cause.to_string()
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
    }
}
