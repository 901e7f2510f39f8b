//! `sandboxd events`: what happens on the node, a line each: capability checks, events of the life cycle, changes of
//! pods and containers.
//!
//! ```text
//!  connected ──▶ lines … ──(the daemon went, or this was too slow)──▶ a gap is a line ──▶ connected again …
//! ```
//!
//! Memory is bounded: a line that cannot be written holds the stream up, and the daemon leaves out what piles up
//! behind it and says how much.

mod line;
mod output;
mod seen;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::FutureExt as _;
use sandboxd_api::backoff::{self, Backoff};
use sandboxd_api::console::delta::Change;
use sandboxd_api::console::watch_response::Message;
use sandboxd_api::console::{ListChecksRequest, ListEventsRequest, Snapshot, WatchRequest, WatchResponse};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::{Code, Streaming};

use super::connection::{connect, refused};
use super::{ClientError, ConsoleArgs};
use crate::pod::now_ns;
use line::{Filter, Line};
use output::{Output, Written};
use seen::Seen;

#[derive(Debug, Args)]
pub struct EventsArgs {
    /// What happens from now on, until it is interrupted; without it what is recorded
    #[arg(long)]
    pub follow: bool,
    /// Print JSON, an object a line
    #[arg(long)]
    pub json: bool,
    /// Append to this file instead of standard output; SIGHUP opens it anew
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Of this pod, by its id, the beginning of that, or its "namespace/name"
    #[arg(long, value_name = "P")]
    pub pod: Option<String>,
    /// Checks that were denied or refused, and nothing else
    #[arg(long)]
    pub denied: bool,
    /// Only these: check, event, pod, container, or a kind of event such as pod-failed; may be given several times
    #[arg(long, value_name = "K")]
    pub kind: Vec<String>,
    #[command(flatten)]
    pub console: ConsoleArgs,
}

/// Recorded ones that are asked for at once.
const RECORDED: u32 = 100_000;

/// Carries the command out.
///
/// # Errors
/// When there is no daemon at first, or the output cannot be written.
pub async fn run(args: &EventsArgs) -> Result<(), ClientError> {
    let path = args.console.socket()?;
    let output = Output::open(args.output.as_deref())?;
    let filter = Filter { pod: args.pod.clone(), denied: args.denied, kinds: args.kind.clone() };
    if !args.follow {
        return recorded(&path, &filter, args.json, output).await;
    }
    let signals = Signals::install()?;
    let follower = Follower { filter, json: args.json, output, signals, seen: Seen::default() };
    follower.run(&path).await
}

/// What the daemon remembers, in the order of time.
async fn recorded(path: &Path, filter: &Filter, json: bool, mut output: Output) -> Result<(), ClientError> {
    let mut client = connect(path).await?;
    let request =
        ListChecksRequest { denied_only: filter.denied, limit: RECORDED, ..ListChecksRequest::default() };
    let checks =
        client.list_checks(request).await.map_err(|status| refused(path, &status))?.into_inner().checks;
    let events =
        client.list_events(ListEventsRequest { limit: RECORDED, ..ListEventsRequest::default() }).await;
    let events = match events {
        Ok(listed) => listed.into_inner().events,
        Err(status) if status.code() == Code::Unimplemented => Vec::new(),
        Err(status) => return Err(refused(path, &status)),
    };
    let mut lines: Vec<_> =
        checks.into_iter().map(Line::Check).chain(events.into_iter().map(Line::Event)).collect();
    lines.sort_by_key(Line::time_ns);
    for line in lines.iter().filter(|line| filter.takes(line)) {
        if output.write(&line.text(json)?)? == Written::ReaderGone {
            return Ok(());
        }
    }
    output.flush().map(drop)
}

struct Follower {
    filter: Filter,
    json: bool,
    output: Output,
    signals: Signals,
    seen: Seen,
}

/// Why the following ends, or a connection.
enum End {
    /// Asked to, or nobody reads any more.
    Quiet,
    /// The connection is gone.
    Lost(String),
}

impl Follower {
    async fn run(mut self, path: &Path) -> Result<(), ClientError> {
        let mut backoff = Backoff::default();
        let mut connected = false;
        loop {
            let end = match self.connection(path, &mut backoff).await {
                Ok(end) => {
                    connected = true;
                    end
                }
                // Started without a daemon: a mistake worth an error. Later it is coming back.
                Err(error @ (ClientError::NoDaemon { .. } | ClientError::Broken(_))) if connected => {
                    End::Lost(error.to_string())
                }
                Err(error) => return Err(error),
            };
            match end {
                End::Quiet => return self.output.flush().map(drop),
                End::Lost(why) => {
                    // One line a gap, not one for each attempt to end it.
                    if let Some(gap) = self.seen.lost(&why)
                        && self.line(&gap)? == Written::ReaderGone
                    {
                        return Ok(());
                    }
                }
            }
            if self.output.flush()? == Written::ReaderGone {
                return Ok(());
            }
            if self.wait(backoff.next(backoff::random())).await? {
                return self.output.flush().map(drop);
            }
        }
    }

    /// One connection to its end.
    async fn connection(&mut self, path: &Path, backoff: &mut Backoff) -> Result<End, ClientError> {
        let mut client = connect(path).await?;
        let watched = client.watch(WatchRequest::default()).await;
        let mut stream = watched.map_err(|status| refused(path, &status))?.into_inner();
        loop {
            let message = match self.next(&mut stream).await? {
                Next::Message(message) => message,
                Next::Lost(why) => return Ok(End::Lost(why)),
                Next::Ended => return Ok(End::Quiet),
            };
            backoff.reset();
            if self.message(message)? == Written::ReaderGone {
                return Ok(End::Quiet);
            }
        }
    }

    /// The next message. What was written is flushed before this waits.
    async fn next(&mut self, stream: &mut Streaming<WatchResponse>) -> Result<Next, ClientError> {
        let ready = stream.message().now_or_never();
        let message = match ready {
            Some(message) => message,
            None => {
                if self.output.flush()? == Written::ReaderGone {
                    return Ok(Next::Ended);
                }
                loop {
                    tokio::select! {
                        message = stream.message() => break message,
                        told = self.signals.next() => match told {
                            Told::Reopen => self.output.reopen()?,
                            Told::End => return Ok(Next::Ended),
                        },
                    }
                }
            }
        };
        // A stream that never pauses must not keep the signals waiting.
        match self.signals.next().now_or_never() {
            Some(Told::Reopen) => self.output.reopen()?,
            Some(Told::End) => return Ok(Next::Ended),
            None => {}
        }
        Ok(match message {
            Ok(Some(message)) => Next::Message(message),
            Ok(None) => Next::Lost("the daemon ended".to_owned()),
            Err(status) => Next::Lost(status.message().to_owned()),
        })
    }

    fn message(&mut self, message: WatchResponse) -> Result<Written, ClientError> {
        match message.message {
            Some(Message::Snapshot(snapshot)) => self.snapshot(snapshot),
            Some(Message::Delta(delta)) => {
                let Some(change) = delta.change else { return Ok(Written::Done) };
                let at = if delta.time_ns == 0 { now_ns() } else { delta.time_ns };
                let line = match change {
                    Change::Check(check) => self.seen.check(check),
                    Change::Event(event) => self.seen.event(event),
                    Change::Pod(pod) => self.seen.pod(at, &pod),
                    Change::PodRemoved(id) => self.seen.pod_removed(at, &id),
                    Change::Container(container) => self.seen.container(at, &container),
                    Change::ContainerRemoved(id) => self.seen.container_removed(at, &id),
                    Change::Lagged(lagged) => self.seen.lagged(at, lagged.messages),
                    Change::Observer(_) | Change::Node(_) => None,
                };
                line.map_or(Ok(Written::Done), |line| self.line(&line))
            }
            None => Ok(Written::Done),
        }
    }

    /// The first snapshot is what was before; a later one closes a gap as far as it can.
    fn snapshot(&mut self, snapshot: Snapshot) -> Result<Written, ClientError> {
        for line in self.seen.snapshot(snapshot) {
            if self.line(&line)? == Written::ReaderGone {
                return Ok(Written::ReaderGone);
            }
        }
        Ok(Written::Done)
    }

    fn line(&mut self, line: &Line) -> Result<Written, ClientError> {
        if !self.filter.takes(line) {
            return Ok(Written::Done);
        }
        self.output.write(&line.text(self.json)?)
    }

    /// Waits for the next attempt. `true`: asked to end.
    async fn wait(&mut self, pause: Duration) -> Result<bool, ClientError> {
        let until = tokio::time::Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return Ok(false),
                told = self.signals.next() => match told {
                    Told::Reopen => self.output.reopen()?,
                    Told::End => return Ok(true),
                },
            }
        }
    }
}

#[expect(clippy::large_enum_variant, reason = "made and taken apart at once, never kept")]
enum Next {
    Message(WatchResponse),
    Lost(String),
    Ended,
}

/// What ends the following, and what opens its file anew.
struct Signals {
    hangup: Signal,
    term: Signal,
    interrupt: Signal,
}

impl Signals {
    fn install() -> Result<Self, ClientError> {
        let on = |kind| signal(kind).map_err(ClientError::Signals);
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            term: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    /// Cancel safe.
    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.hangup.recv() => Told::Reopen,
            _ = self.term.recv() => Told::End,
            _ = self.interrupt.recv() => Told::End,
        }
    }
}

/// What a signal asks for.
enum Told {
    Reopen,
    End,
}
