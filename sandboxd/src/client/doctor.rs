//! What `sandboxd doctor` asks a daemon that runs: its observer's counts. All else it finds out by itself.

use std::io::ErrorKind;
use std::time::Duration;

use sandboxd_api::console::watch_response::Message;
use sandboxd_api::console::{Observer, WatchRequest};

use super::connection::{connect, refused};
use super::{ClientError, ConsoleArgs};
use crate::doctor::{Check, counts};

/// How long a daemon may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// The check of the counts; none where no daemon runs, which is no fault of the node.
pub async fn observer_counts(args: &ConsoleArgs) -> Option<Check> {
    let asked = tokio::time::timeout(ANSWER, ask(args)).await;
    let problem = match asked {
        Ok(Ok(observer)) => return counts(&observer?),
        Ok(Err(ClientError::NoDaemon { source, .. }))
            if matches!(source.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
        {
            return None;
        }
        Ok(Err(error)) => {
            let cause = std::error::Error::source(&error).map(|cause| format!(" ({cause})"));
            format!("{error}{}", cause.unwrap_or_default())
        }
        Err(_) => format!("the daemon did not answer within {} s", ANSWER.as_secs()),
    };
    Some(Check::warn("observer counts", format!("not known: {problem}"), "look at the daemon's log"))
}

async fn ask(args: &ConsoleArgs) -> Result<Option<Observer>, ClientError> {
    let path = args.socket()?;
    let mut client = connect(&path).await?;
    let request = WatchRequest { recent_checks: 1 };
    let mut stream = client.watch(request).await.map_err(|status| refused(&path, &status))?.into_inner();
    let first = stream.message().await.map_err(|status| refused(&path, &status))?;
    Ok(match first.and_then(|response| response.message) {
        Some(Message::Snapshot(snapshot)) => snapshot.observer,
        _ => None,
    })
}
