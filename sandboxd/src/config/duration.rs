//! Durations as people write them: "90s", "2m", "1m 30s" (jiff's friendly format).

use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Deserializer, Serializer};

pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    let signed = SignedDuration::try_from(*duration).map_err(serde::ser::Error::custom)?;
    serializer.collect_str(&format_args!("{signed:#}"))
}

pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    let signed: SignedDuration = text.parse().map_err(|e| {
        serde::de::Error::custom(format_args!("{text:?} is no duration such as \"90s\": {e}"))
    })?;
    Duration::try_from(signed)
        .map_err(|_| serde::de::Error::custom(format_args!("{text:?} is negative: write \"90s\" or \"2m\"")))
}
