//! The state of the connection, as the screen shows it.

/// Where the data comes from, and whether it still does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    Connecting,
    Live,
    /// Between two attempts.
    Waiting {
        reason: String,
        /// When data stopped coming, where some ever came.
        lost_at_ns: Option<i64>,
        retry_at_ns: i64,
    },
    Replay,
    Ended,
}

impl Link {
    /// Whether what is on the screen may be out of date.
    pub fn is_stale(&self) -> bool {
        matches!(self, Self::Connecting | Self::Waiting { .. })
    }
}
