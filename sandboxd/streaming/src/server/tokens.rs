//! Tokens: unguessable, good once, for a minute.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::backend::Target;

/// How long a client has to use its URL.
pub(super) const LIFETIME: Duration = Duration::from_secs(60);
/// Tokens that are out at once.
pub(super) const MAX: usize = 1000;
/// 256 bits.
const BYTES: usize = 32;

/// No token can be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    #[error("{MAX} streaming URLs wait for their clients already: use one, or wait a minute")]
    TooMany,
    #[error("no random numbers for a streaming URL: {source}")]
    Random {
        #[source]
        source: getrandom::Error,
    },
}

/// The tokens that are out.
#[derive(Default)]
pub(super) struct Tokens(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    targets: HashMap<String, Target>,
    /// In the order in which they expire; of those used early the entry stays until then.
    expiry: VecDeque<(Instant, String)>,
}

impl Tokens {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.expire();
        inner
    }

    pub(super) fn insert(&self, target: Target) -> Result<String, Full> {
        let mut inner = self.lock();
        if inner.targets.len() >= MAX {
            return Err(Full::TooMany);
        }
        let mut bytes = [0u8; BYTES];
        getrandom::fill(&mut bytes).map_err(|source| Full::Random { source })?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        inner.expiry.push_back((Instant::now() + LIFETIME, token.clone()));
        inner.targets.insert(token.clone(), target);
        Ok(token)
    }

    /// Takes the token away.
    pub(super) fn take(&self, token: &str) -> Option<Target> {
        self.lock().targets.remove(token)
    }
}

impl Inner {
    fn expire(&mut self) {
        let now = Instant::now();
        while let Some((at, token)) = self.expiry.front() {
            if *at > now && self.targets.contains_key(token) {
                break;
            }
            self.targets.remove(token);
            self.expiry.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Target {
        Target::PortForward { pod: "p".into(), ports: Vec::new() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_token_is_good_once_and_for_a_minute() {
        let tokens = Tokens::default();
        let token = tokens.insert(target()).unwrap();
        assert_eq!(token.len(), 64);
        assert_eq!(tokens.take(&token), Some(target()));
        assert_eq!(tokens.take(&token), None);
        let token = tokens.insert(target()).unwrap();
        tokio::time::advance(LIFETIME).await;
        assert_eq!(tokens.take(&token), None);
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_counted() {
        let tokens = Tokens::default();
        let all: Vec<_> = (0..MAX).map(|_| tokens.insert(target()).unwrap()).collect();
        assert_eq!(tokens.insert(target()), Err(Full::TooMany));
        assert!(tokens.take(&all[500]).is_some());
        assert!(tokens.insert(target()).is_ok());
        assert_eq!(tokens.insert(target()), Err(Full::TooMany));
        tokio::time::advance(LIFETIME).await;
        assert!(tokens.insert(target()).is_ok());
        assert_eq!(tokens.lock().targets.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn used_tokens_do_not_pile_up() {
        let tokens = Tokens::default();
        for _ in 0..10 * MAX {
            let token = tokens.insert(target()).unwrap();
            tokens.take(&token);
        }
        assert!(tokens.lock().expiry.is_empty());
    }
}
