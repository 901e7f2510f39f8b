//! Versions of the CNI specification, and what each brought.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version of the CNI specification this client speaks.
///
/// Older ones are refused by name: their results (`ip4`, `ip6`) cannot carry a dual-stack pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CniVersion {
    #[serde(rename = "0.3.1")]
    V0_3_1,
    /// CHECK, and `prevResult` on DEL.
    #[serde(rename = "0.4.0")]
    V0_4_0,
    /// `ips[].version` is gone.
    #[serde(rename = "1.0.0")]
    V1_0_0,
    /// GC, STATUS, `cniVersions`.
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl CniVersion {
    pub(super) const SUPPORTED: &'static str = "0.3.1, 0.4.0, 1.0.0, 1.1.0";
    pub(super) const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// The version of that name; `None`: not one this client speaks.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.name() == text)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    #[must_use]
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// Whether DEL gets the result of ADD.
    #[must_use]
    pub fn del_has_prev_result(self) -> bool {
        self >= Self::V0_4_0
    }

    #[must_use]
    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }
}

impl fmt::Display for CniVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
