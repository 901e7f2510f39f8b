//! Who asks: credentials as the CRI gives them, and the tokens they are exchanged for.
//!
//! A registry answers 401 with a challenge. `Basic` gets the password; `Bearer` names a token server, which is
//! asked with the password (GET, and POST where it does not take that) or with the identity token (POST, OAuth2's
//! refresh_token), or anonymously.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Url;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use super::challenge::Challenge;

/// What a registry is shown. Secrets are not in its `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Credentials {
    pub username: String,
    pub password: String,
    /// A refresh token for the token server.
    pub identity_token: String,
    /// A bearer token for the registry itself.
    pub registry_token: String,
    /// The registry they are for, as host or URL; empty: whichever is pulled from.
    pub server: String,
}

/// Credentials that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadCredentials {
    #[error("auth.auth is not base64 of \"user:password\"")]
    Auth,
    #[error("auth.{field} has {len} bytes, more than the 64 KiB that any credential has")]
    TooLong { field: &'static str, len: usize },
    #[error("auth.{field} has a line break or another control character")]
    Control { field: &'static str },
}

const FIELD_MAX: usize = 64 * 1024;

impl Credentials {
    /// From the fields of the CRI's `AuthConfig`; `auth` is base64 of "user:password" and fills in where those
    /// are empty. `None` when nothing is given.
    ///
    /// # Errors
    /// When a field cannot be a credential; it is named, its value is not.
    pub fn new(mut self, auth: &str) -> Result<Option<Self>, BadCredentials> {
        if self.username.is_empty() && !auth.is_empty() && auth.len() <= FIELD_MAX {
            let padded = auth.trim().trim_end_matches('=');
            let engine = base64::engine::general_purpose::STANDARD_NO_PAD;
            let decoded = engine.decode(padded).map_err(|_| BadCredentials::Auth)?;
            let text = String::from_utf8(decoded).map_err(|_| BadCredentials::Auth)?;
            let (user, password) = text.split_once(':').ok_or(BadCredentials::Auth)?;
            self.username = user.to_owned();
            self.password = password.trim_matches('\0').to_owned();
        }
        let fields = [
            ("username", &self.username),
            ("password", &self.password),
            ("identity_token", &self.identity_token),
            ("registry_token", &self.registry_token),
            ("server_address", &self.server),
        ];
        for (field, value) in fields {
            if value.len() > FIELD_MAX {
                return Err(BadCredentials::TooLong { field, len: value.len() });
            }
            if value.chars().any(char::is_control) {
                return Err(BadCredentials::Control { field });
            }
        }
        if auth.len() > FIELD_MAX {
            return Err(BadCredentials::TooLong { field: "auth", len: auth.len() });
        }
        let given = fields[..4].iter().any(|(_, value)| !value.is_empty());
        Ok(given.then_some(self))
    }

    /// Whether they are for a host.
    pub(super) fn are_for(&self, authority: &str) -> bool {
        if self.server.is_empty() {
            return true;
        }
        let server = self.server.split_once("://").map_or(self.server.as_str(), |(_, rest)| rest);
        let server = server.split('/').next().unwrap_or_default();
        let docker = |host: &str| matches!(host, "docker.io" | "index.docker.io" | "registry-1.docker.io");
        server == authority || (docker(server) && docker(authority))
    }

    fn basic(&self) -> Option<HeaderValue> {
        (!self.username.is_empty()).then_some(())?;
        secret(&format!("Basic {}", STANDARD.encode(format!("{}:{}", self.username, self.password))))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if !self.registry_token.is_empty() {
            "registry token"
        } else if !self.identity_token.is_empty() {
            "identity token"
        } else {
            "password"
        };
        write!(f, "Credentials({kind} of {:?} for {:?})", self.username, self.server)
    }
}

/// A header's value that is not printed.
fn secret(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

pub(super) fn bearer(token: &str) -> Option<HeaderValue> {
    secret(&format!("Bearer {token}"))
}

/// What to do about a challenge.
#[derive(Debug, Clone)]
pub(super) enum Plan {
    /// This header answers it.
    Header(HeaderValue),
    Token(TokenServer),
}

/// Where a token is to be had, and what for.
#[derive(Debug, Clone)]
pub(super) struct TokenServer {
    pub realm: Url,
    service: String,
    scope: String,
}

/// Chooses among the challenges of a 401: a token before a password. `None`: nothing to answer with.
pub(super) fn plan(
    challenges: &[Challenge],
    credentials: Option<&Credentials>,
    repository: &str,
) -> Result<Option<Plan>, String> {
    if let Some(challenge) = challenges.iter().find(|c| c.scheme == "bearer") {
        if let Some(token) = credentials.map(|c| c.registry_token.as_str()).filter(|t| !t.is_empty()) {
            return Ok(bearer(token).map(Plan::Header));
        }
        let realm = challenge.get("realm").unwrap_or_default();
        let realm = Url::parse(realm).map_err(|e| format!("its token server {realm:?} is no URL: {e}"))?;
        let own = format!("repository:{repository}:pull");
        let scope = challenge.get("scope").filter(|scope| !scope.is_empty()).unwrap_or(&own).to_owned();
        let service = challenge.get("service").unwrap_or_default().to_owned();
        return Ok(Some(Plan::Token(TokenServer { realm, service, scope })));
    }
    if challenges.iter().any(|c| c.scheme == "basic") {
        return Ok(credentials.and_then(Credentials::basic).map(Plan::Header));
    }
    Ok(None)
}

/// One way to ask a token server.
#[derive(Debug)]
pub(super) struct TokenRequest {
    pub url: Url,
    pub authorization: Option<HeaderValue>,
    /// POST, with this form.
    pub form: Option<String>,
    pub secret: bool,
}

impl TokenServer {
    /// The ways to ask it, best first; the next is for a server that does not know the one before.
    pub(super) fn requests(&self, credentials: Option<&Credentials>) -> Vec<TokenRequest> {
        let scopes = self.scope.split(' ').filter(|s| !s.is_empty());
        let get = |account: Option<&Credentials>| {
            let mut url = self.realm.clone();
            {
                let mut query = url.query_pairs_mut();
                if !self.service.is_empty() {
                    query.append_pair("service", &self.service);
                }
                for scope in scopes.clone() {
                    query.append_pair("scope", scope);
                }
                if let Some(account) = account {
                    query.append_pair("account", &account.username);
                }
            }
            let authorization = account.and_then(Credentials::basic);
            TokenRequest { url, secret: authorization.is_some(), authorization, form: None }
        };
        let post = |grant: &[(&str, &str)]| {
            let mut form = Url::parse("form:/").map(|mut url| {
                url.query_pairs_mut()
                    .extend_pairs(grant)
                    .append_pair("service", &self.service)
                    .append_pair("scope", &self.scope)
                    .append_pair("client_id", "sandboxd");
                url.query().unwrap_or_default().to_owned()
            });
            let form = form.as_mut().map(std::mem::take).unwrap_or_default();
            TokenRequest { url: self.realm.clone(), authorization: None, form: Some(form), secret: true }
        };
        match credentials {
            Some(c) if !c.identity_token.is_empty() => {
                vec![post(&[("grant_type", "refresh_token"), ("refresh_token", &c.identity_token)])]
            }
            Some(c) if !c.username.is_empty() => vec![
                get(Some(c)),
                post(&[
                    ("grant_type", "password"),
                    ("username", &c.username),
                    ("password", &c.password),
                    ("access_type", "offline"),
                ]),
            ],
            _ => vec![get(None)],
        }
    }
}

/// A token server's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl TokenAnswer {
    pub(super) fn header(&self) -> Option<HeaderValue> {
        let token = if self.token.is_empty() { &self.access_token } else { &self.token };
        if token.is_empty() { None } else { bearer(token) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::challenge;

    fn user() -> Credentials {
        Credentials { username: "u".into(), password: "p:q".into(), ..Credentials::default() }
    }

    #[test]
    fn the_auth_field() {
        let read = |auth: &str| Credentials::default().new(auth);
        assert_eq!(read("dTpwOnE=").expect("good"), Some(user()));
        assert_eq!(read("dTpwOnE").expect("without its padding"), Some(user()));
        assert_eq!(read("").expect("nothing"), None);
        assert_eq!(read("!").expect_err("no base64"), BadCredentials::Auth);
        assert_eq!(read("dQ==").expect_err("no colon"), BadCredentials::Auth);
        let bad = Credentials { username: "a\r\nb".into(), ..Credentials::default() };
        assert_eq!(bad.new("").expect_err("injection"), BadCredentials::Control { field: "username" });
    }

    #[test]
    fn whom_they_are_for() {
        let of = |server: &str| Credentials { server: server.into(), ..user() };
        assert!(of("").are_for("x.example"));
        assert!(of("https://x.example/v1/").are_for("x.example"));
        assert!(of("https://index.docker.io/v1/").are_for("registry-1.docker.io"));
        assert!(!of("x.example").are_for("y.example"));
        assert!(!of("x.example").are_for("x.example:5000"));
    }

    #[test]
    fn secrets_are_not_printed() {
        let printed = format!("{:?}", user());
        assert!(!printed.contains("p:q"), "{printed}");
    }

    #[test]
    fn bearer_before_basic() {
        let challenges =
            challenge::parse(r#"Basic realm="x", Bearer realm="https://a.example/t?x=1",service="s y""#);
        let Ok(Some(Plan::Token(server))) = plan(&challenges, Some(&user()), "a/b") else {
            panic!("a token server")
        };
        let requests = server.requests(Some(&user()));
        assert_eq!(
            requests[0].url.as_str(),
            "https://a.example/t?x=1&service=s+y&scope=repository%3Aa%2Fb%3Apull&account=u"
        );
        assert!(requests[0].authorization.is_some() && requests[0].form.is_none());
        assert!(
            requests[1].form.as_deref().is_some_and(|f| f.starts_with("grant_type=password&username=u&"))
        );
        let token = Credentials { identity_token: "t".into(), ..Credentials::default() };
        let requests = server.requests(Some(&token));
        assert_eq!(requests.len(), 1);
        assert!(requests[0].form.as_deref().is_some_and(|f| f.contains("refresh_token=t")));
        assert!(server.requests(None)[0].authorization.is_none());
    }
}
