//! Whether an image may be used: asked when its digest is known, before a layer comes.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use serde::Deserialize;

use crate::content::Digest;
use crate::reference::Reference;

/// Says which images are trusted. What it refuses is told to kubelet as `SignatureValidationFailed`.
#[async_trait]
pub trait SignaturePolicy: fmt::Debug + Send + Sync {
    /// `digest` is what the reference came to at the registry: an index's or a manifest's.
    ///
    /// # Errors
    /// With the reason, when the image may not be used.
    async fn check(&self, reference: &Reference, digest: &Digest) -> Result<(), String>;
}

/// A policy file in the form of containers-policy.json(5), as far as it needs no keys:
///
/// ```json
/// { "default": [{"type": "reject"}],
///   "transports": {"docker": {"registry.example/team": [{"type": "insecureAcceptAnything"}]}} }
/// ```
/// The longest scope that fits decides: a reference, a repository, a path above it, a registry,
/// "*.example.org", or "" for all of docker's. Every requirement of the scope has to be met.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyFile {
    default: Vec<Requirement>,
    #[serde(default)]
    transports: std::collections::BTreeMap<String, Scopes>,
    #[serde(skip)]
    path: PathBuf,
}

type Scopes = std::collections::BTreeMap<String, Vec<Requirement>>;

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Requirement {
    r#type: String,
}

/// A policy file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadPolicy {
    #[error("reading the signature policy {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the signature policy {path} is not valid")]
    Parse {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "the signature policy {path}: {scope}: type {kind:?} is not one of \"reject\" and \
         \"insecureAcceptAnything\", which is what this version of sandboxd can check"
    )]
    Kind { path: PathBuf, scope: String, kind: String },
    #[error(
        "the signature policy {path}: {scope}: no requirement; write [{{\"type\": \"reject\"}}] to refuse"
    )]
    Empty { path: PathBuf, scope: String },
}

const ACCEPT: &str = "insecureAcceptAnything";
const REJECT: &str = "reject";

impl PolicyFile {
    /// Reads a policy.
    ///
    /// # Errors
    /// When it cannot be read, or asks for what cannot be checked: a policy is never taken in part.
    pub fn read(path: &Path) -> Result<Self, BadPolicy> {
        let text = std::fs::read(path).map_err(|source| BadPolicy::Read { path: path.to_owned(), source })?;
        let mut this: Self = serde_json::from_slice(&text)
            .map_err(|source| BadPolicy::Parse { path: path.to_owned(), source })?;
        path.clone_into(&mut this.path);
        let scopes = this.transports.iter().flat_map(|(transport, scopes)| {
            scopes.iter().map(move |(scope, list)| (format!("transports.{transport}.{scope:?}"), list))
        });
        for (scope, requirements) in std::iter::once(("default".to_owned(), &this.default)).chain(scopes) {
            if requirements.is_empty() {
                return Err(BadPolicy::Empty { path: path.to_owned(), scope });
            }
            if let Some(other) = requirements.iter().find(|r| r.r#type != ACCEPT && r.r#type != REJECT) {
                let kind = other.r#type.clone();
                return Err(BadPolicy::Kind { path: path.to_owned(), scope, kind });
            }
        }
        Ok(this)
    }

    /// The scope that decides, and what it asks.
    fn deciding(&self, reference: &Reference) -> (String, &[Requirement]) {
        let docker = self.transports.get("docker");
        let mut found = scopes_of(reference).into_iter().filter_map(|scope| docker?.get_key_value(&scope));
        match found.next() {
            Some((scope, requirements)) => (scope.clone(), requirements),
            None => ("default".to_owned(), &self.default),
        }
    }
}

/// From the narrowest to the widest.
fn scopes_of(reference: &Reference) -> Vec<String> {
    let mut scopes = vec![reference.to_string()];
    let mut scope = reference.repository();
    loop {
        scopes.push(scope.clone());
        match scope.rfind('/') {
            Some(at) => scope.truncate(at),
            None => break,
        }
    }
    let mut host = reference.domain().split(':').next().unwrap_or_default();
    while let Some((_, rest)) = host.split_once('.') {
        scopes.push(format!("*.{rest}"));
        host = rest;
    }
    scopes.push(String::new());
    scopes
}

#[async_trait]
impl SignaturePolicy for PolicyFile {
    async fn check(&self, reference: &Reference, digest: &Digest) -> Result<(), String> {
        let (scope, requirements) = self.deciding(reference);
        if requirements.iter().all(|r| r.r#type == ACCEPT) {
            return Ok(());
        }
        let path = self.path.display();
        Err(format!("{digest} is rejected by the scope {scope:?} of {path}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<PolicyFile, BadPolicy> {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("policy.json");
        std::fs::write(&path, text).expect("written");
        PolicyFile::read(&path)
    }

    #[tokio::test]
    async fn the_narrowest_scope_decides() {
        let policy = policy(
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{
                "good.example":[{"type":"insecureAcceptAnything"}],
                "good.example/bad":[{"type":"reject"}],
                "good.example/bad/but:1":[{"type":"insecureAcceptAnything"}],
                "*.wild.example":[{"type":"insecureAcceptAnything"}]}}}"#,
        )
        .expect("valid");
        let digest = Digest::of(b"");
        for (reference, fine) in [
            ("good.example/a:1", true),
            ("good.example/bad/x:1", false),
            ("good.example/badly:1", true),
            ("good.example/bad/but:1", true),
            ("a.b.wild.example/x", true),
            ("wild.example/x", false),
            ("busybox", false),
        ] {
            let outcome = policy.check(&reference.parse().expect(reference), &digest).await;
            assert_eq!(outcome.is_ok(), fine, "{reference}: {outcome:?}");
        }
    }

    #[test]
    fn what_cannot_be_checked_is_refused() {
        let error = policy(r#"{"default":[{"type":"signedBy","keyType":"GPGKeys"}]}"#).expect_err("keys");
        assert!(error.to_string().contains("signedBy"), "{error}");
        assert!(policy(r#"{"default":[]}"#).is_err());
        assert!(policy("{}").is_err());
    }
}
