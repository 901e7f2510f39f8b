//! One exchange with a host: redirects, deadlines, what an answer's status means, bounded bodies.

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, Response, Url};

use super::client::Registry;
use super::error::{Cause, RegistryError, transport};
use super::host::Host;
use super::hosts::authority;
use super::tries::retry_after;

const REDIRECTS: usize = 10;
/// What is read of an error's body.
const ERROR_MAX: u64 = 8 * 1024;

impl Registry {
    /// Sends a request and follows redirects. Authorization and the host's own headers go to the first origin
    /// only.
    #[expect(clippy::too_many_arguments, reason = "one call a kind of request, all private")]
    pub(super) async fn follow(
        &self,
        host: &Host,
        what: &str,
        method: Method,
        url: Url,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        form: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let (origin, mut url) = (url.origin(), url);
        for _ in 0..=REDIRECTS {
            let at = authority(&url);
            let mut request = host.client.request(method.clone(), url.clone()).headers(headers.clone());
            if url.origin() == origin {
                if url.origin() == host.endpoint.base.origin() {
                    request = request.headers(host.endpoint.header.clone());
                }
                if let Some(authorization) = authorization {
                    request = request.header(AUTHORIZATION, authorization);
                }
                if let Some(form) = form {
                    let kind = "application/x-www-form-urlencoded";
                    request = request.header(CONTENT_TYPE, kind).body(form.to_owned());
                }
            }
            let unavailable =
                |cause| RegistryError::Unavailable { what: what.to_owned(), host: at.clone(), cause };
            let response = match tokio::time::timeout(self.settings.idle_timeout, request.send()).await {
                Err(_) => return Err(unavailable(Cause::Idle(self.settings.idle_timeout))),
                Ok(Err(e)) => return Err(unavailable(transport(e))),
                Ok(Ok(response)) => response,
            };
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let bad =
                |detail: String| RegistryError::BadAnswer { what: what.to_owned(), host: at.clone(), detail };
            let to = response.headers().get(LOCATION).and_then(|v| v.to_str().ok());
            let to = to.ok_or_else(|| bad("a redirect that says not where to".to_owned()))?;
            let next = url.join(to).map_err(|e| bad(format!("it redirects to no URL: {e}")))?;
            match (url.scheme(), next.scheme()) {
                ("https", "http") => {
                    let to = authority(&next);
                    return Err(RegistryError::Downgrade { what: what.to_owned(), host: at, to });
                }
                (_, "http" | "https") => {}
                (_, other) => return Err(bad(format!("it redirects to {other}:"))),
            }
            if form.is_some() {
                return Err(bad("a token server that redirects a POST".to_owned()));
            }
            url = next;
        }
        let detail = format!("more than {REDIRECTS} redirects");
        Err(RegistryError::BadAnswer { what: what.to_owned(), host: host.endpoint.authority(), detail })
    }

    /// An answer of success, or what its status means.
    pub(super) async fn checked(
        &self,
        response: Response,
        what: &str,
        host: &str,
    ) -> Result<Response, RegistryError> {
        let status = response.status();
        if matches!(status.as_u16(), 200 | 206) {
            return Ok(response);
        }
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok()).and_then(retry_after);
        let (what, host) = (what.to_owned(), host.to_owned());
        let detail = self.detail(response).await;
        Err(match status.as_u16() {
            404 => RegistryError::NotFound { what, host },
            401 => RegistryError::Unauthorized { what, host, detail },
            403 => RegistryError::Denied { what, host, detail },
            429 => RegistryError::TooMany { what, host, after },
            408 | 500 | 502 | 503 | 504 => {
                let cause = Cause::Status { status: status.as_u16(), detail, after };
                RegistryError::Unavailable { what, host, cause }
            }
            status => RegistryError::Refused { what, host, status, detail },
        })
    }

    /// What a registry says of its error: `{"errors":[{"code":…,"message":…}]}`, or the beginning of its text.
    async fn detail(&self, mut response: Response) -> String {
        let mut bytes = Vec::new();
        while let Ok(Ok(Some(chunk))) =
            tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 >= ERROR_MAX {
                break;
            }
        }
        let json = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let member = |name: &str| {
            let found = json.as_ref().and_then(|j| j.pointer(&format!("/errors/0/{name}")));
            found.and_then(serde_json::Value::as_str).map(str::to_owned)
        };
        let text = match (member("code"), member("message")) {
            (Some(code), Some(message)) => format!("{code}: {message}"),
            (Some(text), None) | (None, Some(text)) => text,
            (None, None) => String::from_utf8_lossy(&bytes).trim().to_owned(),
        };
        let text: String = text.chars().filter(|c| !c.is_control()).take(300).collect();
        if text.is_empty() { "it does not say why".to_owned() } else { text }
    }

    pub(super) async fn body(
        &self,
        mut response: Response,
        what: &str,
        host: String,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let too_large = |host| RegistryError::TooLarge { what: what.to_owned(), host, limit };
        if response.content_length().is_some_and(|length| length > limit) {
            return Err(too_large(host));
        }
        let mut bytes = Vec::new();
        loop {
            let unavailable =
                |cause| RegistryError::Unavailable { what: what.to_owned(), host: host.clone(), cause };
            match tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await {
                Err(_) => return Err(unavailable(Cause::Idle(self.settings.idle_timeout))),
                Ok(Err(e)) => return Err(unavailable(transport(e))),
                Ok(Ok(None)) => return Ok(bytes),
                Ok(Ok(Some(chunk))) if (bytes.len() + chunk.len()) as u64 > limit => {
                    return Err(too_large(host));
                }
                Ok(Ok(Some(chunk))) => bytes.extend_from_slice(&chunk),
            }
        }
    }
}
