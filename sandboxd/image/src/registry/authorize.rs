//! Requests with authorization: what a host challenges, and the token servers it sends to.

use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode};

use super::auth::{self, Credentials, Plan, TokenAnswer, TokenRequest, TokenServer};
use super::challenge;
use super::client::Registry;
use super::error::RegistryError;
use super::host::Host;
use super::hosts::authority;
use super::tries::Tries;

/// What is read of a token.
const TOKEN_MAX: u64 = 1 << 20;

impl Registry {
    /// One request at one host, with authorization: an answer of 200 or 206.
    pub(super) async fn ask(
        &self,
        host: &Host,
        what: &str,
        path: &str,
        headers: &HeaderMap,
    ) -> Result<Response, RegistryError> {
        let url = host.url(&self.repository, path);
        let mut shown = {
            let mut known = host.authorization.lock().await;
            if known.is_none() {
                known.clone_from(&self.upfront(host)?);
            }
            known.clone()
        };
        let mut asked = 0;
        loop {
            let response =
                self.follow(host, what, Method::GET, url.clone(), headers, shown.as_ref(), None).await?;
            if response.status() != StatusCode::UNAUTHORIZED || asked == 2 {
                return self.checked(response, what, &host.endpoint.authority()).await;
            }
            asked += 1;
            let mut known = host.authorization.lock().await;
            // Somebody else may have got a token meanwhile.
            if *known != shown && known.is_some() {
                shown.clone_from(&known);
                continue;
            }
            let Some(next) = self.authorize(host, what, &response).await? else {
                drop(known);
                return self.checked(response, what, &host.endpoint.authority()).await;
            };
            if shown.as_ref() == Some(&next) {
                drop(known);
                return self.checked(response, what, &host.endpoint.authority()).await;
            }
            *known = Some(next.clone());
            shown = Some(next);
        }
    }

    /// The credentials a host may see.
    fn credentials_for(&self, host: &Host) -> Option<&Credentials> {
        let credentials = self.credentials.as_ref()?;
        let at = host.endpoint.authority();
        (credentials.are_for(&at) || credentials.are_for(&self.domain) && !host.endpoint.is_mirror)
            .then_some(credentials)
    }

    /// A registry token is shown without being asked for.
    fn upfront(&self, host: &Host) -> Result<Option<HeaderValue>, RegistryError> {
        let token = self.credentials_for(host).map(|c| c.registry_token.as_str()).filter(|t| !t.is_empty());
        let Some(token) = token else { return Ok(None) };
        host.may_see_secrets(&host.endpoint.base)?;
        Ok(auth::bearer(token))
    }

    async fn authorize(
        &self,
        host: &Host,
        what: &str,
        response: &Response,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        let challenges: Vec<_> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(challenge::parse)
            .collect();
        let credentials = self.credentials_for(host);
        let bad = |detail| RegistryError::BadAnswer {
            what: what.to_owned(),
            host: host.endpoint.authority(),
            detail,
        };
        match auth::plan(&challenges, credentials, &self.repository).map_err(bad)? {
            None => Ok(None),
            Some(Plan::Header(header)) => {
                host.may_see_secrets(&host.endpoint.base)?;
                Ok(Some(header))
            }
            Some(Plan::Token(server)) => self.token(host, what, &server, credentials).await.map(Some),
        }
    }

    /// Gets a token; a server that is busy is asked again.
    async fn token(
        &self,
        host: &Host,
        what: &str,
        server: &TokenServer,
        credentials: Option<&Credentials>,
    ) -> Result<HeaderValue, RegistryError> {
        let what = format!("a token for {what}");
        let at = authority(&server.realm);
        let mut last = None;
        for request in server.requests(credentials) {
            if request.secret {
                host.may_see_secrets(&request.url)?;
            }
            let mut tries = Tries::new(self, host);
            loop {
                match self.token_once(host, &what, &request).await {
                    Ok(header) => return Ok(header),
                    Err(error) if error.is_passing() => tries.wait_or_fail(error).await?,
                    // It does not know this way of asking; or, as some do, says 401 or 400 to it.
                    Err(error) => {
                        last.get_or_insert(error);
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or(RegistryError::Unauthorized {
            what,
            host: at,
            detail: "no way to ask".to_owned(),
        }))
    }

    async fn token_once(
        &self,
        host: &Host,
        what: &str,
        request: &TokenRequest,
    ) -> Result<HeaderValue, RegistryError> {
        let method = if request.form.is_some() { Method::POST } else { Method::GET };
        let (url, authorization) = (request.url.clone(), request.authorization.as_ref());
        let form = request.form.as_deref();
        let response = self.follow(host, what, method, url, &HeaderMap::new(), authorization, form).await?;
        let at = authority(&request.url);
        let response = self.checked(response, what, &at).await.map_err(|error| match error {
            // A token server's words for "not with these credentials".
            RegistryError::Refused { what, host, status: 400 | 404 | 405, detail } => {
                RegistryError::Unauthorized { what, host, detail }
            }
            other => other,
        })?;
        let bytes = self.body(response, what, at.clone(), TOKEN_MAX).await?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        answer.and_then(|answer| answer.header()).ok_or_else(|| RegistryError::BadAnswer {
            what: what.to_owned(),
            host: at,
            detail: "it has neither \"token\" nor \"access_token\"".to_owned(),
        })
    }
}
