//! From a request to its session.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::OwnedSemaphorePermit;

use super::handshake::{Offered, refusal, upgrade};
use super::{Urls, session};
use crate::backend::Target;
use crate::{forward, remote};

/// What a path serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Exec,
    Attach,
    PortForward,
}

impl Kind {
    pub(super) fn of(target: &Target) -> Self {
        match target {
            Target::Exec { .. } => Self::Exec,
            Target::Attach { .. } => Self::Attach,
            Target::PortForward { .. } => Self::PortForward,
        }
    }

    pub(super) fn path(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }

    fn offered(self) -> Offered {
        match self {
            Self::Exec | Self::Attach => Offered {
                spdy: &[remote::V5, remote::V4, remote::V3, remote::V2, remote::V1],
                websocket: &remote::SUBPROTOCOLS,
                unnamed: remote::V1,
                tunnel: &[],
            },
            Self::PortForward => Offered {
                spdy: &[forward::PROTOCOL],
                websocket: &forward::SUBPROTOCOLS,
                unnamed: forward::SUBPROTOCOLS[0],
                tunnel: &[forward::PROTOCOL],
            },
        }
    }
}

/// Takes the token, agrees on a protocol and starts the session.
pub(super) fn answer(
    state: &Arc<Urls>,
    mut request: Request<Incoming>,
    place: Arc<OwnedSemaphorePermit>,
) -> Response<String> {
    if request.method() != Method::GET && request.method() != Method::POST {
        return refusal(StatusCode::METHOD_NOT_ALLOWED, "GET and POST are served here");
    }
    let Some(mut target) = target(state, request.uri().path()) else {
        let text = "no such streaming URL: it was used already, has expired, or never was";
        return refusal(StatusCode::NOT_FOUND, text);
    };
    let (spoken, response) = match upgrade(request.headers(), Kind::of(&target).offered()) {
        Ok(agreed) => agreed,
        Err(refused) => return *refused,
    };
    if let Target::PortForward { ports, .. } = &mut target
        && ports.is_empty()
    {
        match asked_ports(request.uri().query().unwrap_or_default()) {
            Ok(asked) => *ports = asked,
            Err(text) => return refusal(StatusCode::BAD_REQUEST, &text),
        }
    }
    let upgraded = hyper::upgrade::on(&mut request);
    let session = session::run(Arc::clone(state), upgraded, spoken, target);
    state.sessions.spawn(async move {
        session.await;
        drop(place);
    });
    response
}

fn target(state: &Urls, path: &str) -> Option<Target> {
    let (kind, token) = path.strip_prefix('/')?.split_once('/')?;
    let target = state.tokens.take(token)?;
    (Kind::of(&target).path() == kind).then_some(target)
}

/// `port=80&port=81,82`: WebSocket clients say in the query what they want forwarded.
fn asked_ports(query: &str) -> Result<Vec<u16>, String> {
    query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("port="))
        .flat_map(|list| list.split(',').flat_map(|text| text.split("%2C")))
        .map(|text| match text.parse() {
            Ok(0) | Err(_) => Err(format!("port {text:?} in the query is no port: give 1 to 65535")),
            Ok(port) => Ok(port),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_of_a_query() {
        assert_eq!(asked_ports(""), Ok(vec![]));
        assert_eq!(asked_ports("a=b&port=80&port=81,82"), Ok(vec![80, 81, 82]));
        assert_eq!(asked_ports("port=1%2C2"), Ok(vec![1, 2]));
        assert!(asked_ports("port=0").is_err());
        assert!(asked_ports("port=70000").unwrap_err().contains("70000"));
    }
}
