//! What several of the tests ask.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use sandboxd_tests::node::Options;
use sandboxd_tests::patience::patient;
use serde_json::json;
use tonic::{Code, Status};

/// A status with this code, whose message has all of these words.
pub fn refused<T: std::fmt::Debug>(result: Result<T, Status>, code: Code, words: &[&str]) -> Result<()> {
    match result {
        Ok(value) => bail!("was accepted ({value:?}), should be {code:?} with {words:?}"),
        Err(status) => {
            ensure!(status.code() == code, "{:?}, should be {code:?}: {}", status.code(), status.message());
            let message = status.message().to_lowercase();
            for word in words {
                ensure!(message.contains(&word.to_lowercase()), "no {word:?} in: {}", status.message());
            }
            Ok(())
        }
    }
}

/// Asks until the answer is yes.
pub async fn eventually(what: &str, mut yes: impl AsyncFnMut() -> Result<bool>) -> Result<()> {
    let patience = patient(Duration::from_secs(10));
    let end = Instant::now() + patience;
    while !yes().await? {
        ensure!(Instant::now() < end, "not within {} s: {what}", patience.as_secs());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// The plugin `cni-fault` at the end of the chain; `control` steers it (see its own documentation).
pub fn faulty(control: &std::path::Path) -> Options {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_cni-fault"));
    Options {
        plugin: Some((json!({ "type": "cni-fault", "control": control }), program)),
        ..Options::default()
    }
}
