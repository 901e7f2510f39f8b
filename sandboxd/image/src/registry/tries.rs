//! Trying again, and the next host: how often, after which pause, and which error to tell in the end.

use std::time::Duration;

use super::HttpSettings;
use super::client::Registry;
use super::error::{Cause, RegistryError};
use super::host::Host;
use super::hosts::Endpoint;

/// A registry that asks to wait longer is given up.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Tries at a mirror: the next host is there.
const MIRROR_ATTEMPTS: u32 = 2;

/// The tries of one thing at one host.
pub(super) struct Tries<'a> {
    registry: &'a Registry,
    left: u32,
    done: u32,
}

impl<'a> Tries<'a> {
    pub(super) fn new(registry: &'a Registry, host: &Host) -> Self {
        Self { registry, left: attempts(&registry.settings, &host.endpoint), done: 0 }
    }

    /// Returns when it is time to try again.
    pub(super) async fn wait_or_fail(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        self.left = self.left.saturating_sub(1);
        self.done += 1;
        let Some(pause) = error.pause(self.registry.pause(self.done)).filter(|_| self.left > 0) else {
            return Err(error);
        };
        tracing::debug!(error = %crate::error::chain(&error), ?pause, "asking the registry again");
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

impl RegistryError {
    /// How long to wait before the next try; `None`: do not.
    pub(crate) fn pause(&self, backoff: Duration) -> Option<Duration> {
        match self {
            Self::TooMany { after: Some(after), .. }
            | Self::Unavailable { cause: Cause::Status { after: Some(after), .. }, .. } => {
                (*after <= RETRY_AFTER_MAX).then_some((*after).max(backoff))
            }
            Self::Unavailable { cause: Cause::Transport { settled: true, .. }, .. } => None,
            error => error.is_passing().then_some(backoff),
        }
    }
}

pub(super) fn attempts(settings: &HttpSettings, endpoint: &Endpoint) -> u32 {
    if endpoint.is_mirror { settings.attempts.min(MIRROR_ATTEMPTS) } else { settings.attempts.max(1) }
}

/// Doubles, within bounds, and not the same for everybody.
pub(super) fn backoff(settings: &HttpSettings, tried: u32) -> Duration {
    let whole = settings.backoff.saturating_mul(1 << tried.saturating_sub(1).min(10)).min(BACKOFF_MAX);
    let spread = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    whole.mul_f64(0.75 + f64::from(spread.subsec_nanos() % 1000) / 2000.0)
}

/// Seconds, or a date.
pub(super) fn retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text.trim()).ok()?;
    Some(Duration::try_from(jiff::Timestamp::now().duration_until(date.timestamp())).unwrap_or_default())
}

/// What went wrong at each host that was asked.
#[derive(Default)]
pub(super) struct Failures(Vec<RegistryError>);

impl Failures {
    pub(super) fn add(&mut self, error: RegistryError, endpoint: &Endpoint) {
        tracing::debug!(host = endpoint.authority(), error = %crate::error::chain(&error), "asking the next host");
        self.0.push(error);
    }

    /// Whether the last host could not agree on TLS.
    pub(super) fn of_tls(&self) -> bool {
        let last = self.0.last();
        last.is_some_and(|e| {
            matches!(e, RegistryError::Unavailable { cause: Cause::Transport { tls: true, .. }, .. })
        })
    }

    /// The error to tell. The registry is asked last and its word counts; but of a loopback registry asked over
    /// https and then http, what was answered counts more than that nobody was there.
    pub(super) fn worst(mut self) -> Option<RegistryError> {
        let last = self.0.pop()?;
        if !last.is_passing() {
            return Some(last);
        }
        let answered = self.0.into_iter().rev().find(|e| {
            matches!(
                e,
                RegistryError::Unauthorized { .. }
                    | RegistryError::Denied { .. }
                    | RegistryError::PlainCredentials { .. }
            )
        });
        Some(answered.unwrap_or(last))
    }
}
