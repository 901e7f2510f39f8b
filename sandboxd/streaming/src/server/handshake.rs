//! Which protocol a request asks for, and the words for what cannot be had.

use hyper::header::{self, HeaderMap, HeaderName};
use hyper::{Response, StatusCode};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::spdy;

const VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");
/// Before the name of a SPDY protocol in a WebSocket subprotocol: the first through the second.
const TUNNEL: &str = "SPDY/3.1+";

/// What is spoken after the upgrade.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Spoken {
    Spdy(&'static str),
    WebSocket(&'static str),
    /// SPDY through a WebSocket.
    Tunnel(&'static str),
}

/// What a route speaks, best first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offered {
    pub(super) spdy: &'static [&'static str],
    pub(super) websocket: &'static [&'static str],
    /// For a client that names no subprotocol.
    pub(super) unnamed: &'static str,
    pub(super) tunnel: &'static [&'static str],
}

/// The 101 with what it agrees to, or the refusal.
pub(super) type Agreement = Result<(Spoken, Response<String>), Box<Response<String>>>;

/// Agrees on a protocol.
pub(super) fn upgrade(headers: &HeaderMap, offered: Offered) -> Agreement {
    if !listed(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return Err(Box::new(refusal(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: the request has no header Connection: Upgrade",
        )));
    }
    let wanted: Vec<_> = listed(headers, &header::UPGRADE).collect();
    if wanted.iter().any(|name| name.eq_ignore_ascii_case("websocket")) {
        websocket(headers, offered)
    } else if wanted.iter().any(|name| name.eq_ignore_ascii_case(spdy::NAME)) {
        spdy(headers, offered)
    } else {
        let text = format!("unable to upgrade to {wanted:?}: {} and websocket are spoken here", spdy::NAME);
        Err(Box::new(refusal(StatusCode::BAD_REQUEST, &text)))
    }
}

fn spdy(headers: &HeaderMap, offered: Offered) -> Agreement {
    let wanted: Vec<_> = listed(headers, &VERSION).collect();
    if wanted.is_empty() {
        let text = "unable to upgrade: X-Stream-Protocol-Version is required";
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, text)));
    }
    let Some(protocol) = common(&wanted, offered.spdy) else {
        let text = format!(
            "unable to upgrade: unable to negotiate protocol: client supports {wanted:?}, server accepts {:?}",
            offered.spdy
        );
        let mut response = refusal(StatusCode::FORBIDDEN, &text);
        for name in offered.spdy {
            response.headers_mut().append(ACCEPTED, header::HeaderValue::from_static(name));
        }
        return Err(Box::new(response));
    };
    let mut response = switching(spdy::NAME);
    response.headers_mut().insert(VERSION, header::HeaderValue::from_static(protocol));
    Ok((Spoken::Spdy(protocol), response))
}

fn websocket(headers: &HeaderMap, offered: Offered) -> Agreement {
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        let mut response =
            refusal(StatusCode::UPGRADE_REQUIRED, "Sec-WebSocket-Version: only 13 is spoken here");
        response.headers_mut().insert(header::SEC_WEBSOCKET_VERSION, header::HeaderValue::from_static("13"));
        return Err(Box::new(response));
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err(Box::new(refusal(StatusCode::BAD_REQUEST, "Sec-WebSocket-Key is missing")));
    };
    let wanted: Vec<_> = listed(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    // The client's order counts: it names what it likes best first.
    let chosen = wanted.iter().find_map(|name| {
        if let Some(inner) = name.strip_prefix(TUNNEL) {
            return known(inner, offered.tunnel).map(Spoken::Tunnel);
        }
        known(name, offered.websocket).map(Spoken::WebSocket)
    });
    let spoken = match chosen {
        Some(spoken) => spoken,
        None if wanted.is_empty() => Spoken::WebSocket(offered.unnamed),
        None => {
            let text = format!(
                "requested protocol(s) are not supported: {wanted:?}; supports {:?}",
                offered.websocket
            );
            return Err(Box::new(refusal(StatusCode::FORBIDDEN, &text)));
        }
    };
    let mut response = switching("websocket");
    let named = match spoken {
        _ if wanted.is_empty() => None,
        Spoken::Tunnel(inner) => header::HeaderValue::try_from(format!("{TUNNEL}{inner}")).ok(),
        Spoken::Spdy(name) | Spoken::WebSocket(name) => Some(header::HeaderValue::from_static(name)),
    };
    if let Some(named) = named {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, named);
    }
    // Base64 is always a header's value.
    if let Ok(accept) = header::HeaderValue::try_from(derive_accept_key(key.as_bytes())) {
        response.headers_mut().insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    }
    Ok((spoken, response))
}

/// The values of a header that is a list, over all its lines.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|value| !value.is_empty())
}

fn known(name: &str, ours: &'static [&'static str]) -> Option<&'static str> {
    ours.iter().copied().find(|our| *our == name)
}

/// The client's order counts.
fn common(wanted: &[&str], ours: &'static [&'static str]) -> Option<&'static str> {
    wanted.iter().find_map(|name| known(name, ours))
}

fn switching(to: &'static str) -> Response<String> {
    let mut response = Response::new(String::new());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, header::HeaderValue::from_static(to));
    response
}

/// A refusal in words.
pub(super) fn refusal(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    // A connection's place is for one request. It is said here only: beside an upgrade, Go's client would throw the
    // whole header away.
    headers.insert(header::CONNECTION, header::HeaderValue::from_static("close"));
    response
}
