//! Why a registry did not give what it was asked for.

use std::time::Duration;

use super::BadHosts;

/// What happened at the host named in each.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("{what} is not found at {host}")]
    NotFound { what: String, host: String },
    #[error("{host} wants other credentials for {what}: {detail}")]
    Unauthorized { what: String, host: String, detail: String },
    #[error("{host} denies {what}: {detail}")]
    Denied { what: String, host: String, detail: String },
    /// The host is there, and has enough of us.
    #[error("{host} has had too many requests to answer {what}; it asks to wait {}", wait(*after))]
    TooMany { what: String, host: String, after: Option<Duration> },
    /// kubelet knows the first word.
    #[error("RegistryUnavailable: {host} does not answer for {what}")]
    Unavailable {
        what: String,
        host: String,
        #[source]
        cause: Cause,
    },
    #[error("{host} answers {what} with {status}: {detail}")]
    Refused { what: String, host: String, status: u16, detail: String },
    #[error("{host} answers {what} with something else: {detail}")]
    BadAnswer { what: String, host: String, detail: String },
    #[error("{what} at {host} is larger than {limit} bytes")]
    TooLarge { what: String, host: String, limit: u64 },
    #[error(
        "credentials are not sent to {host} over plain http: use https, or name it as http:// in its hosts.toml"
    )]
    PlainCredentials { host: String },
    #[error("{host} redirects {what} from https to plain http ({to}), which is not followed")]
    Downgrade { what: String, host: String, to: String },
    #[error(
        "no host that serves {registry} may be asked for {what}: give one the capability {capability:?} in {registry}'s hosts.toml"
    )]
    NoHost { registry: String, what: String, capability: &'static str },
    #[error("setting up TLS to {host}: {detail}")]
    Tls { host: String, detail: String },
    #[error(transparent)]
    Hosts(#[from] BadHosts),
}

/// Why nothing usable came.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// `settled`: nobody is there, or TLS cannot be agreed on; that stays so for a while. `tls`: the host does
    /// speak TLS, and that was not to our, or its, liking.
    #[error("{text}")]
    Transport { text: String, settled: bool, tls: bool },
    /// `after`: when it wants to be asked again.
    #[error("status {status}: {detail}")]
    Status { status: u16, detail: String, after: Option<Duration> },
    #[error("no byte came for {0:?}")]
    Idle(Duration),
    #[error("its answer ended after {got} of {expected} bytes")]
    Truncated { got: u64, expected: u64 },
}

impl RegistryError {
    /// Whether asking the same host again may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unavailable { .. } | Self::TooMany { .. })
    }
}

fn wait(after: Option<Duration>) -> String {
    after.map_or_else(|| "a while".to_owned(), |after| format!("{after:?}"))
}

/// An error of the HTTP library and its causes, without the URL: that may carry a signature.
pub(super) fn transport(error: reqwest::Error) -> Cause {
    let error = error.without_url();
    let tls = of_tls(&error).is_some_and(|e| !matches!(e, rustls::Error::InvalidMessage(_)));
    Cause::Transport { text: crate::error::chain(&error), settled: is_settled(&error), tls }
}

/// What the TLS library said, where it did.
fn of_tls<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(error) = error.downcast_ref() {
        return Some(error);
    }
    let inner = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
    match inner {
        Some(inner) => of_tls(inner),
        None => error.source().and_then(of_tls),
    }
}

fn is_settled(error: &(dyn std::error::Error + 'static)) -> bool {
    if error.is::<rustls::Error>() {
        return true;
    }
    if let Some(io) = error.downcast_ref::<std::io::Error>() {
        if io.kind() == std::io::ErrorKind::ConnectionRefused {
            return true;
        }
        // An io::Error's source is that of the error in it: it leaves that one out.
        if let Some(inner) = io.get_ref() {
            return is_settled(inner);
        }
    }
    error.source().is_some_and(is_settled)
}
