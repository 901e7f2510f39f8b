//! One host that serves a repository: its client, its URLs, who may see a secret.

use std::time::Duration;

use reqwest::header::HeaderValue;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use tokio::sync::Mutex;

use super::error::{RegistryError, transport};
use super::hosts::{Endpoint, authority};
use super::{HttpSettings, is_loopback, tls};

const USER_AGENT: &str = concat!("sandboxd/", env!("CARGO_PKG_VERSION"));

#[derive(Debug)]
pub(super) struct Host {
    pub(super) endpoint: Endpoint,
    pub(super) client: Client,
    /// What was accepted last; one asks for a token while the others wait.
    pub(super) authorization: Mutex<Option<HeaderValue>>,
}

impl Host {
    pub(super) fn new(endpoint: Endpoint, settings: &HttpSettings) -> Result<Self, RegistryError> {
        let failed = |detail| RegistryError::Tls { host: endpoint.authority(), detail };
        let mut builder = Client::builder()
            .user_agent(USER_AGENT)
            .redirect(Policy::none())
            .connect_timeout(endpoint.dial_timeout.unwrap_or(settings.connect_timeout))
            .pool_idle_timeout(Duration::from_secs(30));
        // Plain http: redirects may still lead to https.
        builder = builder.tls_backend_preconfigured(tls::config(&endpoint).map_err(failed)?);
        if endpoint.base.host_str().is_some_and(is_loopback) {
            builder = builder.no_proxy();
        }
        let client = builder.build().map_err(|e| failed(transport(e).to_string()))?;
        Ok(Self { endpoint, client, authorization: Mutex::default() })
    }

    pub(super) fn url(&self, repository: &str, path: &str) -> Url {
        let mut url = self.endpoint.base.clone();
        let base = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{base}/{repository}/{path}"));
        if let Some(namespace) = &self.endpoint.namespace {
            url.query_pairs_mut().append_pair("ns", namespace);
        }
        url
    }

    /// Secrets go over TLS, to this machine, or over plain http to a host that was configured for it by name.
    pub(super) fn may_see_secrets(&self, url: &Url) -> Result<(), RegistryError> {
        let same_host = url.host_str() == self.endpoint.base.host_str();
        let fine = url.scheme() == "https"
            || url.host_str().is_some_and(is_loopback)
            || (same_host && self.endpoint.plain_chosen);
        if fine { Ok(()) } else { Err(RegistryError::PlainCredentials { host: authority(url) }) }
    }
}
